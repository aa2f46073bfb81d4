"""Motions of independent joints, sampled at 1 kHz: through a target, and to rest."""

from typing import NamedTuple, Self

import numpy as np

DT = 0.001  # [s] of a sample; a Franka takes commands at this rate


class State(NamedTuple):
    """J joints at one moment."""

    position: np.ndarray  # (J,) [rad]
    velocity: np.ndarray  # (J,) [rad/s]
    acceleration: np.ndarray  # (J,) [rad/s^2]


class Motion(NamedTuple):
    """N samples, the first one DT after the motion begins."""

    position: np.ndarray  # (N, J) [rad]
    velocity: np.ndarray  # (N, J) [rad/s]
    acceleration: np.ndarray  # (N, J) [rad/s^2]

    def at(self, sample: int) -> State:
        """The state at a sample."""
        return State(self.position[sample], self.velocity[sample], self.acceleration[sample])

    def then(self, other: Self) -> Self:
        """This motion, then another that begins where this one ends."""
        return type(self)(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def after(self, samples: int) -> Self:
        """The motion without its first samples."""
        return type(self)(*(values[samples:] for values in self))

    def held(self, samples: int) -> Self:
        """The motion with at least so many samples, its joints held at its end."""
        if len(self.position) >= samples:
            return self
        missing = samples - len(self.position)
        rest = np.zeros((missing, self.position.shape[1]))
        return self.then(type(self)(np.repeat(self.position[-1:], missing, axis=0), rest, rest))

    def toward(self, other: Self, share: np.ndarray) -> Self:
        """The motion at a share (J,) in 0..1 of the way from this one to another of the same length."""
        return type(self)(
            *(np.where(share < 1, mine + share * (its - mine), its) for mine, its in zip(self, other, strict=True))
        )


def through(start: State, end: State, duration: np.ndarray | float, t: np.ndarray) -> Motion:
    """From one state to another in a duration [s], at the times t [s]; both broadcast to (..., J).

    The quintic polynomial, the lowest that meets position, velocity and acceleration at both ends.
    """
    (p, v, a), h = start, duration
    position = end.position - p - v * h - a * h**2 / 2
    velocity = (end.velocity - v - a * h) * h
    acceleration = (end.acceleration - a) * h**2 / 2
    c3 = (10 * position - 4 * velocity + acceleration) / h**3
    c4 = (-15 * position + 7 * velocity - 2 * acceleration) / h**4
    c5 = (6 * position - 3 * velocity + acceleration) / h**5
    return Motion(
        p + t * (v + t * (a / 2 + t * (c3 + t * (c4 + t * c5)))),
        v + t * (a + t * (3 * c3 + t * (4 * c4 + t * 5 * c5))),
        a + t * (6 * c3 + t * (12 * c4 + t * 20 * c5)),
    )


def braking(start: State, acceleration: np.ndarray, jerk: np.ndarray) -> Motion:
    """The fastest way to rest for each joint, within an acceleration (J,) [rad/s^2] and a jerk (J,) [rad/s^3].

    Three phases: the acceleration rises to a peak against the motion, holds, and falls to zero.
    """
    # Against the velocity at which the joint would end if its acceleration were ramped to zero at once.
    left = start.velocity + start.acceleration * abs(start.acceleration) / (2 * jerk)
    sign = np.where(left == 0, np.sign(start.acceleration), -np.sign(left))
    risen, needed = sign * start.acceleration, -sign * start.velocity
    peak = np.minimum(acceleration, np.sqrt(np.maximum(0.0, jerk * needed + risen**2 / 2)))
    rise, fall = np.maximum(0.0, peak - risen) / jerk, peak / jerk
    hold = np.maximum(0.0, needed - (2 * peak**2 - risen**2) / (2 * jerk)) / np.where(peak > 0, peak, 1.0)
    samples = int(np.ceil((rise + hold + fall).max() / DT)) + 1
    t = sample_times(samples)
    p, v, a = start
    for duration, j in ((rise, sign * jerk), (hold, 0.0), (fall, -sign * jerk)):
        u = np.clip(t, 0.0, duration)
        p = p + v * u + a * u**2 / 2 + j * u**3 / 6
        v = v + a * u + j * u**2 / 2
        a = a + j * u
        t = t - duration
    return Motion(p, v, a)


def sample_times(samples: int) -> np.ndarray:
    """The times (N, 1) [s] of N samples."""
    return DT * np.arange(1, samples + 1)[:, None]
