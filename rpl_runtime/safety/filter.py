"""The safety filter: whatever targets a policy gives, the motion that is commanded keeps the robot's limits.

In: a target (m,) each control period. Out: a `Filtered` for that period: the motion at 1 kHz, where it ends, and what
had to be changed. It does no I/O, reads no clock and knows no robot: it starts from a position at rest, and goes on
from what it commanded itself.

A target asks for a motion: to be there when the period ends, at the speed at which the targets themselves move,
(this one - the last one) / period, and not accelerating. To it the fastest way to rest is added. If every sample of
the whole is inside the limits, the target passes unchanged and nothing is counted. Otherwise the joints concerned meet
the target, which moves on as the last two targets agree it does, at the earliest time they can; and what still leaves
the limits is drawn back toward the motion that was commanded before.

Why no sequence of targets leads outside: a motion is commanded only after its every sample, to the last one at rest,
was found inside. So there is always one that is, the rest of the one before, and the arm can stop before the end of a
joint or of its workspace from wherever it is. What is looked at are the samples and their differences at 1 kHz, as
the robot itself sees them: position, velocity (on the FR3 it depends on the position), acceleration and jerk of each
joint, and the place of the flange.

This is software: it keeps what is commanded inside the limits. It is no safety-rated function, and it does not know
what is in the arm's way.
"""

from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import ArmLimits, Profile
from rpl_runtime.safety.motion import DT, Motion, State, braking, sample_times, through

Kind = Literal["position", "velocity", "acceleration", "jerk", "workspace"]

_OF_JOINTS: tuple[Kind, ...] = ("position", "velocity", "acceleration", "jerk")
_HEADROOM = 1 - 1e-6  # of the limits with which motions are made, against rounding
_ROUNDING = 1e-12  # [rad] of the samples of a motion
_ARRIVALS = np.geomspace(1.0, 40.0, 24)[:, None]  # [periods] when a target may be reached that is not in one
_MOMENTS = np.linspace(1 / 32, 1, 32)[:, None, None]  # of such a motion, at which it is looked at before it is made
_HALVINGS = 12  # of the share to which a motion is drawn back
_STILL = 1e-6  # [rad/s, rad/s^2] below which a joint is at rest
# How far outside a start or a reading may lie: simulators draw starts, readings have noise, and joints a little play.
_SLACK = 0.1  # [rad, m] of a joint
_FLANGE_SLACK = 0.02  # [m]


class LimitViolation(NamedTuple):
    """A limit that a target, or the motion it asked for, would not have kept."""

    kind: Kind
    dimension: int | None  # of the target; None for the flange


class Filtered(NamedTuple):
    """What is commanded for one control period of T milliseconds."""

    target: np.ndarray  # (m,) where the period ends; bit for bit the policy's where there was no violation
    velocity: np.ndarray  # (m,) [rad/s] when the period ends; 0 for set-points
    trajectory: np.ndarray  # (T, m) at 1 kHz; the last row is the target
    limit_violations: tuple[LimitViolation, ...]


