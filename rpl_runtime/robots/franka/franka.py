"""A Franka arm with its hand, a Panda or an FR3, driven by the kitchen's policies.

Its state is the kitchen's: arm and hand as measured, objects from a source. Call `observe` and `apply` once a control
period. A target passes three stages on its way to the motors, each with one job:

    course   where the kitchen's soft servos would have the arm at the end of the period (tasks/kitchen/servo.py)
    filter   a motion there, and from there to rest, proved at 1 kHz within the profile's limits (safety/filter.py)
    Ruckig   the motion itself, every millisecond, in the robot's control loop (in the vendor's client library)

The filter comes after the course because its limits are the arm's, and the arm never reaches a policy's target. Ruckig
takes no samples, so it gets the end and the resting place of each proved motion, and the same limits. A test compares
the two at 1 kHz.

This is a software stop, through the same cable and library that move the robot, and not a safety-rated one: keep the
robot's own emergency stop in your hand.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime.errors import InvalidInput, RobotStopped, RobotUnavailable
from rpl_runtime.robots.franka.fci import Arm, ArmState, franky, translated
from rpl_runtime.robots.franka.frames import JOINT_ZERO, to_franka, to_kitchen
from rpl_runtime.robots.franka.hand import Hand, HandConfig
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import Filtered, SafetyFilter, is_inside
from rpl_runtime.safety.limits import Profile
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, PERIOD, ROBOT_DIM
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, Course, course
from rpl_runtime.tasks.kitchen.simulator import checked_target

if TYPE_CHECKING:  # it imports this package
    from rpl_runtime.robots.objects import ObjectSource

# (7,) [rad] FrankaKitchen-v1's arm at the start of an episode, in the kitchen's zeros.
HOME = np.array([0.1484, -1.7685, 1.8439, -2.4769, 0.2603, 0.7125, 1.5952])
_HOMING_SPEED = 0.2  # share of the limits on the way there
_DOWN = (0.0, 0.0, -9.81)  # [m/s^2] in the base's frame: the arm stands upright
_LOOK_S = 0.02  # [s] between two checks on the way there
_INSIDE = 0.005  # [rad] that a joint stays inside its range there
_ASTRAY = 0.15  # [rad] largest accepted distance from where the arm was led
_STILL = 1e-3  # [rad/s] below which a commanded joint is at rest

# A motion that takes over from another starts with the speed and acceleration that the robot reports, a millisecond
# old. Both are exact while the speed is constant, and so it is for this long before and after the end of a period.
_EVEN_S = 0.01  # [s]
# The filter gets this share of Ruckig's acceleration, since a motion that ends at constant speed needs more to arrive
# in time. Ruckig gets this share of the profile's jerk for its motions, which start from rounded values.
_ACCELERATION_SHARE = 0.65
_JERK_SHARE = 0.8
_SHARE = 0.8  # fraction of the largest speed change per period requested from Ruckig
_NO_FILTER = 1000.0  # [Hz] libfranka's kMaxCutoffFrequency: its low-pass filter would delay the reported values


@dataclass(frozen=True)
class Load:
    """The load in the hand, as libfranka's setLoad takes it."""

    mass: float  # [kg]
    center: tuple[float, float, float]  # [m] of mass, in the frame of the flange
    inertia: tuple[float, ...]  # (9,) [kg m^2] about it, column by column


@dataclass(frozen=True)
class FrankaConfig:
    profile: Profile = PROFILES["fr3"]  # the limits, in Franka's own zeros, and the workspace of the flange
    speed: float = 1.0  # share (0, 1] of the profile's velocity, acceleration and jerk
    torque_threshold: float = 30.0  # [Nm] in a joint, above which the robot detects a collision and stops itself
    force_threshold: float = 40.0  # [N, Nm] at the hand, likewise
    load: Load | None = None
    hand: HandConfig = field(default_factory=HandConfig)
    realtime: bool = True  # insist on a real-time kernel, as the vendor asks; a simulated robot needs none
    dry_run: bool = False  # do everything but command the motors

    def __post_init__(self) -> None:
        if self.profile.arm is None:
            raise InvalidInput(f"the profile is {self.profile.name}; must be one with an arm: panda or fr3")
        if not 0 < self.speed <= 1:
            raise InvalidInput(f"the speed is {self.speed}; must be a share of the limits above 0, at most 1")


