"""The safety filter: for any targets of a policy, the commanded motion stays within the robot's limits.

It starts from a position at rest and continues from its own commands; it reads neither a robot nor a clock.

A target (m,) asks for a motion: to be there at the end of the period, at the targets' own speed, (this target - the
last one) / period, without acceleration. A braking motion is appended. If every sample of both is within the limits,
the target passes unchanged. Otherwise the joints that would violate a limit meet the target at the earliest time they
can; for that, the target is taken to move on at the slower of its last two speeds if both have one direction, and to
stand still otherwise. A motion that still leaves the limits is scaled back toward the one commanded before.

Why no sequence of targets leads outside: a motion is *proved* when every sample of it, until the arm is at rest, was
found inside the limits, and only proved motions are commanded. So there is always one to go on with, what remains of
the last one, and the arm can stop before the end of a joint or of its workspace at any time. The checks use samples and
their differences at 1 kHz, as the robot's own do: position, velocity (on the FR3 its limit depends on the position),
acceleration and jerk of each joint, and the flange's place.

This is software, not a safety-rated function, and it detects no obstacles.
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
_HEADROOM = 1 - 1e-6  # share of the limits used for planning, against rounding
_ROUNDING = 1e-12  # [rad] of a motion's samples
_ARRIVALS = np.geomspace(1.0, 40.0, 24)[:, None]  # [periods] candidate times to meet a target that is too far for one
_MOMENTS = np.linspace(1 / 32, 1, 32)[:, None, None]  # shares of such a motion at which it is checked first
_HALVINGS = 12  # of the share to which a motion is scaled back
_STILL = 1e-6  # [rad/s, rad/s^2] below which a joint is at rest
# Accepted excess of a start or a reading: simulators draw starts, readings have noise, and joints a little play.
_SLACK = 0.1  # [rad, m] of a joint
_FLANGE_SLACK = 0.02  # [m]


class LimitViolation(NamedTuple):
    """A limit that a target, or the motion it asked for, would have violated."""

    kind: Kind
    dimension: int | None  # of the target; None for the flange


class Filtered(NamedTuple):
    """The commanded motion for one control period of T milliseconds."""

    target: np.ndarray  # (m,) at the end of the period; without violations bit for bit the policy's
    velocity: np.ndarray  # (m,) [rad/s] at the end of the period; 0 for set-points
    trajectory: np.ndarray  # (T, m) at 1 kHz; the last row is the target
    limit_violations: tuple[LimitViolation, ...]


class SafetyFilter:
    """Turns targets into motions within the limits of a profile.

    Args:
        profile: the limits.
        period_s: [s] one control period.

    Raises:
        InvalidInput: the period is not a whole number of milliseconds.
    """

    def __init__(self, profile: Profile, period_s: float) -> None:
        self.profile = profile
        self.counts: Counter[str] = Counter()  # violations since the filter was made
        self._samples = round(period_s / DT)
        if self._samples < 1 or abs(self._samples * DT - period_s) > 1e-9:
            raise InvalidInput(f"the control period is {period_s} s; must be a whole number of milliseconds")
        self._arm: _Arm | None = None
        self._target: np.ndarray | None = None  # (m,) the last one, within its range; None before the start

    @property
    def at_rest(self) -> bool:
        """Whether the last commanded period ends at rest."""
        return self._arm is None or self._arm.at_rest

    @property
    def position(self) -> np.ndarray:
        """The position (m,) at the end of the last commanded period.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        position = self._started().copy()
        if self._arm:
            position[: self.profile.joints] = self._arm.position
        return position

    @property
    def resting_place(self) -> np.ndarray:
        """The position (m,) where the robot comes to rest if no other target follows.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        place = self._started().copy()
        if self._arm:
            place[: self.profile.joints] = self._arm.resting_place
        return place

    def start(self, position: np.ndarray) -> None:
        """Begin at rest at a position (m,); one a little outside its range is clipped.

        Raises:
            InvalidInput: the position is not finite, of another size, or further outside the limits.
        """
        position = self._vector("start", position)
        inside = np.clip(position, self.profile.low, self.profile.high)
        outside = int(np.argmax(abs(inside - position)))
        if abs(inside - position)[outside] > _SLACK:
            raise InvalidInput(
                f"a start with {position[outside]:.4g} in dimension {outside}, under the profile {self.profile.name}; "
                f"must be {self.profile.low[outside]:.4g} to {self.profile.high[outside]:.4g}"
            )
        if self.profile.arm:
            self._arm = _Arm(self.profile, self.profile.arm, self._samples, inside[: self.profile.joints])
        self._target = inside

    def resume(self, before: np.ndarray, ahead: np.ndarray) -> None:
        """Go on from a motion of the arm (J joints) that was proved and is commanded elsewhere.

        Args:
            before: (3, J) [rad] what was commanded last, at 1 kHz, evenly.
            ahead: (N, J) [rad] what would follow, at 1 kHz, up to rest.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        self._started()
        if self._arm:
            self._arm.resume(before, ahead)

    def step(self, target: np.ndarray) -> Filtered:
        """The next control period, toward a target (m,).

        Raises:
            InvalidInput: the target is not finite or of another size; nothing has moved.
            ProtocolViolation: the filter was not started.
        """
        target, last, profile = self._vector("target", target), self._started(), self.profile
        inside = np.clip(target, profile.low, profile.high)
        found = [LimitViolation("position", int(dimension)) for dimension in np.flatnonzero(inside != target)]
        motion = None
        if self._arm:
            motion, more = self._arm.step(inside[: profile.joints], last[: profile.joints])
            found += [violation for violation in more if violation not in found]
        self._target = inside
        self.counts.update(violation.kind for violation in found)
        return self._filtered(inside, motion, tuple(found))

    def stop(self) -> Filtered:
        """The next control period of the proved motion to rest. No limit is violated, so none is counted.

        Raises:
            ProtocolViolation: the filter was not started.
        """
        motion = self._arm.stop() if self._arm else None
        filtered = self._filtered(self._started(), motion, ())
        self._target = self.resting_place
        return filtered

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
            raise ProtocolViolation("the safety filter was not started; must be started where the robot is at rest")
        return self._target


