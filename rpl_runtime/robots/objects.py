"""Sources of the objects' states, for a robot that measures only itself: fixed, from a function, or from a stream.

mirror.py has one more: a simulated kitchen.
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
# (21,) [rad, m, quaternion wxyz] of an untouched kitchen.
UNTOUCHED = np.array([0.0] * 14 + [-0.2694, 0.3504, 1.6194, 1.0, 0.0, 0.0, 0.0])
UNTOUCHED.setflags(write=False)
_FIRST_SIGHT_S = 5.0  # [s] until all objects must have been seen


class Seen(NamedTuple):
    """The state that a source sees."""

    objects: np.ndarray  # (21,) [rad, m, quaternion wxyz] in the order and frame of the kitchen's state
    robot: np.ndarray | None = None  # (9,) [rad, m] of a mirrored robot, for the policy in place of the robot's own


class ObjectSource(Protocol):
    """A source of object states."""

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Prepare for a run that starts at the joints (9,) [rad, m]; a simulated scene is set up with the seed.

        Raises:
            ObjectsLost: it does not see all objects.
        """
        ...

    def read(self, robot: np.ndarray) -> Seen:
        """The objects now, with the robot's joints at (9,) [rad, m]. Call it once a control period.

        Raises:
            ObjectsLost: it no longer sees all objects.
        """
        ...

    def close(self) -> None:
        """Release its resources."""
        ...


class CalledObjects:
    """Objects from a function.

    Args:
        look: returns (21,) [rad, m, quaternion wxyz]; called once a control period.
    """

    def __init__(self, look: Callable[[], np.ndarray]) -> None:
        self._look = look

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Nothing to do."""

    def read(self, robot: np.ndarray) -> Seen:
        """The function's value now.

        Raises:
            InvalidInput: it is not 21 finite numbers.
        """
        return Seen(_checked(self._look()))

    def close(self) -> None:
        """Nothing to do."""


class FixedObjects(CalledObjects):
    """Objects that never move, for a first dry run.

    Args:
        objects: (21,) [rad, m, quaternion wxyz].

    Raises:
        InvalidInput: they are not 21 finite numbers.
    """

    def __init__(self, objects: np.ndarray) -> None:
        fixed = _checked(objects)
        super().__init__(lambda: fixed)


class StreamedObjects:
    """Objects streamed by an `rpl.v1.ObjectStates` server.

    Args:
        address: HOST:PORT.
        max_age_s: [s] for which the last message counts.
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
        """Wait until all objects have been seen once.

        Raises:
            ObjectsLost: they have not, within five seconds.
        """
        with self._news:
            self._news.wait_for(lambda: self._over or not self._missing(), _FIRST_SIGHT_S)
        self.read(robot)

    def read(self, robot: np.ndarray) -> Seen:
        """The objects as last seen.

        Raises:
            ObjectsLost: that is too long ago, or the stream has ended.
        """
        with self._news:
            age, missing, objects = time.monotonic() - self._seen_at, self._missing(), self._objects.copy()
        if self._over:
            raise ObjectsLost(f"the objects' stream from {self.address} ended: {self._over}")
        if missing:
            raise ObjectsLost(f"{self.address} has not reported {', '.join(missing)}; must report every object")
        if age > self._max_age_s:
            raise ObjectsLost(f"{self.address} last reported {age:.2f} s ago; must be at most {self._max_age_s} s")
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
                joints, poses = wire.unpack_sighting(raw)
                objects = self._objects.copy()
                for name in joints.keys() & set(_JOINTS):
                    objects[_JOINTS.index(name)] = joints[name]
                if _KETTLE in poses:
                    objects[len(_JOINTS) :] = pose_in_kitchen(np.array(poses[_KETTLE]))
                with self._news:
                    self._objects, self._seen_at = objects, time.monotonic()
                    self._news.notify_all()
        except grpc.RpcError as error:
            over = str(error.details())  # type: ignore[attr-defined]
        except (InvalidInput, ProtocolViolation) as error:
            over = str(error)
        with self._news:
            self._over = over
            self._news.notify_all()


def _checked(objects: np.ndarray) -> np.ndarray:
    values = np.array(objects, dtype=np.float64)
    if values.shape != (_DIM,) or not np.isfinite(values).all():
        raise InvalidInput(f"the objects are {np.array2string(values, precision=3)}; must be {_DIM} finite numbers")
    return values