class SafetyFilter:
    """Turns targets into motions within the limits of a profile.

    Args:
        profile: the limits.
        period_s: [s] one control period.

    Raises:
        InvalidInput: the period is no whole number of milliseconds.
    """

    def __init__(self, profile: Profile, period_s: float) -> None:
        self.profile = profile
        self.counts: Counter[str] = Counter()  # of the limit_violations since the filter was made
        self._samples = round(period_s / DT)
        if self._samples < 1 or abs(self._samples * DT - period_s) > 1e-9:
            raise InvalidInput(f"a control period of {period_s} s; must be a whole number of milliseconds")
        self._arm: _Arm | None = None
        self._target: np.ndarray | None = None  # (m,) the last one, inside its range; None before the start

    @property
    def at_rest(self) -> bool:
        """Whether nothing moves any more when the last period that was asked for ends."""
        return self._arm is None or self._arm.at_rest

    @property
    def position(self) -> np.ndarray:
        """Where (m,) everything is when the last period that was asked for ends.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        position = self._started().copy()
        if self._arm:
            position[: self.profile.joints] = self._arm.position
        return position

    @property
    def resting_place(self) -> np.ndarray:
        """Where (m,) everything comes to rest if no target follows the last one.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        place = self._started().copy()
        if self._arm:
            place[: self.profile.joints] = self._arm.resting_place
        return place

    def start(self, position: np.ndarray) -> None:
        """Begin at rest at a position (m,), which is brought inside its range where it lies a little outside.

        Raises:
            InvalidInput: the position is not finite, of another size, or further outside the limits.
        """
        position = self._vector("start", position)
        inside = np.clip(position, self.profile.low, self.profile.high)
        outside = int(np.argmax(abs(inside - position)))
        if abs(inside - position)[outside] > _SLACK:
            raise InvalidInput(
                f"a start with {position[outside]:.4g} in dimension {outside}; the profile {self.profile.name} "
                f"allows {self.profile.low[outside]:.4g} to {self.profile.high[outside]:.4g}"
            )
        if self.profile.arm:
            self._arm = _Arm(self.profile, self.profile.arm, self._samples, inside[: self.profile.joints])
        self._target = inside

    def step(self, target: np.ndarray) -> Filtered:
        """The next control period, toward a target (m,).

        Raises:
            InvalidInput: the target is not finite or of another size; nothing has moved.
            ProtocolViolation: the filter was not started.
        """
        filtered = self._toward(self._vector("target", target))
        self.counts.update(violation.kind for violation in filtered.limit_violations)
        return filtered

    def hold(self) -> Filtered:
        """The next control period with no new target: to the last one, and to rest there. Counts nothing.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        return self._toward(self._started())

    def stop(self) -> Filtered:
        """The next control period of the way to rest that every motion has ready. Counts nothing.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        motion = self._arm.stop() if self._arm else None
        filtered = self._filtered(self._started(), motion, ())
        self._target = self.resting_place
        return filtered

    def _toward(self, target: np.ndarray) -> Filtered:
        last, profile = self._started(), self.profile
        inside = np.clip(target, profile.low, profile.high)
        found = [LimitViolation("position", int(dimension)) for dimension in np.flatnonzero(inside != target)]
        motion = None
        if self._arm:
            joints = profile.joints
            motion, more = self._arm.step(inside[:joints], last[:joints])
            found += [violation for violation in more if violation not in found]
        self._target = inside
        return self._filtered(inside, motion, tuple(found))

    def _filtered(self, setpoints: np.ndarray, motion: Motion | None, found: tuple[LimitViolation, ...]) -> Filtered:
        trajectory = np.repeat(setpoints[None], self._samples, axis=0)
        velocity = np.zeros_like(setpoints)
        if motion is not None:
            trajectory[:, : self.profile.joints] = motion.position
            velocity[: self.profile.joints] = motion.velocity[-1]
        return Filtered(trajectory[-1].copy(), velocity, trajectory, found)

    def _vector(self, what: str, values: np.ndarray) -> np.ndarray:
        vector = np.asarray(values, dtype=np.float64)
        size = len(self.profile.low)
        if vector.shape != (size,) or not np.isfinite(vector).all():
            raise InvalidInput(f"the {what} is {np.array2string(vector, precision=3)}; must be {size} finite numbers")
        return vector

    def _started(self) -> np.ndarray:
        if self._target is None:
            raise ProtocolViolation("the safety filter was not started; start it where the robot is at rest")
        return self._target


def is_inside(profile: Profile, position: np.ndarray) -> bool:
    """Whether a position (m,) lies in its range, and with it the flange in the workspace."""
    if (position < profile.low).any() or (position > profile.high).any():
        return False
    if profile.arm is None:
        return True
    return _is_flange_inside(position[: profile.joints], profile.arm)


