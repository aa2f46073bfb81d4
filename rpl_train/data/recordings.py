"""Recordings of a task in every format, as one list of demonstrations and a record of where each comes from."""

import json
from collections.abc import Sequence
from pathlib import Path

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.files import JsonDict, read, translated
from rpl_runtime.tasks.task import Task
from rpl_train.data.lerobot import import_lerobot, is_lerobot
from rpl_train.data.logs import import_logs, is_log
from rpl_train.data.sources import PLAY_SETTINGS, Demonstrations
from rpl_train.data.trajectory import Trajectory, check_sizes, digest, load_folder

_MOST_SETTINGS = 1 << 20  # [bytes]

# Licences that the publishers of recordings state, by digest.
_LICENCES = {
    "382a410ab0bd58b4d203567815c83c145182f3310ffb80e26100a65f663a80af": (
        "CC BY 4.0 (D4RL kitchen-complete-v0); recordings: google-research/relay-policy-learning, Apache-2.0"
    ),
    "f94703837571f909379b5b68427d31ca3d301099e05075197a10915b139cd1e4": (
        "recordings: google-research/relay-policy-learning, Apache-2.0; as published with MH-AIRL, which states none"
    ),
}


def load_demonstrations(paths: Sequence[Path], task: Task, bundle: str | None = None) -> Demonstrations:
    """Read folders written by `rpl demos`, logs of runs (`.mcap`) and folders of them, LeRobot data sets, and what the
    task itself can read: for the kitchen HDF5 files in D4RL's layout, raw logs (`.mjl`) and folders of them, and Minari
    data sets, by folder or by name.

    A raw log that cannot be read is left out of its folder; a sentence on it is kept under `left_out` of its source.

    Args:
        bundle: digest of the bundle whose runs the logs must be; None: of any.

    Raises:
        DemonstrationError: a path is none of these, cannot be read, or holds demonstrations of another task.
        MissingExtra: a format needs a package that is not installed.
    """
    trajectories: list[Trajectory] = []
    sources = []
    for path in paths:
        if is_log(path):
            found, left_out = import_logs(path, task.spec, bundle), []
        elif is_lerobot(path):
            found, left_out = import_lerobot(path, task.spec), []
        else:
            found, left_out = (task.read and task.read(path)) or (load_folder(path), [])
        trajectories += found
        sources.append(
            {
                "name": path.name if path.exists() else path.as_posix(),
                "digest": digest(found),
                "episodes": len(found),
                "steps": sum(map(len, found)),
                "licence": _LICENCES.get(digest(found), "not stated"),
            }
            | ({"left_out": left_out} if left_out else {})
            | _played(path)
        )
    if not trajectories:
        raise DemonstrationError("no demonstrations are named; give folders of them, or files that the task can read")
    for trajectory in trajectories:
        check_sizes(trajectory, task.spec)
    return Demonstrations(trajectories, sources)


def _played(path: Path) -> JsonDict:
    """How a folder of play was played; empty for other demonstrations."""
    record = path / PLAY_SETTINGS
    if not record.is_file():
        return {}
    with translated(record, DemonstrationError, "the settings of play"):
        return {"play": dict(json.loads(read(record, _MOST_SETTINGS)))}
