"""Episodes of the kitchen as a Minari data set of FrankaKitchen-v1, for offline-learning code.

An observation holds the 30 positions, without velocities. An action is the environment's own: the joint velocity from
the reading to the target, clipped to [-1, 1]. `infos["target"]` holds the target itself, which a clipped action loses.
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
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, MAX_TARGET_STEP, ROBOT_DIM, STATE_DIM

if TYPE_CHECKING:
    from rpl_runtime.relay.run import RunResult

ENVIRONMENT = "FrankaKitchen-v1"
_ENTRY_POINT = "gymnasium_robotics.envs.franka_kitchen:KitchenEnv"
_NAME = re.compile(r"[-\w]+-v\d+")
EPISODES, METADATA = "main_data.hdf5", "metadata.json"  # Minari's names
_MOST_EPISODES, _MOST_METADATA = 4 << 30, 1 << 20  # [bytes]


@dataclass(frozen=True, eq=False)
class Recording:
    """One episode: T targets, and T observed states, or T + 1 if the state after the last target is known.

    Raises:
        InvalidInput: the sizes or the elements are not the kitchen's.
    """

    states: np.ndarray  # (T, 30) or (T + 1, 30) float32 [rad, m, quaternion wxyz]
    targets: np.ndarray  # (T, 9) float32 [rad, m]
    elements: tuple[str, ...] = ()  # of the goal
    source: str = ""  # where the episode comes from

    def __post_init__(self) -> None:
        steps = len(self.targets)
        sizes = (steps, STATE_DIM), (steps + 1, STATE_DIM)
        if self.targets.shape != (steps, ROBOT_DIM) or self.states.shape not in sizes:
            raise InvalidInput(
                f"a data set of the kitchen must have targets (T, {ROBOT_DIM}) with states (T, {STATE_DIM}) or "
                f"(T + 1, {STATE_DIM}); got targets {self.targets.shape} with states {self.states.shape}"
            )
        unknown = sorted(set(self.elements) - set(ELEMENTS))
        if unknown:
            raise InvalidInput(f"the kitchen has no {', '.join(unknown)}; must be one of {', '.join(ELEMENTS)}")


def recording_of(result: "RunResult", elements: Sequence[str], source: str) -> Recording:
    """A run of a served policy as a recording; the source should name the policy and the sampling."""
    states = np.vstack([result.states, result.final_state]).astype(np.float32)
    return Recording(states, result.targets.astype(np.float32), tuple(elements), source)


def record(recordings: Sequence[Recording], folder: Path, about: Mapping[str, str]) -> int:
    """Add recordings to the data set in a folder named NAME-vN, which is created if need be.

    All are added or none, and existing episodes are kept in any case.

    Args:
        about: more metadata of the data, such as its description and licence.

    Returns:
        The number of episodes in the data set.

    Raises:
        InvalidInput: the folder is not named like a data set, or holds something else.
        RecordingError: the data cannot be written, for example because the disk is full.
        MissingExtra: minari or h5py is not installed.
    """
    folder = followed(folder)  # Minari joins a relative one to itself
    data, begun = folder / "data", False
    try:
        with locked(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staging:
            begun = check_record(folder)
            if not begun:
                data = Path(staging) / folder.name / "data"
                data.parent.mkdir()
                _create(data, folder.name, about)
            with translated(folder, RecordingError, "a data set of rpl"):
                metadata = json.loads(read(data / METADATA, _MOST_METADATA))
                first, steps = int(metadata["total_episodes"]), int(metadata["total_steps"])
                episodes = _appended(read(data / EPISODES, _MOST_EPISODES), first, recordings)
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


def check_record(folder: Path) -> bool:
    """Whether a folder to record into already holds a data set of `record`.

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
            ours = json.loads(metadata["env_spec"])["id"] == ENVIRONMENT and "targets" in metadata
    except InvalidInput:
        ours = False
    if not ours:
        raise InvalidInput(f"{folder} exists and holds no data set of rpl; choose another folder")
    return True


def _appended(content: bytes, first: int, recordings: Sequence[Recording]) -> bytes:
    """A file of episodes in Minari's layout, with recordings after its `first` episodes.

    In memory: HDF5 crashes the process some time after a failed write to a disk.
    """
    h5py = require("h5py", "record")
    memory = io.BytesIO(content)
    with h5py.File(memory, "a" if content else "w") as file:
        for index, recording in enumerate(recordings, start=first):
            file.pop(f"episode_{index}", None)  # written, but not counted, by a killed process
            group = file.create_group(f"episode_{index}")
            columns = _columns(recording)
            for name, values in columns.items():
                group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
            group.attrs.update(id=index, total_steps=len(columns["rewards"]))
            group.attrs.update(elements="|".join(recording.elements), source=recording.source)
    return memory.getvalue()


def _columns(recording: Recording) -> dict[str, np.ndarray]:
    """The episode as Minari keeps it: an action for each pair of neighbouring observations."""
    states, targets = recording.states, recording.targets
    steps = len(states) - 1
    actions = (targets[:steps].astype(np.float64) - states[:steps, :ROBOT_DIM]) / MAX_TARGET_STEP
    # The environment's reward: the number of elements of the goal that are done.
    rewards = [sum(ELEMENTS[name].is_done(state) for name in recording.elements) for state in states[1:]]
    return {
        "observations/observation": states.astype(np.float32),
        "actions": np.clip(actions, -1.0, 1.0),
        "rewards": np.array(rewards, dtype=np.float64),
        "terminations": np.zeros(steps, dtype=bool),
        "truncations": np.arange(steps) == steps - 1,
        "infos/target": targets.astype(np.float32),
    }


def _create(data: Path, name: str, about: Mapping[str, str]) -> None:
    minari = require("minari", "record")
    gymnasium = require("gymnasium", "record")
    registration = require("gymnasium.envs.registration", "record")
    box = gymnasium.spaces.Box
    storage = require("minari.dataset.minari_storage", "record").MinariStorage.new(
        data,
        observation_space=gymnasium.spaces.Dict({"observation": box(-np.inf, np.inf, (STATE_DIM,), np.float32)}),
        action_space=box(-1.0, 1.0, (ROBOT_DIM,), np.float64),
        env_spec=registration.EnvSpec(
            id=ENVIRONMENT,
            entry_point=_ENTRY_POINT,
            kwargs={"terminate_on_tasks_completed": False, "remove_task_when_completed": False},
        ),
    )
    storage.update_metadata(
        {
            "dataset_id": name,
            "minari_version": minari.__version__,
            "author": {"relay-policy"},
            "targets": "infos/target: joint position targets [rad, m], held for 0.08 s",
            "command": provenance.command(),
            "commit": provenance.commit(),
            "versions": provenance.versions(["relay-policy", "mujoco", "gymnasium-robotics"]),
            **about,
        }
    )
