"""Sources of the objects' states, for a robot that measures only itself: fixed, from a function, or from a stream.

robots/mirror.py has one more: a simulated kitchen.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import grpc
import numpy as np

from rpl_runtime.auth.client import CA, INSECURE, TOKEN_FILE, Access, Connection, check_address
from rpl_runtime.auth.server import is_local
from rpl_runtime.errors import InvalidInput, ObjectsLost, ProtocolViolation
from rpl_runtime.robots.franka.frames import pose_in_kitchen
from rpl_runtime.tasks.kitchen.elements import OBJECT_DIMS, STATE_NAMES
from rpl_runtime.wire import objects as wire

_DIM = len(OBJECT_DIMS)
_KETTLE = "kettle"
_JOINTS = STATE_NAMES[OBJECT_DIMS[0] : STATE_NAMES.index("kettle_x")]  # what a stream names, then the kettle's pose
_NAMES = (*_JOINTS, *[_KETTLE] * (_DIM - len(_JOINTS)))  # of each number
# (21,) [rad, m, quaternion wxyz] of an untouched kitchen.
UNTOUCHED = np.array([0.0] * 14 + [-0.2694, 0.3504, 1.6194, 1.0, 0.0, 0.0, 0.0])
UNTOUCHED.setflags(write=False)
_FIRST_SIGHT_S = 5.0  # [s] until all objects must have been seen


class Seen(NamedTuple):
    """The state that a source sees."""

    objects: np.ndarray  # (21,) [rad, m, quaternion wxyz] in the order and frame of the kitchen's state
    robot: np.ndarray | None = None  # (9,) [rad, m] of a mirrored robot, for the policy in place of the robot's own
    age_s: float | None = None  # [s] of the oldest sighting of an object; None: unknown


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
        access: how the server is reached; None reads it from the environment (auth/client.py).
        max_age_s: [s] for which a sighting of an object counts.

    Raises:
        InvalidInput: the address is malformed, or of another machine, which would be reached without TLS or a token.
    """

    def __init__(self, address: str, access: Access | None = None, max_age_s: float = 0.5) -> None:
        check_address(address, "the address of the objects")
        access = Access.from_environment() if access is None else access
        if not (is_local(address) or access.insecure or (access.secure and access.token is not None)):
            raise InvalidInput(
                f"the objects' states would come from {address} without {'a token' if access.secure else 'TLS'}; must "
                f"come over TLS with a token ({CA}, {TOKEN_FILE}), or {INSECURE}=1 for a trusted network"
            )
        self.address = address
        self._max_age_s = max_age_s
        self._objects = np.full(_DIM, np.nan)
        self._seen_s = np.full(_DIM, -np.inf)  # [s] monotonic, when each was seen
        self._least_s = np.inf  # [s] between sender's and own clock, of the message that was fastest here
        self._sent_ns = -1  # [ns] the last message
        self._over: str | None = None  # why the stream has ended
        self._news = threading.Condition()
        self._connection = Connection(address, access)
        call = self._connection.channel.unary_stream(wire.WATCH)
        self._stream = call(b"", wait_for_ready=True, metadata=self._connection.metadata)
        self._thread = threading.Thread(target=self._watch, name="rpl-objects", daemon=True)
        self._thread.start()

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Wait until all objects have been seen once.

        Raises:
            ObjectsLost: they have not, within five seconds.
        """
        with self._news:
            self._news.wait_for(lambda: self._over or np.isfinite(self._objects).all(), _FIRST_SIGHT_S)
        self.read(robot)

    def read(self, robot: np.ndarray) -> Seen:
        """The objects as last seen.

        Raises:
            ObjectsLost: that is too long ago for one of them, or the stream has ended.
        """
        with self._news:
            ages, objects = time.monotonic() - self._seen_s, self._objects.copy()
        if self._over:
            raise ObjectsLost(f"the objects' stream from {self.address} ended: {self._over}")
        if np.isnan(objects).any():
            missing = ", ".join(dict.fromkeys(np.array(_NAMES)[np.isnan(objects)].tolist()))
            raise ObjectsLost(f"{self.address} has not reported {missing}; must report every object")
        oldest = int(np.argmax(ages))
        if ages[oldest] > self._max_age_s:
            got = f"{self.address} last saw {_NAMES[oldest]} {ages[oldest]:.2f} s ago"
            raise ObjectsLost(f"{got}; must be at most {self._max_age_s} s")
        return Seen(objects, age_s=float(ages[oldest]))

    def close(self) -> None:
        """End the stream."""
        self._stream.cancel()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        over = "its server closed it"
        try:
            for raw in self._stream:
                seen, sent_s = wire.unpack_sighting(raw), time.monotonic()
                if seen.sent_ns is not None:
                    sent_s -= self._delay_s(seen.sent_ns, sent_s)
                objects, times = self._objects.copy(), self._seen_s.copy()
                for name in seen.joints.keys() & set(_JOINTS):
                    objects[_JOINTS.index(name)] = seen.joints[name]
                    times[_JOINTS.index(name)] = sent_s - seen.ages_ns[name] / 1e9
                if _KETTLE in seen.poses:
                    objects[len(_JOINTS) :] = pose_in_kitchen(np.array(seen.poses[_KETTLE]))
                    times[len(_JOINTS) :] = sent_s - seen.ages_ns[_KETTLE] / 1e9
                with self._news:
                    self._objects, self._seen_s = objects, times
                    self._news.notify_all()
        except grpc.RpcError as error:
            over = str(self._connection.translate(error, _FIRST_SIGHT_S))
        except (InvalidInput, ProtocolViolation) as error:
            over = str(error)
        with self._news:
            self._over = over
            self._news.notify_all()

    def _delay_s(self, sent_ns: int, received_s: float) -> float:
        """[s] by which a message took longer than the fastest one: its sender's clock has another zero.

        Raises:
            ProtocolViolation: it was not sent after the one before.
        """
        if sent_ns <= self._sent_ns:
            raise ProtocolViolation(
                f"a sighting was sent at {sent_ns} ns, after one at {self._sent_ns} ns; must be later"
            )
        self._sent_ns, apart_s = sent_ns, received_s - sent_ns / 1e9
        self._least_s = min(self._least_s, apart_s)
        return apart_s - self._least_s


def _checked(objects: np.ndarray) -> np.ndarray:
    values = np.array(objects, dtype=np.float64)
    if values.shape != (_DIM,) or not np.isfinite(values).all():
        raise InvalidInput(f"the objects are {np.array2string(values, precision=3)}; must be {_DIM} finite numbers")
    return values
