"""The calibration of a robot's senses and hand, measured on a resting scene and with two small motions."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages, Body
from rpl_runtime.estimation.late import arm_age

NOISE_FLOOR = 1e-4  # [the dimension's unit] an object whose dimensions all tremble by less counts as exact
_SETTLE, _REST = 25, 75  # [periods] until the arm hangs still; for which the scene rests
_HAND = 60  # [periods] for a hand's two commands
_CLOSING = 0.25  # share of its width by which a hand must have closed to count as closing
_SWINGS, _SWING, _TURN = 3, 16, 0.12  # of the arm: number, [periods] of each, [rad or m]
_NONE_S = 0.02  # [s] an arm that is late by less counts as seen at once: that is the accuracy of the measurement
_WATCHED = 25  # readings until noise is told from motion
_FOLLOWS_S = 0.3  # [s] fingers that turn back within this follow every target


class Calibration(BaseModel):
    """The faults of a robot's senses and hand."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[str, ...]  # of the state's dimensions
    rest: tuple[float, ...]  # mean of each one's readings at rest, in its unit; 0 for the robot's own
    sigma: tuple[float, ...]  # their standard deviation
    arm_age_s: float | None = Field(default=None, ge=0)  # [s] of the arm when it is read; None: unknown
    object_age_s: float | None = Field(default=None, ge=0)  # [s] of the objects, by their timestamps; None: unknown
    hand_s: float | None = Field(default=None, ge=0)  # [s] of one command of the hand; None: it follows every target

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.names) == len(self.rest) == len(self.sigma) or min(self.sigma, default=0.0) < 0:
            raise ValueError("rest and sigma must have one number for each name, and sigma none below 0")
        return self

    def checked(self, names: Sequence[str]) -> Self:
        """The calibration itself, for a state with these dimensions.

        Raises:
            InvalidInput: it belongs to another state.
        """
        if self.names != tuple(names):
            raise InvalidInput(
                f"the calibration is of a state with {len(self.names)} dimensions ({', '.join(self.names[:3])}, ...) "
                f"and the policy's has {len(names)} ({', '.join(list(names)[:3])}, ...); must be the same"
            )
        return self


class Sensed(NamedTuple):
    """One observation of a calibration."""

    reading: np.ndarray  # (n,)
    ages: Ages


def calibrating(
    body: Body, names: Sequence[str], first: Sensed, target: np.ndarray, period_s: float
) -> Generator[np.ndarray, Sensed, Calibration]:
    """The motion of a calibration: yields the target (m,) of each control period, takes what is sensed at its end.

    The scene rests; the hand closes and opens once; the last joints of the arm turn to and fro by 0.12 rad.

    Args:
        names: of the state's dimensions.
        first: the observation before the first target.
        target: (m,) holds the arm where it is, with the hand open.
    """
    sensed = first
    for _ in range(_SETTLE):
        sensed = yield target
    rest = []
    for _ in range(_REST):
        rest.append((yield target))
    hand_s = (yield from _hand(body, sensed.reading, target, period_s)) if body.hand is not None else None
    arm_age_s = (yield from _arm(body, target, period_s)) if body.servo is not None else None
    if hand_s is not None:
        hand_s -= arm_age_s or 0.0  # it is seen as late as the arm
    center, sigma = np.zeros(len(names)), np.zeros(len(names))
    for dims in map(list, body.objects):
        readings = np.array([each.reading[dims] for each in rest], dtype=np.float64)
        # A sensor that saw nothing new repeats itself: each sighting counts once.
        fresh = readings[np.append(True, (np.diff(readings, axis=0) != 0).any(axis=1))]
        center[dims], sigma[dims] = fresh.mean(axis=0), fresh.std(axis=0, ddof=min(1, len(fresh) - 1))
    ages = [each.ages.objects_s for each in rest if each.ages.objects_s is not None]
    return Calibration(
        names=tuple(names),
        rest=tuple(center.tolist()),
        sigma=tuple(sigma.tolist()),
        arm_age_s=arm_age_s,
        object_age_s=float(np.median(ages)) if ages else None,
        hand_s=None if hand_s is None or hand_s <= _FOLLOWS_S else hand_s,
    )


def _hand(
    body: Body, reading: np.ndarray, target: np.ndarray, period_s: float
) -> Generator[np.ndarray, Sensed, float | None]:
    """[s] from a command to close until the next one, to open, shows; None if the hand does not close."""
    assert body.hand is not None
    dims, fingers = list(body.hand.dims), list(body.hand.targets)
    closed = target.copy()
    closed[fingers] = 0.0
    widths = [float(reading[dims].sum())]
    for period in range(_HAND):
        # Asked to close for one period only: a slow hand opens again once it has done that.
        sensed = yield target if period else closed
        widths.append(float(sensed.reading[dims].sum()))
    lowest = min(widths)
    if lowest > (1 - _CLOSING) * widths[0]:
        return None
    margin = 0.05 * (widths[0] - lowest)
    return period_s * max(period for period, width in enumerate(widths) if width <= lowest + margin)


def _arm(body: Body, target: np.ndarray, period_s: float) -> Generator[np.ndarray, Sensed, float | None]:
    """[s] of the age of the arm's readings: the one with which the servo model explains a small motion best."""
    assert body.servo is not None
    arm, joints = list(body.arm), list(body.arm_targets)
    targets, readings = [], []
    for period in range(_SWINGS * _SWING):
        turned = target.copy()
        # Evenly, so that the limits of a real arm do not delay it.
        turned[joints[len(joints) // 2 :]] += _TURN / 2 * (1 - np.cos(2 * np.pi * period / _SWING))
        targets.append(turned[joints])
        sensed = yield turned
        readings.append(sensed.reading[arm].astype(np.float64))
    age_s = arm_age(body.servo, np.array(readings), targets, period_s)
    return age_s if age_s >= _NONE_S else 0.0


class NoiseWatch:
    """Tells a robot whose objects all tremble from one whose objects move, from its first readings.

    Args:
        body: the task's objects; nearly all of them are at rest at any time.
    """

    def __init__(self, body: Body) -> None:
        self._objects, self._readings = body.objects, list[np.ndarray]()

    def see(self, reading: np.ndarray) -> float | None:
        """Take a reading (n,). Returns the median object's noise [its unit] once, when it is known and not exact."""
        if len(self._readings) >= _WATCHED:
            return None
        self._readings.append(reading)
        if len(self._readings) < _WATCHED:
            return None
        # Of successive differences, in which a motion counts little.
        noise = np.diff(self._readings, axis=0).std(axis=0) / np.sqrt(2)
        median = float(np.median([noise[list(dims)].max() for dims in self._objects]))
        return median if median > NOISE_FLOOR else None
