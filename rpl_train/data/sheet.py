"""A contact sheet of demonstrations: one row each, from its first state to its last.

The translucent robot in each image is the state `AHEAD` steps later, a subgoal that the low level learns to reach.
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.tasks.pictures import Frame, write_sheet
from rpl_runtime.tasks.task import Task
from rpl_train.data.trajectory import Trajectory

AHEAD = 30  # [steps]
_SHRINK = 2  # every second pixel, since a row holds several images


def contact_sheet(task: Task, trajectories: Sequence[Trajectory], path: Path, columns: int = 6) -> None:
    """Draw trajectories as one picture, `columns` evenly spaced moments of each in a row.

    Raises:
        InvalidInput: there are no trajectories, or fewer than two columns.
        MissingExtra: the task has no renderer, or it cannot draw here.
    """
    if not trajectories or columns < 2:
        raise InvalidInput(
            f"a contact sheet of {len(trajectories)} demonstrations in {columns} columns cannot be drawn; "
            "must be at least one demonstration and two columns"
        )
    images = []
    with closing(task.open()) as world, closing(task.renderer_of(world)) as renderer:
        for trajectory in trajectories:
            for step in np.linspace(0, len(trajectory) - 1, columns).astype(int):
                images.append(renderer.draw(frame_of(task.spec, trajectory, int(step)))[::_SHRINK, ::_SHRINK])
    write_sheet(path, images, columns)


def frame_of(spec: PolicySpec, trajectory: Trajectory, step: int) -> Frame:
    """The picture of a step, with the state `AHEAD` steps later as its subgoal."""
    state = trajectory.states[step]
    later = trajectory.states[min(step + AHEAD, len(trajectory) - 1)]
    done = frozenset(name for name in trajectory.elements if spec.elements[name].is_done(state))
    return Frame(state, later, step, 0, trajectory.elements, done)
