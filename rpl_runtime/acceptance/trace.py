"""A trace of an arm: what its controller reports, sampled by a thread while others move it, and figures of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self

import numpy as np

from rpl_runtime.errors import RelayError, RobotStopped
from rpl_runtime.robots.franka.franka import ArmReading
from rpl_runtime.safety.kinematics import flange_pose

STILL = 0.02  # [rad/s] of the fastest joint as it is measured, below which an arm stands; a real one's speed trembles
_EVERY_S = 0.02  # [s] between two samples


class Reads(Protocol):
    """A robot that can be read while another thread moves it."""

    def reading(self) -> ArmReading:
        """Arm and hand now."""
        ...


class Trace(NamedTuple):
    """N samples, oldest first, in Franka's joint zeros."""

    at_s: np.ndarray  # (N,) [s] monotonic
    measured: np.ndarray  # (N, 7) [rad]
    commanded: np.ndarray  # (N, 7) [rad]
    velocity: np.ndarray  # (N, 7) [rad/s] measured
    flange: np.ndarray  # (N, 3) [m]
    width: np.ndarray  # (N,) [m] between the fingers

    @property
    def speed(self) -> np.ndarray:
        """(N,) [rad/s] of the fastest joint."""
        return abs(self.velocity).max(axis=1, initial=0.0)

    def after(self, moment_s: float) -> Self:
        """The samples from a moment [s] on."""
        return type(self)(*(values[self.at_s >= moment_s] for values in self))


class Standstill(NamedTuple):
    """How an arm came to rest after a moment."""

    speed: float  # [rad/s] of the fastest joint at that moment
    after_s: float | None  # [s] until it stood; None: it still moved at the last sample
    way_m: float  # [m] of the flange from then on


def standstill(trace: Trace, moment_s: float) -> Standstill:
    """How the arm came to rest after a moment [s] of a trace with a sample before it."""
    here = max(0, int(np.searchsorted(trace.at_s, moment_s, side="right")) - 1)
    moving = np.flatnonzero(trace.speed > STILL)
    last = max(here, int(moving.max(initial=here)))
    way_m = float(np.linalg.norm(np.diff(trace.flange[here:], axis=0), axis=1).sum())
    # It stood at the sample after the last that moved.
    after_s = None if last + 1 >= len(trace.at_s) else max(0.0, float(trace.at_s[last + 1] - moment_s))
    return Standstill(float(trace.speed[here]), after_s, way_m)


def trail_s(trace: Trace) -> float | None:
    """[s] by which the measured arm is later than the commanded one; None if it hardly moved.

    Least squares of commanded - measured = trail * velocity, apart from what each joint always hangs off its command.
    """
    if len(trace.at_s) < 2:
        return None
    behind, velocity = (values - values.mean(axis=0) for values in (trace.commanded - trace.measured, trace.velocity))
    power = float((velocity**2).sum())
    return None if power < len(trace.at_s) * STILL**2 / 4 else float((behind * velocity).sum() / power)


def kinematics_error(measured: np.ndarray, flange: np.ndarray) -> float:
    """[m] from where the robot says its flange (..., 3) [m] is to where its joints (..., 7) [rad] put it, at most."""
    return float(np.linalg.norm(flange_pose(measured)[0] - flange, axis=-1).max())


class Watch:
    """Samples a robot in a thread of its own, until the block of `watched` ends."""

    def __init__(self, robot: Reads) -> None:
        self._robot = robot
        self._samples = list[tuple[float, ArmReading]]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)

    @property
    def trace(self) -> Trace:
        """The samples so far.

        Raises:
            RobotStopped: there is none.
        """
        samples = list(self._samples)
        if not samples:
            raise RobotStopped("the robot gave no reading while it was to move; must give one every millisecond")
        readings = [reading for _, reading in samples]
        return Trace(
            at_s=np.array([at_s for at_s, _ in samples]),
            measured=np.array([reading.measured for reading in readings]),
            commanded=np.array([reading.commanded for reading in readings]),
            velocity=np.array([reading.velocity for reading in readings]),
            flange=np.array([reading.flange for reading in readings]),
            width=np.array([reading.width for reading in readings]),
        )

    @property
    def speed(self) -> float:
        """[rad/s] of the fastest joint in the last sample."""
        return float(abs(self._samples[-1][1].velocity).max()) if self._samples else 0.0

    def _sample(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                reading = self._robot.reading()
            except RelayError:  # whoever moves the robot gets the same error, and reports it
                return
            self._samples.append((time.monotonic(), reading))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def watched(robot: Reads) -> Iterator[Watch]:
    """A watch of a robot for the length of a block."""
    with Watch(robot) as watch:
        yield watch