def reading_fault(profile: Profile, reading: np.ndarray, last: np.ndarray, elapsed_s: float) -> str | None:
    """The fault in a reading (m,) of a robot's joints, taken a time [s] after the last one (m,); None if there is none.

    Faults are a number that is not finite, a joint or the flange outside its limits, and a joint that moved further
    than it can. With some slack, so this finds a robot that is in the wrong place, not a slight excess.
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
    """The motion of the J joints of an arm: the samples commanded, and the proved ones that follow, up to rest."""

    def __init__(self, profile: Profile, limits: ArmLimits, samples: int, position: np.ndarray) -> None:
        joints = len(position)
        self._low, self._high = profile.low[:joints], profile.high[:joints]
        self._limits = limits
        self._samples = samples  # of a control period
        self._still = np.zeros(joints)
        self._speed = self._still  # [rad/s] of the last targets
        self._now = State(position, self._still, self._still)
        self._past = np.repeat(position[None], 3, axis=0)  # the last three samples
        self._proven = Motion(position[None], self._still[None], self._still[None])  # what follows, up to rest
        if not self._flange_inside(self._proven):
            raise InvalidInput(
                f"a start with the flange at {_flange(position, limits)} m, under the profile {profile.name}; "
                f"must be inside {limits.workspace.low} to {limits.workspace.high}"
            )

    @property
    def at_rest(self) -> bool:
        return bool((abs(self._now.velocity) < _STILL).all() and (abs(self._now.acceleration) < _STILL).all())

    @property
    def position(self) -> np.ndarray:
        """At the end of the last period, (J,) [rad]."""
        return self._now.position

    @property
    def resting_place(self) -> np.ndarray:
        """Of the proved motion, (J,) [rad]."""
        return self._proven.position[-1]

    def resume(self, before: np.ndarray, ahead: np.ndarray) -> None:
        velocity = np.diff(np.vstack([before[-1:], ahead]), axis=0) / DT
        acceleration = np.diff(np.vstack([velocity[:1], velocity]), axis=0) / DT
        self._now, self._past = State(before[-1], (before[-1] - before[-2]) / DT, self._still), before
        self._proven = Motion(ahead, velocity, acceleration)

    def step(self, target: np.ndarray, last: np.ndarray) -> tuple[Motion, list[LimitViolation]]:
        """A period's motion toward a target (J,), given the last one (J,), and the limits it would have violated."""
        speed = (target - last) / (self._samples * DT)
        # (J,) [rad/s] at which the target is taken to move on
        steady = np.where(speed * self._speed > 0, np.sign(speed) * np.minimum(abs(speed), abs(self._speed)), 0.0)
        self._speed = speed
        motion, faults = self._asked(target, speed)
        late = np.asarray(faults.any(axis=0))  # (J,) the joints that cannot be at the target at the end of the period
        found = [LimitViolation(_OF_JOINTS[kind], int(joint)) for kind, joint in np.argwhere(faults)]
        if late.any():
            motion = self._scaled_back(
                self._later(target, steady, motion, late), lambda tried: np.logical_not(self._faults(tried).any(axis=0))
            )
        if not self._flange_inside(motion):
            found.append(LimitViolation("workspace", None))
            motion = self._scaled_back(
                motion, lambda tried: np.array(not self._faults(tried).any() and self._flange_inside(tried))
            )
        return self._advance(motion), found

    def stop(self) -> Motion:
        """The next period of the proved motion."""
        self._speed = self._still
        return self._advance(self._proven)

    def _asked(self, target: np.ndarray, speed: np.ndarray) -> tuple[Motion, np.ndarray]:
        """The motion that a target (J,) asks for at a speed (J,), up to rest, and its faults (4, J)."""
        period, top = self._samples * DT, self._limits.velocity * _HEADROOM
        end = State(target, np.clip(speed, -top, top), self._still)
        motion = through(self._now, end, period, sample_times(self._samples))
        motion.position[-1] = target  # without the rounding
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
        # The FR3's lower velocity near the ends of its range is left to scaling back: to keep it would take forever.
        inside = (  # (32, K, J)
            (tried.position >= self._low - _ROUNDING)
            & (tried.position <= self._high + _ROUNDING)
            & (abs(tried.velocity) <= limits.velocity)
            & (abs(tried.acceleration) <= limits.acceleration)
        )
        inside[:, -1] = True  # the last resort, scaled back if need be
        first, joints = np.argmax(inside.all(axis=0), axis=0), np.arange(len(target))
        end = State(place[first, joints], end.velocity[first, joints], self._still)
        motion = self._to_rest(through(self._now, end, durations[first, 0], sample_times(self._samples)))
        length = max(len(motion.position), len(asked.position))
        return motion.held(length).toward(asked.held(length), np.where(late, 0.0, 1.0))

    def _to_rest(self, motion: Motion) -> Motion:
        limits = self._limits
        return motion.then(braking(motion.at(-1), limits.acceleration * _HEADROOM, limits.jerk * _HEADROOM))

    def _faults(self, motion: Motion) -> np.ndarray:
        """(4, J) which limits of `_OF_JOINTS` each joint violates, from a motion's samples and their differences."""
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
        """Whether the flange is in the workspace for all of a motion."""
        flange, box = _flange(motion.position, self._limits), self._limits.workspace
        return bool(((flange >= box.low) & (flange <= box.high)).all())

    def _scaled_back(self, motion: Motion, inside: Callable[[Motion], np.ndarray]) -> Motion:
        """Each joint at the largest share found of the way from the proved motion to this one.

        `inside` tells which joints (J,) of a motion are inside, or whether all are.
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

    def _advance(self, motion: Motion) -> Motion:
        """Command the first period of a proved motion, and keep what remains of it."""
        motion = motion.held(self._samples + 1)
        commanded = Motion(*(values[: self._samples] for values in motion))
        self._now = commanded.at(-1)
        self._past = np.concatenate([self._past, commanded.position])[-3:]
        self._proven = motion.after(self._samples)
        return commanded


def _flange(joints: np.ndarray, limits: ArmLimits) -> np.ndarray:
    """The flange's place (..., 3) [m] in the base frame, for joints (..., J) [rad]."""
    return flange_pose(joints + limits.zero)[0]