def reading_fault(profile: Profile, reading: np.ndarray, last: np.ndarray, elapsed_s: float) -> str | None:
    """What is wrong with a reading (m,) of a robot's joints, some time [s] after the last one; None if nothing is.

    Wrong are a number that is not finite, a joint or the flange outside its limits, and a joint that went further
    than it can. Each has some slack, so this finds a robot that is not where it is thought to be, not a fine excess.
    """
    if not np.isfinite(reading).all():
        return f"the reading of dimension {int(np.argmin(np.isfinite(reading)))} is not finite"
    outside = np.maximum(profile.low - reading, reading - profile.high)
    at = int(np.argmax(outside))
    if outside[at] > _SLACK:
        return f"dimension {at} is at {reading[at]:.4g}, outside {profile.low[at]:.4g} to {profile.high[at]:.4g}"
    if profile.arm is None:
        return None
    moved = abs(reading - last)[: profile.joints]
    jump = moved - profile.arm.velocity * elapsed_s
    at = int(np.argmax(jump))
    if jump[at] > _SLACK:
        return f"joint {at + 1} jumped by {moved[at]:.4g} rad in {elapsed_s:.3f} s"
    flange, box = _flange(reading[: profile.joints], profile.arm), profile.arm.workspace
    if (flange < np.subtract(box.low, _FLANGE_SLACK)).any() or (flange > np.add(box.high, _FLANGE_SLACK)).any():
        return f"the flange is at {np.round(flange, 3)} m, outside the workspace {box.low} to {box.high}"
    return None


