"""An arm that is seen late, predicted from the targets that it was given since.

The servo model gives the motion from one time to another. What it lacks (weight, contact, a slower robot) is a load for
each joint, found from each pair of readings.
"""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from rpl_runtime.estimation.body import Servo

_GAIN = 0.3  # share of the newest load in the estimate; 0.1 to 0.8 predict a kitchen's arm about as well
_LATEST = 100  # [periods] an older reading counts as this old
_AGES = np.arange(0.0, 8.0, 0.05)  # [periods] ages that are tried


class ArmPredictor:
    """Where the arm is now, from a reading that is older. Times are counted in control periods.

    Args:
        servo: the motion of the arm's k joints.
        period_s: [s] one control period, for which a target is held.
    """

    def __init__(self, servo: Servo, period_s: float) -> None:
        self._servo, self._period_s = servo, period_s
        self._targets = deque[np.ndarray | None](maxlen=2 * _LATEST)  # (k,) by period; None: the arm rested
        self._periods = 0  # of the run, of whose last ones the targets are
        self._load = np.zeros(0)  # (k,)
        self._before: tuple[float, np.ndarray] | None = None  # the last reading, and its time

    def command(self, target: np.ndarray | None) -> None:
        """The target (k,) of the next period, or None if the arm comes to rest in it."""
        self._targets.append(None if target is None else np.asarray(target, dtype=np.float64))
        self._periods += 1

    def now(self, reading: np.ndarray, age_s: float) -> np.ndarray:
        """The arm (k,) now, from a reading (k,) of some time [s] ago."""
        position, now = reading.astype(np.float64), float(self._periods)
        at = now - min(age_s / self._period_s, _LATEST)
        self._learn(position, at)
        self._before = at, position
        return self._moved(position, at, now, self._load)

    def _learn(self, position: np.ndarray, at: float) -> None:
        """Correct the load by what moved the arm between the last reading and this one."""
        if not self._load.size:
            self._load = np.zeros_like(position)
        if self._before is None or at <= (begin := self._before[0]) or at <= 0:
            return
        if 0 < self._first > begin:  # the targets since then are forgotten
            return
        without = self._moved(self._before[1], begin, at, np.zeros_like(position))
        effect = self._moved(self._before[1], begin, at, np.ones_like(position)) - without
        shown = effect != 0  # not by a joint at the end of its range, nor by an arm without a target
        found = np.divide(position - without, effect, out=self._load.copy(), where=shown)
        self._load = self._load + _GAIN * (found - self._load)

    def _moved(self, position: np.ndarray, begin: float, end: float, load: np.ndarray) -> np.ndarray:
        return _moved(self._servo, self._targets, self._period_s, position, begin, end, load, self._first)

    @property
    def _first(self) -> int:
        """The period of the oldest target that is kept."""
        return self._periods - len(self._targets)


def arm_age(servo: Servo, readings: np.ndarray, targets: Sequence[np.ndarray], period_s: float) -> float:
    """The age [s] of an arm's readings with which the servo model explains best how one leads to the next.

    Args:
        readings: (T, k) one at the end of each control period.
        targets: T targets (k,), one for each period.
        period_s: [s] one control period.
    """

    def unexplained(age: float) -> float:
        without, with_one = (
            np.array(
                [
                    _moved(servo, targets, period_s, reading, at - age, at + 1 - age, np.full_like(reading, load))
                    for at, reading in enumerate(readings[:-1], start=1)
                ]
            )
            for load in (0.0, 1.0)
        )
        left, effect = readings[1:] - without, with_one - without
        load = (left * effect).sum(axis=0) / np.maximum((effect**2).sum(axis=0), np.finfo(np.float64).tiny)
        return float(((left - load * effect) ** 2).sum())

    return float(min(_AGES, key=unexplained)) * period_s


def _moved(
    servo: Servo,
    targets: Sequence[np.ndarray | None],
    period_s: float,
    position: np.ndarray,
    begin: float,
    end: float,
    load: np.ndarray,
    first: int = 0,
) -> np.ndarray:
    """The position (k,) at a time [periods], from one at an earlier time, with targets (k,) of the periods from `first`
    on.
    """
    while begin < end:
        period = math.floor(begin)
        until = min(end, period + 1.0)
        target = targets[period - first] if 0 <= period - first < len(targets) else None
        if target is not None:
            position = servo(position, target, load, (until - begin) * period_s)
        begin = until
    return position
