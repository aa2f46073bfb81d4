"""Episodes of a task as a Minari data set, for offline-learning code.

An observation holds the state of the task's spec. An action is the environment's own if the task names one, and clipped
to its range; in the kitchen, the joint velocity from the reading to the target. `infos["target"]` holds the task's own
action, which a clipped one loses.
"""

import io
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime import provenance
from rpl_runtime.errors import InvalidInput, RecordingError, require
from rpl_runtime.files import followed, locked, read, staged, translated
from rpl_runtime.tasks.task import Task

if TYPE_CHECKING:
    from rpl_runtime.relay.run import RunResult

_NAME = re.compile(r"[-\w]+-v\d+")
EPISODES, METADATA = "main_data.hdf5", "metadata.json"  # Minari's names
_MOST_EPISODES, _MOST_METADATA = 4 << 30, 1 << 20  # [bytes]


@dataclass(frozen=True, eq=False)
class Recording:
    """One episode: T actions, and T observed states, or T + 1 if the state after the last action is known."""

    states: np.ndarray  # (T, n) or (T + 1, n) float32
    targets: np.ndarray  # (T, m) float32
    elements: tuple[str, ...] = ()  # of the goal
    source: str = ""  # where the episode comes from


def recording_of(result: "RunResult", elements: Sequence[str], source: str) -> Recording:
    """A run of a served policy as a recording; the source should name the policy and the sampling."""
    states = np.vstack([result.states, result.final_state]).astype(np.float32)
    return Recording(states, result.targets.astype(np.float32), tuple(elements), source)


