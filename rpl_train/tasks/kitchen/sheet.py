"""A contact sheet of demonstrations: one row each, from its first state to its last.

The translucent robot in each image is the state `AHEAD` steps later, a subgoal that the low level learns to reach.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.tasks.kitchen.render import Frame, open_renderer, write_sheet
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
from rpl_train.data.trajectory import Trajectory

AHEAD = 30  # [steps]
_SHRINK = 2  # every second pixel, since a row holds several images


def contact_sheet(trajectories: Sequence[Trajectory], path: Path, columns: int = 6) -> None:
    """Draw trajectories as one picture, `columns` evenly spaced moments of each in a row.

    Raises:
        InvalidInput: there are no trajectories, or fewer than two columns.
        MissingExtra: there is no GL library, or the `sim` extra is not installed.
    """
    if not trajectories or columns < 2:
        raise InvalidInput(
            f"a contact sheet of {len(trajectories)} demonstrations in {columns} columns cannot be drawn; "
            "must be at least one demonstration and two columns"
        )
    images = []
    with open_kitchen() as kitchen:
        for trajectory in trajectories:
            with open_renderer(kitchen.model, trajectory.elements) as renderer:
                for step in np.linspace(0, len(trajectory) - 1, columns).astype(int):
                    images.append(renderer.draw(_frame(trajectory, int(step)))[::_SHRINK, ::_SHRINK])
    write_sheet(path, images, columns)


def _frame(trajectory: Trajectory, step: int) -> Frame:
    state = trajectory.states[step]
    later = trajectory.states[min(step + AHEAD, len(trajectory) - 1)]
    done = frozenset(name for name in trajectory.elements if ELEMENTS[name].is_done(state))
    return Frame(state, later, step, 0, done)
