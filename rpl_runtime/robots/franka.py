"""A Franka arm with its hand, a Panda or an FR3, behind the kitchen's policies.

In: targets as the kitchen's policies give them. Out: the kitchen's 30-number state, its arm and hand as measured, its
objects from a source. It does not know goals, policies or the wire, and keeps no time: one observe and one apply each
control period is for whoever runs it.

A target is not gone to but followed as the kitchen's soft servos would (servo.py): for each one the arm gets a speed
for the end of the period, and after it the place where it comes to rest if nothing else is sent. The trajectory
between is the vendor's client library's, Ruckig at 1 kHz in the robot's own control loop, within the limits of the
profile.

This stops a robot in software, through the same cable and the same library that move it. It is not a safety-rated
stop: keep the one you have in your hand.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rpl_runtime.errors import InvalidInput, RobotStopped, RobotUnavailable
from rpl_runtime.kitchen.elements import ELEMENTS, PERIOD, ROBOT_DIM
from rpl_runtime.kitchen.servo import ARM_DIM, Course, course
from rpl_runtime.kitchen.simulator import checked_target
from rpl_runtime.limits import PROFILES, ArmLimits, Profile
from rpl_runtime.robots.conventions import to_franka, to_kitchen
from rpl_runtime.robots.fci import franky, translated
from rpl_runtime.robots.hand import Hand, HandConfig
from rpl_runtime.robots.objects import ObjectSource
from rpl_runtime.robots.panda_kinematics import flange_pose

# (7,) [rad] where FrankaKitchen-v1's arm stands when an episode starts, in the kitchen's zeros.
HOME = np.array([0.1484, -1.7685, 1.8439, -2.4769, 0.2603, 0.7125, 1.5952])
_HOMING_SPEED = 0.2  # share of the limits with which the arm goes there
_DOWN = (0.0, 0.0, -9.81)  # [m/s^2] in the base's frame: the arm stands upright
_INSIDE = 0.005  # [rad] how far inside its range a joint stays on the way

# A motion that takes over from another starts with the speed and acceleration that the robot reports, a millisecond
# old. Both are exact while the arm moves evenly, and so it does for this long before and after a period ends.
_EVEN_S = 0.02  # [s]
_RAMP_S = PERIOD - _EVEN_S
_JERK_SHARE = 0.8  # of the limit; what is reported is rounded, which costs some of it
_SHARE = 0.8  # of the greatest speed, and of its fastest change, that is asked for; without a reserve Ruckig finds
# no way to be there in time, and takes a run-up
_NO_FILTER = 1000.0  # [Hz] libfranka's kMaxCutoffFrequency: its low-pass would make what is reported older still


@dataclass(frozen=True)
class Load:
    """What the hand carries besides itself, as libfranka's setLoad takes it."""

    mass: float  # [kg]
    center: tuple[float, float, float]  # [m] of mass, in the frame of the flange
    inertia: tuple[float, ...]  # (9,) [kg m^2] about it, column by column


@dataclass(frozen=True)
class FrankaConfig:
    profile: Profile = PROFILES["fr3"]  # the limits, in Franka's own zeros, and the workspace of the flange
    speed: float = 1.0  # share (0, 1] of the profile's velocity, acceleration and jerk to be used
    torque_threshold: float = 30.0  # [Nm] in a joint, above which the robot takes it for a collision and stops itself
    force_threshold: float = 40.0  # [N, Nm] at the hand, likewise
    load: Load | None = None
    hand: HandConfig = field(default_factory=HandConfig)
    realtime: bool = True  # insist on a real-time kernel, as the vendor asks; a simulated robot needs none
    dry_run: bool = False  # everything but the command to the motors