def record(task: Task, recordings: Sequence[Recording], folder: Path, about: Mapping[str, str]) -> int:
    """Add recordings of a task to the data set in a folder named NAME-vN, which is created if need be.

    All are added or none, and existing episodes are kept in any case.

    Args:
        about: more metadata of the data, such as its description and licence.

    Returns:
        The number of episodes in the data set.

    Raises:
        InvalidInput: a recording is of another task, or the folder is not named like a data set or holds another.
        RecordingError: the data cannot be written, for example because the disk is full.
        MissingExtra: minari or h5py is not installed.
    """
    n, m = task.spec.state.dim, task.spec.action.dim
    for recording in recordings:
        states, targets = recording.states, recording.targets
        steps = len(targets)
        if targets.shape != (steps, m) or states.shape not in ((steps, n), (steps + 1, n)):
            raise InvalidInput(
                f"a data set of {task.name} must have targets (T, {m}) with states (T, {n}) or (T + 1, {n}); "
                f"got targets {targets.shape} with states {states.shape}"
            )
        if unknown := sorted(set(recording.elements) - set(task.elements)):
            raise InvalidInput(f"{task.name} has no {', '.join(unknown)}; must be one of {', '.join(task.elements)}")
    folder = followed(folder)  # Minari joins a relative one to itself
    data, begun = folder / "data", False
    try:
        with locked(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staging:
            begun = check_record(task, folder)
            if not begun:
                data = Path(staging) / folder.name / "data"
                data.parent.mkdir()
                _create(task, data, folder.name, about)
            with translated(folder, RecordingError, "a data set of rpl"):
                metadata = json.loads(read(data / METADATA, _MOST_METADATA))
                first, steps = int(metadata["total_episodes"]), int(metadata["total_steps"])
                episodes = _appended(task, read(data / EPISODES, _MOST_EPISODES), first, recordings)
            held = first + len(recordings)
            steps += sum(len(recording.states) - 1 for recording in recordings)
            size = round((len(episodes) + (data / METADATA).stat().st_size) / 1e6, 1)  # [MB]
            metadata |= {"total_episodes": held, "total_steps": steps, "dataset_size": size}
            # The episodes first: a reader trusts the number in the metadata, and reads no episode past it.
            for name, content in ((EPISODES, episodes), (METADATA, json.dumps(metadata).encode())):
                with staged(data / name) as file:
                    file.write_bytes(content)
            if not begun:
                os.replace(data.parent, folder)
            return held
    except OSError as error:
        kept = "its earlier episodes are kept" if begun else "nothing of it is left"
        raise RecordingError(f"{folder} cannot be written, and {kept}: {error.strerror or error}") from error


def check_record(task: Task, folder: Path) -> bool:
    """Whether a folder to record a task into already holds a data set of it.

    Raises:
        InvalidInput: the folder cannot take recordings.
        MissingExtra: minari or h5py is not installed.
    """
    for module in ("minari", "h5py", "PIL"):  # Minari needs the other two to write
        require(module, "record")
    if not _NAME.fullmatch(folder.name):
        raise InvalidInput(f"{folder.name!r} does not name a Minari data set; must be NAME-vN, such as play-v0")
    if not folder.exists():
        return False
    try:
        with translated(folder, InvalidInput, "a data set of rpl"):
            metadata = json.loads(read(folder / "data" / METADATA, _MOST_METADATA))
            ours = metadata.get("task", "kitchen") == task.name and "targets" in metadata
    except InvalidInput:
        ours = False
    if not ours:
        raise InvalidInput(
            f"{folder} exists and holds no data set of {task.name} that rpl wrote; choose another folder"
        )
    return True


def _appended(task: Task, content: bytes, first: int, recordings: Sequence[Recording]) -> bytes:
    """A file of episodes in Minari's layout, with recordings after its `first` episodes.

    In memory: HDF5 crashes the process some time after a failed write to a disk.
    """
    h5py = require("h5py", "record")
    memory = io.BytesIO(content)
    with h5py.File(memory, "a" if content else "w") as file:
        for index, recording in enumerate(recordings, start=first):
            file.pop(f"episode_{index}", None)  # written, but not counted, by a killed process
            group = file.create_group(f"episode_{index}")
            columns = _columns(task, recording)
            for name, values in columns.items():
                group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
            group.attrs.update(id=index, total_steps=len(columns["rewards"]))
            group.attrs.update(elements="|".join(recording.elements), source=recording.source)
    return memory.getvalue()


def _columns(task: Task, recording: Recording) -> dict[str, np.ndarray]:
    """The episode as Minari keeps it: an action for each pair of neighbouring observations."""
    states, targets = recording.states, recording.targets
    steps = len(states) - 1
    actions, bounds = targets[:steps].astype(np.float64), task.spec.action.bounds
    if task.gym and task.gym.own_actions:
        actions, bounds = task.gym.own_actions(states[:steps], actions), (-1.0, 1.0)
    # The reward: the number of elements of the goal that are done.
    elements = [task.spec.elements[name] for name in recording.elements if name in task.spec.elements]
    rewards = [sum(element.is_done(state) for element in elements) for state in states[1:]]
    return {
        "observations/observation": states.astype(np.float32),
        "actions": np.clip(actions, *bounds),
        "rewards": np.array(rewards, dtype=np.float64),
        "terminations": np.zeros(steps, dtype=bool),
        "truncations": np.arange(steps) == steps - 1,
        "infos/target": targets.astype(np.float32),
    }


def _create(task: Task, data: Path, name: str, about: Mapping[str, str]) -> None:
    minari = require("minari", "record")
    gymnasium = require("gymnasium", "record")
    registration = require("gymnasium.envs.registration", "record")
    box, (low, high) = gymnasium.spaces.Box, (bound.astype(np.float64) for bound in task.spec.action.bounds)
    own = task.gym is not None and task.gym.own_actions is not None
    actions = box(-1.0, 1.0, low.shape, np.float64) if own else box(low, high, dtype=np.float64)
    gym = task.gym
    env_spec = gym and registration.EnvSpec(id=gym.id, entry_point=gym.entry_point, kwargs=dict(gym.kwargs))
    storage = require("minari.dataset.minari_storage", "record").MinariStorage.new(
        data,
        observation_space=gymnasium.spaces.Dict(
            {"observation": box(-np.inf, np.inf, (task.spec.state.dim,), np.float32)}
        ),
        action_space=actions,
        env_spec=env_spec,
    )
    storage.update_metadata(
        {
            "dataset_id": name,
            "minari_version": minari.__version__,
            "author": {"relay-policy"},
            "task": task.name,
            "targets": f"infos/target: the task's own actions, held for {task.spec.period_s:g} s",
            "command": provenance.command(),
            "commit": provenance.commit(),
            "versions": provenance.versions(["relay-policy", *task.packages]),
            **about,
        }
    )
