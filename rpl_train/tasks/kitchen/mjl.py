"""The raw logs (`.mjl`) that the relay-policy-learning paper released, as demonstrations with position targets.

MuJoCo's recorder writes seven little-endian int32 (nq, nv, nu, nmocap, nsensordata, nuserdata and the length of the
model's name), the name, then records of float32: time [s], qpos, qvel, ctrl, mocap positions and quaternions,
sensordata, userdata. Two public readers agree on this: `parse_mjl.py`, which google-research/relay-policy-learning's
`parse_demos.py` calls, and `create_franka_dataset.py` in Farama-Foundation/minari-dataset-generation-scripts. Both read
`ctrl` as the position targets of the 9 actuators.

Both keep every 40th record, one for each 0.08 s of 2 ms physics steps. Here the stride follows from the log's own
times. A log without records at multiples of 0.08 s is refused instead of resampled: a target is a set-point held for
0.08 s, and held for another time it moves the servo elsewhere.
"""

import hashlib
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.files import read, translated
from rpl_runtime.tasks.kitchen.elements import PERIOD, ROBOT_DIM, STATE_DIM, completed_in_order
from rpl_runtime.tasks.kitchen.simulator import clip_target
from rpl_train.data.trajectory import Trajectory

_KIND = "a MuJoCo log (.mjl)"
_MOST_BYTES = 1 << 30  # of a log
_HEADER = struct.Struct("<7i")
_SIZES = (STATE_DIM, STATE_DIM - 1, ROBOT_DIM)  # nq, nv (a quaternion has three velocities), nu
# Shares of a control step. Times are float32 [s] since the start of the recorder.
_MEAN_TOLERANCE = 0.01
_STEP_TOLERANCE = 0.5  # a longer one has records missing
# Names of the elements in the folders of the released recordings, such as friday_kettle_switch_hinge_slide.
_FOLDER_NAMES = {
    "microwave": "microwave",
    "kettle": "kettle",
    "bottomknob": "bottom burner",
    "topknob": "top burner",
    "switch": "light switch",
    "slide": "slide cabinet",
    "hinge": "hinge cabinet",
}


def import_mjl(path: Path) -> Trajectory:
    """Read one log, one state for each control step.

    The elements are those that its folder names, or those that it completes if the folder names none.

    Raises:
        DemonstrationError: the file is missing, empty, truncated, not of this kitchen, or of another control rate.
    """
    records = _read(path)
    kept = records[:: _stride(path, records[:, 0].astype(np.float64))]
    states = kept[:, 1 : 1 + STATE_DIM]
    targets = kept[:, 1 + sum(_SIZES[:2]) : 1 + sum(_SIZES)]
    named = tuple(_FOLDER_NAMES[word] for word in path.resolve().parent.name.split("_") if word in _FOLDER_NAMES)
    return Trajectory(
        states=states.astype(np.float32),
        targets=clip_target(targets).astype(np.float32),
        elements=named or completed_in_order(states),
        source=f"{path.name}#0",
    )


def import_mjl_folder(folder: Path) -> "Logs":
    """Read every log in a folder and in the folders below it, as the release is laid out.

    The release holds copies of some logs, and at least one truncated log. Copies are read once. A log that cannot be
    read is left out and named.

    Raises:
        DemonstrationError: no log can be read.
    """
    seen: set[str] = set()
    trajectories: list[Trajectory] = []
    left_out: list[str] = []
    for path in sorted(folder.rglob("*.mjl"), key=lambda log: (log.parent, len(log.name), log.name)):
        try:
            with translated(path, DemonstrationError, _KIND):
                content = hashlib.sha256(read(path, _MOST_BYTES)).hexdigest()
            if content in seen:
                continue
            seen.add(content)
            trajectories.append(import_mjl(path))
        except DemonstrationError as error:
            left_out.append(str(error))
    if not trajectories:
        raise DemonstrationError(f"{folder} holds no MuJoCo log that can be read: {'; '.join(left_out)}")
    return Logs(trajectories, left_out)


class Logs(NamedTuple):
    """The demonstrations of a folder of logs, and a sentence for each log that could not be read."""

    trajectories: list[Trajectory]
    left_out: list[str]


def _read(path: Path) -> np.ndarray:
    """The records, one a row."""
    if not path.is_file():
        wrong = "is not a file" if path.exists() else "does not exist"
        raise DemonstrationError(f"{path} {wrong}; expected {_KIND}")
    with translated(path, DemonstrationError, _KIND):
        content = read(path, _MOST_BYTES)
    if not content:
        raise DemonstrationError(f"{path} is empty; expected {_KIND}")
    if len(content) < _HEADER.size:
        raise DemonstrationError(f"{path} has {len(content)} bytes; a MuJoCo log begins with {_HEADER.size}")
    sizes = _HEADER.unpack_from(content)
    mocap, sensors, user, name = sizes[3:]
    if sizes[:3] != _SIZES or min(sizes) < 0:
        raise DemonstrationError(
            f"{path} is not a MuJoCo log of this kitchen: it begins with the sizes {sizes}; "
            f"must be {_SIZES} and four that are not negative"
        )
    width = 1 + sum(_SIZES) + 7 * mocap + sensors + user
    body = max(0, len(content) - _HEADER.size - name)
    count, left = divmod(body, 4 * width)
    if left or count < 1:
        raise DemonstrationError(f"{path} is truncated: it holds {body} bytes of records that take {4 * width} each")
    return np.frombuffer(content, "<f4", offset=_HEADER.size + name).reshape(count, width)


def _stride(path: Path, times: np.ndarray) -> int:
    """The number of records in a control step."""
    if len(times) < 2 or not np.isfinite(times).all() or times[-1] <= times[0]:
        raise DemonstrationError(f"{path} is not a recording: the times of its {len(times)} records do not increase")
    period = (times[-1] - times[0]) / (len(times) - 1)  # [s]
    stride = max(1, round(PERIOD / period))
    steps = np.diff(times[::stride])  # [s]
    if abs(stride * period / PERIOD - 1) > _MEAN_TOLERANCE or (abs(steps / PERIOD - 1) > _STEP_TOLERANCE).any():
        raise DemonstrationError(
            f"{path} has a record every {1e3 * period:.4g} ms, and {1e3 * np.diff(times).max():.4g} ms at the longest; "
            f"a target is held for {1e3 * PERIOD:g} ms here, so only logs at a whole fraction of that can be read"
        )
    return stride
