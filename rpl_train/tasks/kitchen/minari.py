"""Demonstrations of the kitchen in Minari data sets.

The public sets `D4RL/kitchen/*-v2` hold FrankaKitchen-v1's observation of 59 numbers: 9 robot positions, 9 robot
velocities, 21 object positions and 20 object velocities. They have one more observation than actions, and come from
playing the human recordings' targets from the kitchen's own start (`create_franka_dataset.py` in
Farama-Foundation/minari-dataset-generation-scripts). An action there gives the exact target with the noisy reading of
the same step. The sets that `rpl` writes hold the 30 positions, and the targets themselves.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime.errors import DemonstrationError, require
from rpl_runtime.files import read, translated
from rpl_runtime.recording.hdf5 import numbers, opened_hdf5, text_attribute, within
from rpl_runtime.recording.minari import EPISODES, METADATA
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, PERIOD, ROBOT_DIM, STATE_DIM, completed_in_order
from rpl_runtime.tasks.kitchen.simulator import clip_target
from rpl_train.data.trajectory import Trajectory

if TYPE_CHECKING:
    import h5py

_MOST_METADATA = 1 << 20  # [bytes]
ENVIRONMENT = "FrankaKitchen-v1"
_NAME = re.compile(r"([-\w]+/)*[-\w]+-v\d+")
_PHYSICS_STEP = 0.002  # [s]
_FRAME_SKIP = round(PERIOD / _PHYSICS_STEP)
# The state's indices in an observation, by the observation's size.
_POSITIONS = {
    STATE_DIM: np.arange(STATE_DIM),
    59: np.r_[0:ROBOT_DIM, 2 * ROBOT_DIM : ROBOT_DIM + STATE_DIM],
}


def is_minari_folder(path: Path) -> bool:
    """Whether a folder holds a Minari data set."""
    return _data_in(path) is not None


def is_minari_name(name: str) -> bool:
    """Whether a text has the form of a Minari data set's name, such as D4RL/kitchen/complete-v2."""
    return _NAME.fullmatch(name) is not None


@np.errstate(all="ignore")  # what is not finite is refused, with its place
def import_minari(where: Path) -> list[Trajectory]:
    """Read every episode of a data set, given by folder or name; a named one is downloaded if it is not here.

    Raises:
        DemonstrationError: it does not exist, is damaged, or is not of this kitchen at this control rate.
        MissingExtra: h5py is not installed, or minari, which downloads.
    """
    data = _data_in(where) or _named(where.as_posix())
    with translated(where, DemonstrationError, "a Minari data set of the kitchen"):
        metadata = json.loads(read(data / METADATA, _MOST_METADATA))
        spec = json.loads(metadata.get("env_spec") or '{"id": "no environment", "kwargs": {}}')
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise DemonstrationError(f"the Minari data set {where} is not in HDF5, the one format that can be read")
        if spec["id"] != ENVIRONMENT:
            raise DemonstrationError(f"the Minari data set {where} is of {spec['id']}; only {ENVIRONMENT} can be read")
        frame_skip = spec["kwargs"].get("frame_skip", _FRAME_SKIP)
        if frame_skip != _FRAME_SKIP:
            raise DemonstrationError(
                f"the Minari data set {where} was recorded at {1 / (frame_skip * _PHYSICS_STEP):g} Hz; "
                f"a target is held for {PERIOD} s here, so only {1 / PERIOD:g} Hz can be read"
            )
        # Minari itself would run the code that a data set's metadata names.
        with opened_hdf5(data / EPISODES, "train") as file:
            count = int(metadata["total_episodes"])
            if count == 0:
                raise DemonstrationError(f"the Minari data set {where} holds no episode")
            if not 0 < count <= len(file):
                raise DemonstrationError(f"the Minari data set {where} counts {count} episodes, and holds {len(file)}")
            name = str(metadata.get("dataset_id", where.name))
            return [_trajectory(within(file, [f"episode_{at}"]), f"{name}#{at}") for at in range(count)]


def _data_in(path: Path) -> Path | None:
    return next((data for data in (path / "data", path) if (data / METADATA).is_file()), None)


def _named(name: str) -> Path:
    """The folder of a data set in Minari's own store, downloaded if it is not there."""
    minari = require("minari", "train")
    folder = require("minari.storage", "train").get_dataset_path(name)
    if not (folder / "data").exists():
        try:
            minari.download_dataset(name)
        except Exception as error:  # remote stores raise classes without a common base
            raise DemonstrationError(
                f"the Minari data set {name} is not on this machine and could not be downloaded; "
                f"run `minari download {name}` with a network: {error}"
            ) from error
    return folder / "data"


def _trajectory(episode: "h5py.Group", source: str) -> Trajectory:
    observations = numbers(episode, "observations/observation")
    if observations.ndim != 2 or observations.shape[1] not in _POSITIONS:
        raise DemonstrationError(
            f"{source}: observations are {observations.shape}; {ENVIRONMENT} has (T, 59), or (T, 30) without velocities"
        )
    states = observations[:, _POSITIONS[observations.shape[1]]]
    if "infos/target" in episode:
        targets = numbers(episode, "infos/target")
    else:
        actions = numbers(episode, "actions")
        states = states[: len(actions)]
        targets = clip_target(states[:, :ROBOT_DIM] + actions * MAX_TARGET_STEP)
    states = states[: len(targets)]
    elements = text_attribute(episode, "elements")
    return Trajectory(
        states=states.astype(np.float32),
        targets=np.asarray(targets, dtype=np.float32),
        elements=completed_in_order(states) if elements is None else tuple(filter(None, elements.split("|"))),
        source=text_attribute(episode, "source") or source,
    )
