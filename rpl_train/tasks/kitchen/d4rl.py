"""Human recordings in D4RL's HDF5 layout, as demonstrations with position targets.

A file has `observations` (N, 60), 30 of the state and 30 of the goal, `actions` (N, 9), normalised joint velocities,
and `terminals` (N,).

Played as position targets the recordings complete their elements. Played as velocities from the simulated state they
complete 2.7 of 4, because a target is exact only together with the reading that it was computed from.
"""

from pathlib import Path

import numpy as np

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.files import translated
from rpl_runtime.recording.hdf5 import numbers, opened_hdf5, texts
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, ROBOT_DIM, STATE_DIM, completed_in_order
from rpl_runtime.tasks.kitchen.simulator import clip_target
from rpl_train.data.trajectory import Trajectory

_LAYOUT = "observations (N, 60), actions (N, 9) and terminals (N,)"


@np.errstate(all="ignore")  # what is not finite is refused, with its place
def import_d4rl(path: Path) -> list[Trajectory]:
    """Read every whole demonstration of a D4RL kitchen file.

    Raises:
        DemonstrationError: the file is missing, truncated, not HDF5, not of this layout, or holds a NaN.
        MissingExtra: h5py is not installed.
    """
    if not path.is_file():
        wrong = "is not a file" if path.exists() else "does not exist"
        raise DemonstrationError(f"{path} {wrong}; must be recordings, as `rpl demos import --help` names them")
    with translated(path, DemonstrationError, f"in D4RL's layout, {_LAYOUT}"), opened_hdf5(path, "train") as file:
        observations, actions, terminals = (numbers(file, name) for name in ("observations", "actions", "terminals"))
        ends = np.flatnonzero(terminals) + 1
        names = texts(file, "infos/elements", most=len(ends)) if "infos/elements" in file else []
    steps = terminals.size
    if observations.shape != (steps, 2 * STATE_DIM) or actions.shape != (steps, ROBOT_DIM) or terminals.ndim != 1:
        raise DemonstrationError(
            f"{path} has observations {observations.shape}, actions {actions.shape} and terminals "
            f"{terminals.shape}; D4RL's kitchen has {_LAYOUT}"
        )
    if len(ends) == 0:
        raise DemonstrationError(f"{path} has no terminal step, so it does not hold a whole demonstration")
    elements = [tuple(name.split("|")) for name in names]
    if elements and len(elements) != len(ends):
        raise DemonstrationError(f"{path} names the elements of {len(elements)} demonstrations but holds {len(ends)}")
    starts = np.concatenate([[0], ends[:-1]])
    trajectories = []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        states = observations[start:end, :STATE_DIM]
        targets = clip_target(states[:, :ROBOT_DIM] + actions[start:end] * MAX_TARGET_STEP)
        trajectories.append(
            Trajectory(
                states=states.astype(np.float32),
                targets=targets.astype(np.float32),
                elements=elements[index] if elements else completed_in_order(states),
                source=f"{path.name}#{index}",
            )
        )
    return trajectories