class _Arm:
    """The motion of the J joints of an arm: what was commanded, and what is ready to follow."""

    def __init__(self, profile: Profile, limits: ArmLimits, samples: int, position: np.ndarray) -> None:
        joints = len(position)
        self._low, self._high = profile.low[:joints], profile.high[:joints]
        self._limits = limits
        self._samples = samples  # of a control period
        self._still = np.zeros(joints)
        self._speed = self._still  # [rad/s] of the last targets
        self._now = State(position, self._still, self._still)
        self._past = np.repeat(position[None], 3, axis=0)  # the last three samples
        self._proven = Motion(position[None], self._still[None], self._still[None])  # what comes, up to rest
        if not self._flange_inside(self._proven):
            raise InvalidInput(
                f"a start with the flange at {_flange(position, limits)} m; the profile {profile.name} "
                f"allows {limits.workspace.low} to {limits.workspace.high}"
            )

    @property
    def at_rest(self) -> bool:
        return bool((abs(self._now.velocity) < _STILL).all() and (abs(self._now.acceleration) < _STILL).all())

    @property
    def position(self) -> np.ndarray:
        """Where (J,) [rad] the last period ends."""
        return self._now.position

    @property
    def resting_place(self) -> np.ndarray:
        """Where (J,) [rad] the motion that is ready comes to rest."""
        return self._proven.position[-1]

    def step(self, target: np.ndarray, last: np.ndarray) -> tuple[Motion, list[LimitViolation]]:
        """The motion of a period toward a target (J,), and what the target asked for that it may not have."""
        speed = (target - last) / (self._samples * DT)
        steady = np.where(speed * self._speed > 0, np.sign(speed) * np.minimum(abs(speed), abs(self._speed)), 0.0)
        self._speed = speed
        motion, faults = self._asked(target, speed)
        late = np.asarray(faults.any(axis=0))
        found = [LimitViolation(_OF_JOINTS[kind], int(joint)) for kind, joint in np.argwhere(faults)]
        if late.any():
            motion = self._drawn_back(self._later(target, steady, motion, late), self._joints_inside)
        if not self._flange_inside(motion):
            found.append(LimitViolation("workspace", None))
            motion = self._drawn_back(motion, self._everything_inside)
        return self._advance(motion), found

    def stop(self) -> Motion:
        """The next period of the motion that is ready."""
        self._speed = self._still
        return self._advance(self._proven)

    def _asked(self, target: np.ndarray, speed: np.ndarray) -> tuple[Motion, np.ndarray]:
        """The motion that a target asks for, up to rest, and its faults (4, J)."""
        period, top = self._samples * DT, self._limits.velocity * _HEADROOM
        end = State(target, np.clip(speed, -top, top), self._still)
        motion = through(self._now, end, period, sample_times(self._samples))
        motion.position[-1] = target  # where rounding would miss it by a bit
        motion = self._to_rest(motion)
        faults = self._faults(motion)
        faults[_OF_JOINTS.index("velocity")] |= abs(speed) > top
        return motion, faults

    def _later(self, target: np.ndarray, speed: np.ndarray, asked: Motion, late: np.ndarray) -> Motion:
        """A motion in which the late joints (J,) meet the moving target at the earliest time they can."""
        limits, period = self._limits, self._samples * DT
        durations = period * _ARRIVALS  # (K, 1)
        place = np.clip(target + speed * (durations - period), self._low, self._high)  # (K, J)
        end = State(place, np.clip(speed, *limits.velocity_range(place)), self._still)
        tried = through(self._now, end, durations, _MOMENTS * durations)  # (32, K, J)
        # Near the ends of an FR3's range this is too fast, and drawn back: to wait for what is not would take for ever.
        inside = (  # (32, K, J)
            (tried.position >= self._low - _ROUNDING)
            & (tried.position <= self._high + _ROUNDING)
            & (abs(tried.velocity) <= limits.velocity)
            & (abs(tried.acceleration) <= limits.acceleration)
        )
        inside[:, -1] = True  # whatever it is, what is too much of it is drawn back
        first, joints = np.argmax(inside.all(axis=0), axis=0), np.arange(len(target))
        end = State(place[first, joints], end.velocity[first, joints], self._still)
        motion = self._to_rest(through(self._now, end, durations[first, 0], sample_times(self._samples)))
        length = max(len(motion.position), len(asked.position))
        return motion.held(length).toward(asked.held(length), np.where(late, 0.0, 1.0))

    def _to_rest(self, motion: Motion) -> Motion:
        limits = self._limits
        return motion.then(braking(motion.at(-1), limits.acceleration * _HEADROOM, limits.jerk * _HEADROOM))

    def _faults(self, motion: Motion) -> np.ndarray:
        """(4, J) which limits of `_OF_JOINTS` each joint leaves, from the samples of a motion and their differences."""
        limits, position = self._limits, np.concatenate([self._past, motion.position])
        velocity = np.diff(position, axis=0) / DT
        acceleration = np.diff(velocity, axis=0) / DT
        jerk = np.diff(acceleration, axis=0) / DT
        slowest, fastest = limits.velocity_range(position[2:])
        # A difference belongs to two samples, so the stricter limit of both holds.
        slow = velocity[2:] < np.maximum(slowest[1:], slowest[:-1])
        fast = velocity[2:] > np.minimum(fastest[1:], fastest[:-1])
        outside = (position[3:] < self._low - _ROUNDING) | (position[3:] > self._high + _ROUNDING)
        too_much = abs(acceleration[1:]) > limits.acceleration, abs(jerk) > limits.jerk
        return np.stack([each.any(axis=0) for each in (outside, slow | fast, *too_much)])

    def _flange_inside(self, motion: Motion) -> bool:
        return _is_flange_inside(motion.position, self._limits)

    def _drawn_back(self, motion: Motion, inside: Callable[[Motion], np.ndarray]) -> Motion:
        """The motion with each joint at the largest share found of the way to it from the one that is ready.

        `inside` says of a motion which joints (J,) are inside, or whether all are.
        """
        length = max(len(motion.position), len(self._proven.position))
        ready, motion = self._proven.held(length), motion.held(length)
        good, bad = np.zeros(len(self._still)), np.ones(len(self._still))
        share = bad
        for _ in range(_HALVINGS):
            found = inside(ready.toward(motion, share))
            good, bad = np.where(found, share, good), np.where(found, bad, share)
            if np.all(good == 1):
                break
            share = np.where(good == 1, 1.0, (good + bad) / 2)
        return ready.toward(motion, good)

    def _joints_inside(self, motion: Motion) -> np.ndarray:
        return np.logical_not(self._faults(motion).any(axis=0))

    def _everything_inside(self, motion: Motion) -> np.ndarray:
        return np.array(not self._faults(motion).any() and self._flange_inside(motion))

    def _advance(self, motion: Motion) -> Motion:
        """Command the first period of a motion, and keep the rest ready."""
        motion = motion.held(self._samples + 1)
        commanded = Motion(*(values[: self._samples] for values in motion))
        self._now = commanded.at(-1)
        self._past = np.concatenate([self._past, commanded.position])[-3:]
        self._proven = motion.after(self._samples)
        return commanded


def _flange(joints: np.ndarray, limits: ArmLimits) -> np.ndarray:
    """Where the flange (..., 3) [m] is in the base frame."""
    return flange_pose(joints + limits.zero)[0]


def _is_flange_inside(joints: np.ndarray, limits: ArmLimits) -> bool:
    """Whether the flange is in the workspace at all of some joints (..., J)."""
    flange, box = _flange(joints, limits), limits.workspace
    return bool(((flange >= box.low) & (flange <= box.high)).all())