class FrankaRobot:
    """One Franka (the `Robot` protocol).

    Args:
        host: of the robot's control interface: a name or an address.
        objects: where the states of the objects come from.
        config: limits and thresholds; they are set here.

    Raises:
        MissingExtra: the `franka` extra is not installed.
        RobotUnavailable: nobody answers at the host, or the robot refuses the connection or a setting.
        InvalidInput: a setting is impossible.
    """

    waits = False

    def __init__(self, host: str, objects: ObjectSource, config: FrankaConfig | None = None) -> None:
        self.host = host
        self.config = config or FrankaConfig()
        self.course: Course | None = None  # what the last target came to, in the kitchen's zeros; also in a dry run
        self._limits = _arm_limits(self.config)
        self._objects = objects
        self._robot = np.zeros(ROBOT_DIM)  # (9,) [rad, m] measured last, in the kitchen's zeros
        self._done: frozenset[str] = frozenset()
        self._moving = False
        library = franky()
        realtime = library.RealtimeConfig.Enforce if self.config.realtime else library.RealtimeConfig.Ignore
        with translated(f"no robot to drive at {host}", RobotUnavailable):
            self._arm: Any = library.Robot(host, realtime_config=realtime)
            self._set_up()
            self._hand = Hand(library.Gripper(host), self.config.hand)

    def reset(self, seed: int) -> None:
        """Open the hand and go slowly to where the kitchen's episodes start; in a dry run, stay. Blocks until there.

        Raises:
            RobotStopped: the robot stopped on the way.
            ObjectsLost: the source does not see the objects.
        """
        self.stop()
        self._state()
        if not self.config.dry_run:
            self._hand.open()
            profile = self.config.profile
            home = np.clip(to_franka(HOME), profile.low[:ARM_DIM] + _INSIDE, profile.high[:ARM_DIM] - _INSIDE)
            with self._driven():
                self._arm.move(franky().JointMotion(home, relative_dynamics_factor=_HOMING_SPEED))
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
        if seen.fingers is not None:
            self._robot[ARM_DIM:] = seen.fingers
        state = np.append(self._robot, seen.objects)
        self._done = frozenset(name for name, element in ELEMENTS.items() if element.is_done(state))
        return state.astype(np.float32)

    def apply(self, target: np.ndarray) -> None:
        """Follow a target (9,) [rad, m] from now on; returns at once.

        Raises:
            InvalidInput: the target is not 9 finite numbers; nothing has changed.
            RobotStopped: the robot stopped by itself, or the target leads outside the profile's ranges or workspace.
        """
        target = checked_target(target)
        state = self._state()
        gravity = np.ravel(self._arm.model.gravity(state, _DOWN))
        self.course = course(to_kitchen(state.q_d), self._robot[:ARM_DIM], target[:ARM_DIM], gravity, PERIOD)
        self._check(to_franka(self.course.rest))
        if self.config.dry_run:
            return
        with self._driven():
            self._arm.move(self._motion(state, self.course), asynchronous=True, cutoff_frequency=_NO_FILTER)
            self._moving = True
        self._hand.follow(target[ARM_DIM:])

    def done(self) -> frozenset[str]:
        """The names of the elements that the last observation had at their goal."""
        return self._done

    def stop(self) -> None:
        """Brake within the limits, and return when at rest. The hand ends the command it is at, and keeps its hold.

        Raises:
            RobotStopped: the robot stopped by itself instead.
        """
        if self._moving:
            with self._driven():
                self._arm.move(franky().JointStopMotion())
            self._moving = False

    def close(self) -> None:
        """Stop and disconnect."""
        with contextlib.ExitStack() as stack:
            stack.callback(delattr, self, "_arm")  # which disconnects
            stack.callback(self._objects.close)
            stack.callback(self._hand.close)
            self.stop()

    def _set_up(self) -> None:
        config, arm, limits = self.config, self._arm, self._limits
        for limit, share, ours in (
            (arm.joint_velocity_limit, 1.0, limits.velocity),
            (arm.joint_acceleration_limit, 1.0, limits.acceleration),
            (arm.joint_jerk_limit, _JERK_SHARE, limits.jerk),
        ):
            # franky 2.0.0 has the Panda's limits where it speaks to an FR3, and does not go beyond what it has.
            limit.set(config.speed * share * np.minimum(ours, limit.max))
        arm.set_collision_behavior(config.torque_threshold, config.force_threshold)
        if config.load is not None:
            arm.set_load(config.load.mass, config.load.center, config.load.inertia)

    @contextlib.contextmanager
    def _driven(self) -> Iterator[None]:
        """Calls to the arm; one that fails leaves it stopped, with nothing here that could brake it."""
        try:
            with translated(f"the robot at {self.host} stopped"):
                yield
        except RobotStopped:
            self._moving = False
            raise

    def _state(self) -> Any:
        """The arm's state, unless it may not or cannot move."""
        modes = franky().RobotMode
        allowed = {modes.Idle, modes.Move} | ({modes.Guiding} if self.config.dry_run else set())
        with self._driven():
            if self._moving:
                self._arm.poll_motion()  # raises what ended the motion
            state = self._arm.state
            if state.robot_mode not in allowed:
                why = ", ".join(_errors(state)) or "no error is named"
                raise RobotStopped(
                    f"the robot at {self.host} is in mode {state.robot_mode.name} ({why}); allowed is one that is "
                    f"idle, or moves: release its stop, or recover it from its error"
                )
        return state

    def _measure(self) -> None:
        self._robot = np.append(to_kitchen(self._state().q), [self._hand.width / 2] * 2)

    def _motion(self, state: Any, course: Course) -> Any:
        """To the mean speed of the course before the period ends, evenly on past its end, then to its rest for good."""
        library, arm = franky(), self._arm
        place, speed = np.ravel(state.q_d), np.ravel(state.dq_d)
        fastest, acceleration, jerk = (
            np.ravel(limit.get())
            for limit in (arm.joint_velocity_limit, arm.joint_acceleration_limit, arm.joint_jerk_limit)
        )
        change = _SHARE * acceleration * (_RAMP_S - acceleration / jerk)
        next_speed = np.clip((to_franka(course.position) - place) / PERIOD, speed - change, speed + change)
        next_speed = np.clip(next_speed, -_SHARE * fastest, _SHARE * fastest)
        # Relative to where the arm is when this takes over, which is a moment after now.
        legs = (((speed + next_speed) / 2 * _RAMP_S, _RAMP_S), (next_speed * 2 * _EVEN_S, 2 * _EVEN_S))
        waypoints = [
            library.JointWaypoint(
                library.JointState(way, next_speed),
                library.ReferenceType.Relative,
                minimum_time=library.Duration(round(1000 * duration_s)),
            )
            for way, duration_s in legs
        ]
        rest = library.JointWaypoint(library.JointState(to_franka(course.rest)))
        return library.JointWaypointMotion([*waypoints, rest], return_when_finished=False)

    def _check(self, rest: np.ndarray) -> None:
        """Refuse a resting place (7,) [rad] outside the profile's ranges or its workspace."""
        profile, box = self.config.profile, self._limits.workspace
        outside = np.flatnonzero((rest < profile.low[:ARM_DIM]) | (rest > profile.high[:ARM_DIM]))
        if len(outside):
            joint = outside[0]
            raise RobotStopped(
                f"the target leads joint {joint + 1} to {rest[joint]:.3f} rad; allowed is "
                f"{profile.low[joint]:.3f} to {profile.high[joint]:.3f}"
            )
        flange, _ = flange_pose(rest)
        if not ((flange >= box.low) & (flange <= box.high)).all():
            raise RobotStopped(
                f"the target leads the flange to {_metres(flange)} in the base's frame; allowed is the workspace "
                f"from {_metres(box.low)} to {_metres(box.high)}"
            )


def _arm_limits(config: FrankaConfig) -> ArmLimits:
    if config.profile.arm is None:
        raise InvalidInput(f"the profile {config.profile.name} for a Franka; allowed is one with an arm: panda or fr3")
    if not 0 < config.speed <= 1:
        raise InvalidInput(f"a speed of {config.speed}; allowed is a share of the limits above 0, at most 1")
    return config.profile.arm


def _errors(state: Any) -> list[str]:
    """The names of the errors that a robot's state reports."""
    errors = state.current_errors
    return [name for name in dir(errors) if not name.startswith("_") and getattr(errors, name) is True]


def _metres(place: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{coordinate:.3f}" for coordinate in place) + ") m"
