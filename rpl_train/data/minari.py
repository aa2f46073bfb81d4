"""Demonstrations of a task as a Minari data set."""

from collections.abc import Iterable
from pathlib import Path

from rpl_runtime.recording.minari import Recording, record
from rpl_runtime.tasks.task import Task
from rpl_train.data.trajectory import Trajectory


def export_minari(task: Task, trajectories: Iterable[Trajectory], folder: Path, licence: str) -> int:
    """Add demonstrations to the data set in a folder named NAME-vN; `rpl demos import` gives them back unchanged.

    Returns:
        The number of episodes of the data set.

    Raises:
        InvalidInput: the folder's name cannot be a data set's, or a demonstration is of another task.
        RecordingError: the data cannot be written.
        MissingExtra: minari or h5py is not installed.
    """
    recordings = [Recording(t.states, t.targets, t.elements, t.source) for t in trajectories]
    about = {"description": f"Demonstrations of {task.name}.", "licence": licence}
    return record(task, recordings, folder, about)
