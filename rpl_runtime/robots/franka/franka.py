"""A Franka arm with its hand, a Panda or an FR3, driven by the kitchen's policies.

Its state is the kitchen's: arm and hand as measured, objects from a source. Call `observe` and `apply` once a control
period. A target passes three stages on its way to the motors, each with one job:

    course   where the kitchen's soft servos would have the arm at the end of the period (tasks/kitchen/servo.py)
    filter   a motion there, and from there to rest, within the profile's limits (safety/filter.py)
    lines    the speed of that motion, in a line that the vendor's client library draws every millisecond (follow.py)

The filter comes after the course because its limits are the arm's, and the arm never reaches a policy's target. What
the robot receives is the line, so the line is proved at 1 kHz within the profile before it may take over, and the
filter goes on from it.

This is a software stop, through the same cable and library that move the robot, and not a safety-rated one: keep the
robot's own emergency stop in your hand.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rpl_runtime.errors import InvalidInput, RobotStopped, RobotUnavailable
from rpl_runtime.estimation.body import Ages
from rpl_runtime.robots.franka.fci import Arm, ArmState, Calls, franky, leave, translated
from rpl_runtime.robots.franka.follow import RAMP_MS, Lines, TakeOver
from rpl_runtime.robots.franka.frames import JOINT_ZERO, to_franka, to_kitchen
from rpl_runtime.robots.franka.hand import Hand, HandConfig
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import Filtered, SafetyFilter
from rpl_runtime.safety.limits import Profile
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, PERIOD, ROBOT_DIM
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, Course, course
from rpl_runtime.tasks.kitchen.simulator import checked_target

if TYPE_CHECKING:  # it imports this package
    from rpl_runtime.robots.franka.objects import ObjectSource

# (7,) [rad] FrankaKitchen-v1's arm at the start of an episode, in the kitchen's zeros.
HOME = np.array([0.1484, -1.7685, 1.8439, -2.4769, 0.2603, 0.7125, 1.5952])
_HOMING_SPEEDS = (0.2, 0.1, 0.05)  # share of the limits on the way there; at an end of its range a joint is slower
_DOWN = (0.0, 0.0, -9.81)  # [m/s^2] in the base's frame: the arm stands upright
_CONNECTED_S = 10.0  # [s] for a robot to answer
_LOOK_S = 0.02  # [s] between two checks on the way there
_INSIDE = 0.005  # [rad] that a joint stays inside its range there
_ASTRAY = 0.15  # [rad] largest accepted distance from where the arm was led
_PERIOD_MS = round(1000 * PERIOD)
_SEEN_AHEAD_MS = 30  # from an observation until its target takes over, at most

# Ruckig gets these shares of the profile's limits, since its lines start from rounded values.
_DRAWN_ACCELERATION = 0.99
_DRAWN_JERK = 0.8
# The filter gets this share of Ruckig's acceleration, since a line that ends at constant speed needs more to arrive in
# time.
_FILTER_ACCELERATION = 0.65


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


class ArmReading(NamedTuple):
    """Arm and hand as their controllers report them, in Franka's joint zeros."""

    measured: np.ndarray  # (7,) [rad]
    commanded: np.ndarray  # (7,) [rad]
    velocity: np.ndarray  # (7,) [rad/s] measured
    flange: np.ndarray  # (3,) [m] in the frame of the arm's base
    width: float  # [m] between the fingers
    mode: str


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
    ages = Ages(0.0)  # the arm is seen where it will be when the next target takes over

    def __init__(self, host: str, objects: "ObjectSource", config: FrankaConfig | None = None) -> None:
        self.host = host
        self.config = config or FrankaConfig()
        # Of the last target, in the kitchen's zeros; also in a dry run.
        self.course: Course | None = None
        self.filtered: Filtered | None = None
        self._objects = objects
        self._robot = np.zeros(ROBOT_DIM)  # (9,) [rad, m] seen last, in the kitchen's zeros
        self._done: frozenset[str] = frozenset()
        self.held_back = 0  # targets for which no line was sent, since none could be proved
        self._violations: Counter[str] = Counter()  # of lines
        library = franky()
        realtime = library.RealtimeConfig.Enforce if self.config.realtime else library.RealtimeConfig.Ignore
        self._call, hand = Calls("franka-arm"), Calls("franka-hand")
        with translated(f"no robot to drive at {host}", RobotUnavailable):
            self._arm: Arm = self._call("Robot", lambda: library.Robot(host, realtime_config=realtime), _CONNECTED_S)
            self.profile = self._set_up()  # the filter's limits, in the kitchen's zeros
            self._safety = SafetyFilter(self.profile, PERIOD)
            self._hand = Hand(hand("Gripper", lambda: library.Gripper(host), _CONNECTED_S), hand, self.config.hand)

    @property
    def limit_violations(self) -> Counter[str]:
        """How many limits the targets so far would have violated, by kind."""
        return self._safety.counts + self._violations

    def reading(self) -> ArmReading:
        """Arm and hand now, as their controllers report them; from any thread, and without effect on the arm.

        Raises:
            RobotStopped: the robot does not answer.
        """
        with translated(f"the robot at {self.host} does not answer"):
            state = self._lines.state()
        flange = (state.O_T_EE * state.F_T_EE.inverse).translation
        measured, commanded, velocity = (np.array(values).ravel() for values in (state.q, state.q_d, state.dq))
        return ArmReading(measured, commanded, velocity, np.ravel(flange), self._hand.width, state.robot_mode.name)

    def model(self) -> str:
        """The robot's name for itself, such as fr3.

        Raises:
            RobotStopped: the robot does not answer.
        """
        with translated(f"the robot at {self.host} does not answer"):
            urdf = self._call("model_urdf", lambda: self._arm.model_urdf)
        named = re.search(r'<robot[^>]*\bname="([^"]*)"', urdf)
        return named[1] if named else "unknown"

    @property
    def hand_version(self) -> int:
        """Of the interface of the hand's firmware."""
        return self._hand.version

    def reset(self, seed: int) -> None:
        """Open the hand and go slowly to the start of the kitchen's episodes; in a dry run, stay. Blocks until there.

        Raises:
            RobotStopped: the robot stopped on the way.
            InvalidInput: the start, or the straight way there, is outside the profile's limits; nothing has moved.
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
        self.ages = Ages(0.0, seen.age_s)
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
        take_over, place = None, to_kitchen(state.q)
        if self.config.dry_run:
            self._safety.start(np.append(place, self._safety.position[ARM_DIM:]))
        else:
            take_over = self._take_over(state)
            if take_over is None:
                self.held_back += 1
                return
            place = to_kitchen(take_over.position)
        with self._driven():
            gravity = np.ravel(self._call("gravity", lambda: self._arm.model.gravity(state, _DOWN)))
        self.course = course(place, self._robot[:ARM_DIM], target[:ARM_DIM], gravity, PERIOD)
        self.filtered = self._safety.step(np.append(self.course.position, target[ARM_DIM:]))
        if take_over is None:
            return
        with self._driven():
            found = self._lines.follow(take_over, _speed(take_over, self.filtered))
        self._violations.update(violation.kind for violation in found)
        self._hand.follow(target[ARM_DIM:])

    def done(self) -> frozenset[str]:
        """The elements at their goal in the last observation."""
        return self._done

    def stop(self) -> None:
        """Brake within the limits, and return when at rest. The hand finishes its command and keeps its hold.

        Raises:
            RobotStopped: the robot stopped by itself instead, or is not at rest in time.
        """
        if self._lines.moving:
            with self._driven():
                self._lines.end()

    def close(self) -> None:
        """Stop and disconnect."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._disconnect)
            stack.callback(self._objects.close)
            stack.callback(self._hand.close)
            self.stop()

    def _disconnect(self) -> None:
        left = True
        with contextlib.suppress(TimeoutError):
            left = self._call("is_in_control", lambda: self._arm.is_in_control)
        if left:  # it did not come to rest
            leave(self._arm)
        del self._arm, self._lines
        self._call.close()

    def _set_up(self) -> Profile:
        """Set the robot's limits and thresholds. Returns the limits for the filter."""
        config, arm, call, limits = self.config, self._arm, self._call, self.config.profile.arm
        assert limits is not None  # checked by the configuration
        # franky 2.0.0 has the Panda's limits for an FR3 too, and accepts no higher ones.
        limits = replace(
            limits,
            velocity=np.minimum(limits.velocity, arm.joint_velocity_limit.max),
            acceleration=np.minimum(limits.acceleration, arm.joint_acceleration_limit.max),
            jerk=np.minimum(limits.jerk, arm.joint_jerk_limit.max),
        )
        drawn = replace(config.profile, arm=limits).slowed(
            config.speed, config.speed * _DRAWN_ACCELERATION, config.speed * _DRAWN_JERK
        )
        assert drawn.arm is not None
        for kind in ("velocity", "acceleration", "jerk"):
            limit = f"joint_{kind}_limit"
            call(f"{limit}.set", partial(getattr(arm, limit).set, getattr(drawn.arm, kind)))
        self._lines = Lines(arm, call, config.profile.slowed(config.speed, config.speed, config.speed), drawn.arm)
        thresholds, load = (config.torque_threshold, config.force_threshold), config.load
        call("set_collision_behavior", lambda: arm.set_collision_behavior(*thresholds))
        if load is not None:
            call("set_load", lambda: arm.set_load(load.mass, load.center, load.inertia))
        return drawn.slowed(1.0, _FILTER_ACCELERATION, 1.0).rezeroed(JOINT_ZERO)

    def _go_home(self, home: np.ndarray) -> None:
        """Go slowly to joints (7,) [rad]; Ctrl-C stops the arm on its way."""
        found = set()
        try:
            with self._driven():
                self._lines.begin()
                for speed in _HOMING_SPEEDS:
                    found = self._lines.go(home, speed)
                    if not found:
                        break
                # In short waits: a call that waited for the end would handle no signal before.
                while not found and not self._lines.arrived(_LOOK_S):
                    pass
        finally:
            self.stop()
        if found:
            kinds = ", ".join(sorted({violation.kind for violation in found}))
            raise InvalidInput(
                f"the straight way from where the arm stands to the start leaves the profile's limits of {kinds}; must "
                f"be inside: move the arm nearer to the start by hand"
            )

    @contextlib.contextmanager
    def _driven(self) -> Iterator[None]:
        """A block of calls to the arm. If one fails, the robot has stopped by itself."""
        try:
            with translated(f"the robot at {self.host} stopped"):
                yield
        except RobotStopped:
            self._lines.abandon()
            raise

    def _state(self) -> ArmState:
        """The arm's state.

        Raises:
            RobotStopped: the robot is in a mode or an error in which it cannot move.
        """
        modes = franky().RobotMode
        able = {modes.Idle, modes.Move} | ({modes.Guiding} if self.config.dry_run else set())
        with self._driven():
            if self._lines.moving:
                self._call("poll_motion", lambda: self._arm.poll_motion())  # raises what ended the motion
            state = self._lines.state()
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
        if not self._lines.moving:
            return to_kitchen(state.q)
        astray = abs(np.subtract(state.q, state.q_d))  # (7,) [rad]
        if not astray.max() <= _ASTRAY:  # also if it is NaN
            joint = int(np.argmax(astray))
            raise RobotStopped(
                f"joint {joint + 1} is {astray[joint]:.3f} rad from where it was led; must be at most {_ASTRAY} rad"
            )
        remaining_ms = _PERIOD_MS - self._lines.since_ms(state)
        return to_kitchen(self._lines.position(state, min(max(0, remaining_ms), _SEEN_AHEAD_MS)))

    def _take_over(self, state: ArmState) -> TakeOver | None:
        """When the next line takes over, with the filter ready to continue from there; None if no line can be proved.

        Raises:
            ProtocolViolation: there was no reset.
        """
        fingers = self._safety.position[ARM_DIM:]
        with self._driven():
            if not self._lines.moving:
                self._safety.start(np.append(to_kitchen(state.q_d), fingers))
                self._lines.begin()
                state = self._lines.state()
            take_over = self._lines.take_over(state)
        if take_over is not None:
            self._safety.resume(to_kitchen(take_over.before), to_kitchen(self._lines.ahead(take_over)))
        return take_over


def _speed(take_over: TakeOver, filtered: Filtered) -> np.ndarray:
    """The speed (7,) [rad/s] of the next line.

    The filter's at the end of the period, corrected for the error in place that would be left. Asking for the place
    itself would be exact as long as periods are exact, and swings where they are not.
    """
    speed, ramp_s = filtered.velocity[:ARM_DIM], RAMP_MS / 1000
    way = (take_over.velocity + speed) / 2 * ramp_s + speed * (PERIOD - ramp_s)
    return speed + (to_franka(filtered.target[:ARM_DIM]) - take_over.position - way) / PERIOD