class FrankaRobot:
    """One Franka (the `LiveRobot` protocol).

    Args:
        host: name or address of the robot's control interface.
        objects: the source of the objects' states.
        config: limits and thresholds, which are set on the robot.

    Raises:
        MissingExtra: the `franka` extra is not installed.
        RobotUnavailable: no robot answers at the host, or it refuses the connection or a setting.
    """

    waits = False

    def __init__(self, host: str, objects: "ObjectSource", config: FrankaConfig | None = None) -> None:
        self.host = host
        self.config = config or FrankaConfig()
        # Of the last target, in the kitchen's zeros; also in a dry run.
        self.course: Course | None = None
        self.filtered: Filtered | None = None
        self._objects = objects
        self._robot = np.zeros(ROBOT_DIM)  # (9,) [rad, m] seen last, in the kitchen's zeros
        self._done: frozenset[str] = frozenset()
        self._moving = False
        self._sent_ms = 0  # [ms] on the robot's clock, of the last command
        library = franky()
        realtime = library.RealtimeConfig.Enforce if self.config.realtime else library.RealtimeConfig.Ignore
        with translated(f"no robot to drive at {host}", RobotUnavailable):
            self._arm: Arm = library.Robot(host, realtime_config=realtime)
            self.profile = self._set_up()  # the filter's limits, in the kitchen's zeros
            self._safety = SafetyFilter(self.profile, PERIOD)
            self._hand = Hand(library.Gripper(host), self.config.hand)

    @property
    def limit_violations(self) -> Counter[str]:
        """How many limits the targets so far would have violated, by kind."""
        return self._safety.counts

    def reset(self, seed: int) -> None:
        """Open the hand and go slowly to the start of the kitchen's episodes; in a dry run, stay. Blocks until there.

        Raises:
            RobotStopped: the robot stopped on the way.
            InvalidInput: the start is outside the profile's workspace; nothing has moved.
            ObjectsLost: the source does not see the objects.
        """
        self.stop()
        self._state()
        low, high = self.profile.low[:ARM_DIM], self.profile.high[:ARM_DIM]
        home = np.clip(HOME, low + _INSIDE, high - _INSIDE)
        self._safety.start(np.append(home, self._robot[ARM_DIM:]))
        if not self.config.dry_run:
            self._hand.open()
            self._go_home(to_franka(home))
        self._measure()
        self._objects.reset(seed, self._robot)

    def observe(self) -> np.ndarray:
        """The state (30,) [rad, m, quaternion wxyz], float32.

        Raises:
            RobotStopped: a reflex, the user's stop, a lost connection.
            ObjectsLost: the source no longer sees the objects.
        """
        self._measure()
        seen = self._objects.read(self._robot)
        if seen.robot is not None:
            self._robot = seen.robot
        state = np.append(self._robot, seen.objects)
        self._done = frozenset(name for name, element in ELEMENTS.items() if element.is_done(state))
        return state.astype(np.float32)

    def apply(self, target: np.ndarray) -> None:
        """Follow a target (9,) [rad, m] for one period from now, then come to rest; returns at once.

        Raises:
            InvalidInput: the target is not 9 finite numbers; nothing has changed.
            ProtocolViolation: there was no reset.
            RobotStopped: the robot stopped by itself, or is not where it was led.
        """
        target = checked_target(target)
        state = self._state()
        place = self._place(state)
        gravity = np.ravel(self._arm.model.gravity(state, _DOWN))
        self.course = course(place, self._robot[:ARM_DIM], target[:ARM_DIM], gravity, PERIOD)
        self.filtered = self._safety.step(np.append(self.course.position, target[ARM_DIM:]))
        if self.config.dry_run:
            return
        with self._driven():
            self._arm.move(self._motion(self._arm.state, self.filtered), asynchronous=True, cutoff_frequency=_NO_FILTER)
            self._moving, self._sent_ms = True, state.time.to_msec()
        self._hand.follow(target[ARM_DIM:])

    def done(self) -> frozenset[str]:
        """The elements at their goal in the last observation."""
        return self._done

    def stop(self) -> None:
        """Brake within the limits, and return when at rest. The hand finishes its command and keeps its hold.

        Raises:
            RobotStopped: the robot stopped by itself instead.
        """
        if self._moving:
            with self._driven():
                self._arm.move(self._braking())
            self._moving = False

    def close(self) -> None:
        """Stop and disconnect."""
        with contextlib.ExitStack() as stack:
            stack.callback(delattr, self, "_arm")  # disconnects
            stack.callback(self._objects.close)
            stack.callback(self._hand.close)
            self.stop()

    def _set_up(self) -> Profile:
        """Set the robot's limits and thresholds. Returns the limits for the filter."""
        config, arm, limits = self.config, self._arm, self.config.profile.arm
        assert limits is not None  # checked by the configuration
        # franky 2.0.0 has the Panda's limits for an FR3 too, and accepts no higher ones.
        limits = replace(
            limits,
            velocity=np.minimum(limits.velocity, arm.joint_velocity_limit.max),
            acceleration=np.minimum(limits.acceleration, arm.joint_acceleration_limit.max),
            jerk=np.minimum(limits.jerk, arm.joint_jerk_limit.max),
        )
        drawn = replace(config.profile, arm=limits).slowed(config.speed, config.speed, config.speed * _JERK_SHARE)
        assert drawn.arm is not None
        self._drawn = drawn.arm  # Ruckig's limits
        arm.joint_velocity_limit.set(drawn.arm.velocity)
        arm.joint_acceleration_limit.set(drawn.arm.acceleration)
        arm.joint_jerk_limit.set(drawn.arm.jerk)
        arm.set_collision_behavior(config.torque_threshold, config.force_threshold)
        if config.load is not None:
            arm.set_load(config.load.mass, config.load.center, config.load.inertia)
        return drawn.slowed(1.0, _ACCELERATION_SHARE, 1.0).rezeroed(JOINT_ZERO)

    def _go_home(self, home: np.ndarray) -> None:
        """Go slowly to joints (7,) [rad]; Ctrl-C stops the arm on its way."""
        motion = franky().JointMotion(home, relative_dynamics_factor=_HOMING_SPEED)
        with self._driven():
            self._arm.move(motion, asynchronous=True)
        self._moving = True
        try:
            while self._moving:
                with self._driven():
                    # In short waits: a call that waited for the end would handle no signal before.
                    self._moving = not self._arm.join_motion(timeout=_LOOK_S)
        except KeyboardInterrupt:
            self.stop()
            raise

    @contextlib.contextmanager
    def _driven(self) -> Iterator[None]:
        """A block of calls to the arm. If one fails, the robot has stopped by itself."""
        try:
            with translated(f"the robot at {self.host} stopped"):
                yield
        except RobotStopped:
            self._moving = False
            raise

    def _state(self) -> ArmState:
        """The arm's state.

        Raises:
            RobotStopped: the robot is in a mode or an error in which it cannot move.
        """
        modes = franky().RobotMode
        able = {modes.Idle, modes.Move} | ({modes.Guiding} if self.config.dry_run else set())
        with self._driven():
            if self._moving:
                self._arm.poll_motion()  # raises what ended the motion
            state = self._arm.state
            if state.robot_mode not in able:
                errors = state.current_errors
                named = [name for name in dir(errors) if not name.startswith("_") and getattr(errors, name) is True]
                raise RobotStopped(
                    f"the robot at {self.host} is in mode {state.robot_mode.name} "
                    f"({', '.join(named) or 'no error is named'}); must be Idle or Move: release its stop, or recover "
                    f"it from its error"
                )
        return state

    def _measure(self) -> None:
        self._robot = np.append(self._arm_seen(self._state()), [self._hand.width / 2] * 2)

    def _arm_seen(self, state: ArmState) -> np.ndarray:
        """Where (7,) [rad] the arm will be when the next target takes over, in the kitchen's zeros.

        The measured arm trails the commanded one, and a policy trained without delay does much worse with 20 ms of it.
        So the policy sees the commanded arm.

        Raises:
            RobotStopped: the measured arm is somewhere else.
        """
        if not self._moving:
            return to_kitchen(state.q)
        self._check_led(abs(np.subtract(state.q, state.q_d)))
        remaining_s = PERIOD - (state.time.to_msec() - self._sent_ms) / 1000
        return to_kitchen(state.q_d) + np.clip(remaining_s, 0.0, _EVEN_S) * np.ravel(state.dq_d)

    def _check_led(self, astray: np.ndarray) -> None:
        """Check the distances (7,) [rad] between where the arm was led and where it is.

        Raises:
            RobotStopped: one is too large, or not finite.
        """
        if not astray.max() <= _ASTRAY:  # also if it is NaN
            joint = int(np.argmax(astray))
            raise RobotStopped(
                f"joint {joint + 1} is {astray[joint]:.3f} rad from where it was led; must be at most {_ASTRAY} rad"
            )

    def _place(self, state: ArmState) -> np.ndarray:
        """Where (7,) [rad] the arm was led by now; the filter continues from there.

        Raises:
            RobotStopped: the arm is somewhere else.
            InvalidInput: in a dry run, the arm is outside its limits.
        """
        commanded = to_kitchen(state.q_d)
        # In periods without a target the arm has moved on towards rest.
        gone = round((state.time.to_msec() - self._sent_ms) / (1000 * PERIOD)) - 1
        while self._moving and gone > 0 and not self._safety.at_rest:
            self._safety.stop()
            gone -= 1
        if self.config.dry_run:
            self._start_at(to_kitchen(state.q))
        elif not self._moving or (self._safety.at_rest and abs(np.ravel(state.dq_d)).max() < _STILL):
            # Ruckig's resting place is close to the filter's, and at a limit may be past it.
            self._start_at(commanded, only_inside=True)
        place = self._safety.position[:ARM_DIM]
        if not self.config.dry_run:
            self._check_led(abs(commanded - place))
        return place

    def _start_at(self, joints: np.ndarray, only_inside: bool = False) -> None:
        """Restart the filter from joints (7,) [rad] at rest, or only if they are inside the limits."""
        position = np.append(joints, self._safety.position[ARM_DIM:])
        if not only_inside or is_inside(self.profile, position):
            self._safety.start(position)

    def _motion(self, state: ArmState, filtered: Filtered) -> object:
        """A motion to the speed at the proved period's end, at that speed a little past it, then to rest.

        The speed is corrected for the error in place that would be left. Asking for the place itself would be exact as
        long as periods are exact; but from a little beside it Ruckig may find no way to arrive at that speed and time,
        and then swings back first.
        """
        now, speed = to_kitchen(state.q_d), np.ravel(state.dq_d)
        place, next_speed = filtered.target[:ARM_DIM], filtered.velocity[:ARM_DIM]
        ramp_s = PERIOD - _EVEN_S
        next_speed = next_speed + (place - now - _ramp(speed, next_speed, ramp_s) - _EVEN_S * next_speed) / PERIOD
        acceleration, jerk = self._drawn.acceleration, self._drawn.jerk
        change = _SHARE * acceleration * (ramp_s - acceleration / jerk)
        next_speed = np.clip(next_speed, speed - change, speed + change)
        next_speed = np.clip(next_speed, -self._drawn.velocity, self._drawn.velocity)
        # Relative to the arm's place when this takes over, a moment after now.
        ramp, even = (_ramp(speed, next_speed, ramp_s), ramp_s), (2 * _EVEN_S * next_speed, 2 * _EVEN_S)
        rest = self._safety.resting_place
        # Moving on at constant speed ends further away, which may be too far.
        further = rest + np.append(_EVEN_S * next_speed, np.zeros(len(rest) - ARM_DIM))
        if is_inside(self.profile, further):
            rest = further
        else:
            even = _EVEN_S * next_speed, _EVEN_S
        library = franky()
        waypoints = [
            library.JointWaypoint(
                library.JointState(way, next_speed),
                library.ReferenceType.Relative,
                minimum_time=library.Duration(round(1000 * duration_s)),
            )
            for way, duration_s in (ramp, even)
        ]
        still = library.JointWaypoint(library.JointState(to_franka(rest[:ARM_DIM])))
        return library.JointWaypointMotion([*waypoints, still], return_when_finished=False)

    def _braking(self) -> object:
        """The fastest motion to rest within the limits."""
        return franky().JointStopMotion()


def _ramp(speed: np.ndarray, next_speed: np.ndarray, duration_s: float) -> np.ndarray:
    """The distance (7,) [rad] covered while the speed (7,) [rad/s] changes linearly."""
    return (speed + next_speed) / 2 * duration_s
