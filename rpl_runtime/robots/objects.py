"""Where the objects are, for a robot that cannot feel them: from a fixed state, a function, or a stream of poses.

In: what the robot measured of itself, and whatever a source looks at. Out: `Seen`, the object part of the kitchen's
state. It does not know robots or policies; the simulated kitchen as a source is mirror.py's.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import grpc
import numpy as np

from rpl_runtime.errors import InvalidInput, ObjectsLost, ProtocolViolation
from rpl_runtime.robots.franka.frames import pose_in_kitchen
from rpl_runtime.tasks.kitchen.elements import OBJECT_DIMS, STATE_NAMES
from rpl_runtime.wire import objects as wire

_DIM = len(OBJECT_DIMS)
_KETTLE = "kettle"
_JOINTS = STATE_NAMES[OBJECT_DIMS[0] : STATE_NAMES.index("kettle_x")]  # what a stream names, then the kettle's pose
# (21,) [rad, m, quaternion wxyz] of a kitchen in which nobody has touched anything.
UNTOUCHED = np.array([0.0] * 14 + [-0.2694, 0.3504, 1.6194, 1.0, 0.0, 0.0, 0.0])
UNTOUCHED.setflags(write=False)
_FIRST_SIGHT_S = 5.0  # [s] until everything must have been seen once


class Seen(NamedTuple):
    """What a source sees."""

    objects: np.ndarray  # (21,) [rad, m, quaternion wxyz] in the order and the frame of the kitchen's state
    robot: np.ndarray | None = None  # (9,) [rad, m] where objects that only the source has hold the robot


class ObjectSource(Protocol):
    """Where a robot's object states come from."""

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """A run starts with the robot's joints at (9,) [rad, m] of the kitchen; a source that can sets up the scene.

        Raises:
            ObjectsLost: it sees nothing.
        """
        ...

    def read(self, robot: np.ndarray) -> Seen:
        """What it sees now, with the robot's joints at (9,) [rad, m]. Once a control period.

        Raises:
            ObjectsLost: it no longer sees everything.
        """
        ...

    def close(self) -> None:
        """Let go of whatever it looks through."""
        ...


class CalledObjects:
    """Objects that a function tells.

    Args:
        look: returns (21,) [rad, m, quaternion wxyz]; called once a control period.
    """

    def __init__(self, look: Callable[[], np.ndarray]) -> None:
        self._look = look

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Nothing to do."""

    def read(self, robot: np.ndarray) -> Seen:
        """What the function tells now.

        Raises:
            InvalidInput: it is not 21 finite numbers.
        """
        return Seen(_checked(self._look()))

    def close(self) -> None:
        """Nothing to do."""


class FixedObjects(CalledObjects):
    """Objects that stay where they are: for a first dry run.

    Args:
        objects: (21,) [rad, m, quaternion wxyz].

    Raises:
        InvalidInput: they are not 21 finite numbers.
    """

    def __init__(self, objects: np.ndarray) -> None:
        fixed = _checked(objects)
        super().__init__(lambda: fixed)


class StreamedObjects:
    """Objects as a server of `rpl.v1.ObjectStates` streams them.

    Args:
        address: HOST:PORT.
        max_age_s: [s] for how long what was seen last still counts.
    """

    def __init__(self, address: str, max_age_s: float = 0.5) -> None:
        self.address = address
        self._max_age_s = max_age_s
        self._objects = np.full(_DIM, np.nan)
        self._seen_at = -np.inf  # [s] monotonic
        self._over: str | None = None  # why the stream has ended
        self._news = threading.Condition()
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._stream = self._channel.unary_stream(wire.WATCH)(b"", wait_for_ready=True)
        self._thread = threading.Thread(target=self._watch, name="rpl-objects", daemon=True)
        self._thread.start()

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Wait until everything has been seen once.

        Raises:
            ObjectsLost: it has not, within five seconds.
        """
        with self._news:
            self._news.wait_for(lambda: self._over or not self._missing(), _FIRST_SIGHT_S)
        self.read(robot)

    def read(self, robot: np.ndarray) -> Seen:
        """What was seen last.

        Raises:
            ObjectsLost: that is too long ago, or something was never seen.
        """
        with self._news:
            age, missing, objects = time.monotonic() - self._seen_at, self._missing(), self._objects.copy()
        if self._over:
            raise ObjectsLost(f"the objects' stream from {self.address} ended: {self._over}")
        if missing:
            raise ObjectsLost(f"{self.address} has not said where {', '.join(missing)} stands; it must name everything")
        if age > self._max_age_s:
            raise ObjectsLost(f"{self.address} said {age:.2f} s ago where the objects are; allowed {self._max_age_s} s")
        return Seen(objects)

    def close(self) -> None:
        """End the stream."""
        self._stream.cancel()
        self._thread.join()
        self._channel.close()

    def _missing(self) -> list[str]:
        named = (*_JOINTS, *[_KETTLE] * (_DIM - len(_JOINTS)))
        return list(dict.fromkeys(np.array(named)[np.isnan(self._objects)].tolist()))

    def _watch(self) -> None:
        over = "its server closed it"
        try:
            for raw in self._stream:
                self._take(*wire.unpack_sighting(raw))
        except grpc.RpcError as error:
            over = str(error.details())  # type: ignore[attr-defined]
        except (InvalidInput, ProtocolViolation) as error:
            over = str(error)
        with self._news:
            self._over = over
            self._news.notify_all()

    def _take(self, joints: dict[str, float], poses: dict[str, tuple[float, ...]]) -> None:
        objects = self._objects.copy()
        for name in joints.keys() & set(_JOINTS):
            objects[_JOINTS.index(name)] = joints[name]
        if _KETTLE in poses:
            objects[len(_JOINTS) :] = pose_in_kitchen(np.array(poses[_KETTLE]))
        with self._news:
            self._objects, self._seen_at = objects, time.monotonic()
            self._news.notify_all()


def _checked(objects: np.ndarray) -> np.ndarray:
    values = np.array(objects, dtype=np.float64)
    if values.shape != (_DIM,) or not np.isfinite(values).all():
        raise InvalidInput(f"object states are {_DIM} finite numbers; got {np.array2string(values, precision=3)}")
    return values
