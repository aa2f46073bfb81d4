"""franky and a robot behind it without a clock: a millisecond passes when a test says so.

Motions are drawn as franky 2.0 draws them, step by step with Ruckig; the robot reports what was commanded a millisecond
ago, now and then two or three, in single precision.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import ruckig


class Duration(NamedTuple):
    milliseconds: int

    def to_msec(self) -> int:
        return self.milliseconds


class JointState(NamedTuple):
    position: np.ndarray
    velocity: np.ndarray


class JointWaypoint:
    def __init__(self, target: JointState, reference_type: str, minimum_time: Duration | None = None) -> None:
        assert reference_type == "relative"
        self.target, self.minimum_time = target, minimum_time


class Measure:
    """The time since a motion took over, and conditions on it."""

    REL_TIME: "Measure"

    def __ge__(self, bound: float) -> "Condition":
        return Condition(lambda time: time >= bound)

    def __le__(self, bound: float) -> "Condition":
        return Condition(lambda time: time <= bound)


Measure.REL_TIME = Measure()


class Condition:
    def __init__(self, holds: Callable[[float], bool]) -> None:
        self.holds = holds

    def __and__(self, other: "Condition") -> "Condition":
        return Condition(lambda time: self.holds(time) and other.holds(time))


class JointPositionReaction:
    def __init__(self, condition: Condition, motion: "JointWaypointMotion") -> None:
        self.condition, self.motion, self.callbacks = condition, motion, list[Callable[..., None]]()

    def register_callback(self, callback: Callable[..., None]) -> None:
        self.callbacks.append(callback)


class JointWaypointMotion:
    def __init__(
        self, waypoints: Sequence[JointWaypoint], relative_dynamics_factor: float, return_when_finished: bool
    ) -> None:
        self.waypoints, self.factor, self.returns = list(waypoints), relative_dynamics_factor, return_when_finished
        self.reactions: list[JointPositionReaction] = []
        self.finished = False

    def add_reaction(self, reaction: JointPositionReaction) -> None:
        Robot.made.pass_by(Robot.made.delay_ms())
        self.reactions.append(reaction)

    def take_over(self, robot: "Robot", position: np.ndarray, state: Any) -> None:
        self.input, self.output = ruckig.InputParameter(7), ruckig.OutputParameter(7)
        self.planner = ruckig.Ruckig(7, 0.001)
        self.place, self.robot = np.array(position), robot
        self.input.synchronization = ruckig.Synchronization.Time
        self.input.current_position = position
        self.input.current_velocity, self.input.current_acceleration = state.dq_d, state.ddq_d
        self.number, self.held_ms = 0, 0
        self.set_waypoint()
        self.result = ruckig.Result.Working

    def set_waypoint(self) -> None:
        waypoint = self.waypoints[self.number]
        self.place = self.place + waypoint.target.position
        self.input.target_position, self.input.target_velocity = self.place, waypoint.target.velocity
        self.input.minimum_duration = None if waypoint.minimum_time is None else waypoint.minimum_time.to_msec() / 1000
        self.input.max_velocity = self.factor * self.robot.joint_velocity_limit.get()
        self.input.max_acceleration = self.factor * self.robot.joint_acceleration_limit.get()
        self.input.max_jerk = self.factor * self.robot.joint_jerk_limit.get()

    def miss(self, state: Any) -> None:
        """A millisecond that goes by without a command: franky goes on as the robot does."""
        velocity = np.array(state.dq_d) + np.array(state.ddq_d) * 0.001
        position = np.array(self.input.current_position) + (np.array(state.dq_d) + velocity) * 0.001 / 2
        self.input.current_velocity = np.array(self.input.current_velocity) + np.array(state.ddq_d) * 0.001
        self.input.current_position = position

    def next_command(self) -> np.ndarray:
        if self.result == ruckig.Result.Finished and self.number < len(self.waypoints):
            self.input.minimum_duration = None
            if self.number + 1 < len(self.waypoints):
                self.number += 1
                self.set_waypoint()
            elif self.held_ms < 10:
                self.held_ms += 1
            else:
                self.number += 1
        if self.number == len(self.waypoints):
            self.finished = self.returns
            return np.array(self.input.current_position)
        self.result = self.planner.update(self.input, self.output)
        assert self.result in (ruckig.Result.Working, ruckig.Result.Finished), self.result
        self.output.pass_to_input(self.input)
        return np.array(self.input.current_position)


class Limit:
    def __init__(self, value: Sequence[float]) -> None:
        self.max = self.value = np.array(value)

    def set(self, value: np.ndarray) -> None:
        assert (value <= self.max).all()
        self.value = np.array(value)

    def get(self) -> np.ndarray:
        return self.value


class Robot:
    """One arm at rest; `commands` is what it receives, one a millisecond."""

    made: "Robot"
    start = np.zeros(7)  # [rad]
    rng = np.random.default_rng(0)
    slowest_ms = 0  # for what is given to franky to arrive

    def __init__(self, host: str, realtime_config: str = "") -> None:
        Robot.made = self
        # What the wheels of franky 2.0 carry, those for an FR3 and those for a Panda.
        self.joint_velocity_limit = Limit([2.175] * 4 + [2.61] * 3)
        self.joint_acceleration_limit = Limit([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
        self.joint_jerk_limit = Limit([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0])
        self.model = SimpleNamespace(gravity=lambda state, down: np.zeros(7))
        self.commands = [np.array(self.start)] * 8
        self.motion: JointWaypointMotion | None = None
        self.time_ms = self.since_ms = 0
        self.is_in_control = False
        self.lag = 1  # [ms]
        self.told_late_ms = 1  # that a callback comes after what it tells of
        self.untold: list[tuple[int, Callable[[], None]]] = []

    def set_collision_behavior(self, *_: float) -> None: ...

    def set_load(self, *_: Any) -> None: ...

    @property
    def state(self) -> Any:
        recent = np.array(self.commands[len(self.commands) - self.lag - 4 : len(self.commands) - self.lag + 1])
        q_d = recent[-1].astype(np.float32).astype(float)
        dq_d = (np.diff(recent, axis=0)[-1] / 1e-3).astype(np.float32).astype(float)
        ddq_d = (np.diff(recent, n=2, axis=0)[-1] / 1e-6).astype(np.float32).astype(float)
        return SimpleNamespace(
            q=q_d, q_d=q_d, dq_d=dq_d, ddq_d=ddq_d, time=Duration(self.time_ms), robot_mode="move", current_errors=None
        )

    def delay_ms(self) -> int:
        return int(self.rng.integers(0, self.slowest_ms + 1))

    def move(self, motion: JointWaypointMotion, asynchronous: bool, cutoff_frequency: float) -> None:
        assert asynchronous
        assert not self.is_in_control
        assert cutoff_frequency == 1000.0  # which leaves commands as they are
        self.pass_by(self.delay_ms())
        self.is_in_control, self.motion, self.since_ms = True, motion, 0
        motion.take_over(self, self.commands[-1], self.state)

    def poll_motion(self) -> bool:
        return not self.is_in_control

    def join_motion(self, timeout: float) -> bool:
        self.pass_by(round(1000 * timeout))
        return not self.is_in_control

    def miss(self) -> None:
        """Let a millisecond go by for which franky is too late."""
        assert self.motion is not None
        self.motion.miss(self.state)
        self.commands.append(self.commands[-1])
        self.time_ms += 1
        self.since_ms += 1

    def pass_by(self, milliseconds: int) -> None:
        for _ in range(milliseconds):
            self.time_ms += 1
            while self.untold and self.untold[0][0] <= self.time_ms:
                self.untold.pop(0)[1]()
            self.lag = 1 if self.rng.random() > 0.03 else int(self.rng.integers(2, 4))
            if self.motion is None or not self.is_in_control:
                self.commands.append(self.commands[-1])
                continue
            state = self.state
            for reaction in self.motion.reactions:
                if reaction.condition.holds(self.since_ms / 1000):
                    told = [partial(each, state, Duration(self.since_ms), None) for each in reaction.callbacks]
                    self.untold += [(self.time_ms + self.told_late_ms, each) for each in told]
                    self.motion, self.since_ms = reaction.motion, 0
                    self.motion.take_over(self, self.commands[-1], state)
                    break
            self.commands.append(self.motion.next_command())
            self.since_ms += 1
            if self.motion.finished:
                self.is_in_control = False


class Gripper:
    width = 0.08

    def __init__(self, host: str) -> None: ...

    def open_async(self, speed: float) -> Any:
        return self.move_async(self.width, speed)

    def move_async(self, *_: float) -> Any:
        return SimpleNamespace(wait=lambda seconds: True, get=lambda: True)

    def grasp_async(self, *_: float, **__: float) -> Any:
        return self.move_async()


def module() -> ModuleType:
    """What `import franky` is to give."""
    made, kinds = (
        ModuleType("franky"),
        [Duration, JointState, JointWaypoint, JointWaypointMotion, JointPositionReaction],
    )
    content = {kind.__name__: kind for kind in (*kinds, Measure, Robot, Gripper)} | {
        "ReferenceType": SimpleNamespace(Relative="relative"),
        "RealtimeConfig": SimpleNamespace(Enforce="enforce", Ignore="ignore"),
        "RobotMode": SimpleNamespace(Idle="idle", Move="move", Guiding="guiding"),
        "Exception": type("FrankyException", (Exception,), {}),
        "CommandException": type("CommandException", (Exception,), {}),
    }
    made.__dict__.update(content)
    return made
