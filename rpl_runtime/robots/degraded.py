"""The simulated kitchen's robot with a real robot's faults: limits on its arm, a slow hand, noisy or late observations.

The physics stays the kitchen's; only the servos' set-points and the policy's observations change. All random numbers
come from the seed of the episode, whatever runs in parallel.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages
from rpl_runtime.robots.franka.frames import JOINT_ZERO
from rpl_runtime.robots.franka.hand import MAX_WIDTH, HandConfig, wanted_width
from rpl_runtime.robots.profiles import profile
from rpl_runtime.robots.simulated import KitchenRobot
from rpl_runtime.safety.filter import SafetyFilter
from rpl_runtime.safety.motion import DT
from rpl_runtime.tasks.kitchen.elements import PERIOD, ROBOT_DIM, STATE_DIM, STATE_NAMES, STATE_UNITS
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, course, setpoint
from rpl_runtime.tasks.kitchen.simulator import Kitchen, checked_target

_STREAM, _BIASED = 1, 2  # of a seed's random numbers; the start is drawn from another stream
_LONGEST = 100  # [periods] of latency
_OBJECTS = slice(ROBOT_DIM, None)
_NEVER_MOVED = [  # by any element
    STATE_NAMES.index(name)
    for name in ("bottom_right_knob", "bottom_right_burner", "top_right_knob", "top_right_burner", "left_hinge_door")
]
_QUATERNION = slice(STATE_NAMES.index("kettle_qw"), None)
# FrankaKitchen-v1's model moves a burner with its knob and the light with its switch, slower by this ratio, so noise on
# the two must agree.
_DRIVEN = {
    STATE_NAMES.index(driven): (STATE_NAMES.index(driver), ratio)
    for driven, driver, ratio in (
        *((f"{place}_burner", f"{place}_knob", 174.0) for place in ("bottom_right", "bottom_left")),
        *((f"{place}_burner", f"{place}_knob", 174.0) for place in ("top_right", "top_left")),
        ("light", "light_switch", 14.0),
    )
}


@dataclass(frozen=True)
class Conditions:
    """The faults of a robot; by default none.

    Raises:
        InvalidInput: a value is out of range, or there is no such profile.
    """

    profile: str = "kitchen"  # the limits of the arm's motion, by name
    position_noise: float = 0.0  # [m] standard deviation of an object's coordinates, drawn for every observation
    angle_noise: float = 0.0  # [rad] of each hinge and knob, and of the kettle's rotation about each axis
    object_latency: int = 0  # [periods] of delay of the objects behind the arm
    object_dropout: float = 0.0  # probability that they are not seen in a period and keep their last state
    latency: int = 0  # [periods] of delay of the whole observation
    still_known: bool = False  # no noise on objects that no element moves
    hand_time: float | None = None  # [s] of one command of the hand; None: fingers follow every target
    latency_jitter: int = 0  # [periods] by which it varies at most, drawn for every observation
    stamped: bool = True  # whether observations carry the time at which they were measured
    position_bias: float = 0.0  # [m] by which each coordinate of an object is off, up or down for a whole episode
    angle_bias: float = 0.0  # [rad] of each hinge and knob, and of the kettle's rotation about each axis

    def __post_init__(self) -> None:
        profile(self.profile)
        limits = (
            ("position_noise", self.position_noise, 1.0),
            ("angle_noise", self.angle_noise, 1.0),
            ("object_latency", self.object_latency, _LONGEST),
            ("object_dropout", self.object_dropout, 1.0),
            ("latency", self.latency, _LONGEST),
            ("latency_jitter", self.latency_jitter, self.latency),
            ("position_bias", self.position_bias, 1.0),
            ("angle_bias", self.angle_bias, 1.0),
            ("hand_time", self.hand_time or 0.0, _LONGEST),
        )
        for name, value, highest in limits:
            if not 0 <= value <= highest:
                raise InvalidInput(f"{name} is {value}; must be 0 to {highest:g}")

    @property
    def exact(self) -> bool:
        """Whether senses and hand have no fault; the arm may have its limits."""
        return replace(self, profile="kitchen") == Conditions()


class DegradedRobot:
    """A simulated kitchen's robot with faults (the `Robot` protocol).

    Args:
        kitchen: the robot without faults, closed with this one.
        conditions: the faults.
    """

    waits = True

    def __init__(self, kitchen: KitchenRobot, conditions: Conditions) -> None:
        self.kitchen = kitchen
        self.conditions = conditions
        self._profile = profile(conditions.profile)
        self.reset(0)

    @property
    def limit_violations(self) -> Counter[str]:
        """How often each kind of limit changed a motion since the last reset."""
        return Counter() if self._arm is None else Counter[str](self._arm.filter.counts)

    def reset(self, seed: int) -> None:
        """Start an episode; the same seed gives the same one."""
        self.kitchen.reset(seed)
        self._rng = np.random.default_rng((seed, _STREAM))
        self._arm = _LimitedArm(self.kitchen.simulator, self.conditions.profile) if self._profile.arm else None
        self._hand = None if self.conditions.hand_time is None else _CommandedHand(self.conditions.hand_time)
        self._signs = np.random.default_rng((seed, _BIASED)).choice([-1.0, 1.0], size=STATE_DIM + 3)
        state, late = self.kitchen.observe(), self.conditions.latency + self.conditions.latency_jitter
        self._arms = deque([state[:ROBOT_DIM]], late + 1)
        self._objects = deque([self._seen(state)], late + self.conditions.object_latency + 1)
        self._late = self.conditions.latency  # [periods] of this observation
        self._begun = 0  # [periods]

    @property
    def ages(self) -> Ages:
        """How old the observation is; the objects' age is unknown while they are missed."""
        if not self.conditions.stamped:
            return Ages()
        return Ages(
            *(PERIOD * min(late, self._begun) for late in (self._late, self._late + self.conditions.object_latency))
        )

    def observe(self) -> np.ndarray:
        """The observed state (30,) [rad, m, quaternion wxyz], the arm with the environment's noise."""
        return np.concatenate(
            [_back(self._arms, self._late), _back(self._objects, self._late + self.conditions.object_latency)]
        )

    def apply(self, target: np.ndarray) -> None:
        """Follow a position target (9,) [rad, m] for one control period of 0.08 s simulated time.

        Raises:
            InvalidInput: the target is not 9 finite numbers.
        """
        if self._hand is not None:
            target = np.append(target[:ARM_DIM], self._hand.fingers(checked_target(target)[ARM_DIM:]))
        if self._arm is None:
            self.kitchen.apply(target)
        else:
            self.kitchen.simulator.follow(self._arm.setpoints(target))
        state, missed = self.kitchen.observe(), self._rng.random() < self.conditions.object_dropout
        self._begun += 1
        if jitter := self.conditions.latency_jitter:
            # An observation never arrives before an older one.
            drawn = self.conditions.latency + self._rng.integers(-jitter, jitter + 1)
            self._late = int(min(drawn, self._late + 1))
        self._arms.append(state[:ROBOT_DIM])
        self._objects.append(self._objects[-1] if missed else self._seen(state))

    def done(self) -> frozenset[str]:
        """The elements at their goal now, without noise."""
        return self.kitchen.done()

    def stop(self) -> None:
        """Nothing to do: the kitchen stands still between steps."""

    def close(self) -> None:
        """Release the simulator."""
        self.kitchen.close()

    def _seen(self, state: np.ndarray) -> np.ndarray:
        """The observed objects (21,) of a state (30,); without noise they are equal to the last bit."""
        given, signs = self.conditions, self._signs
        noise = {"m": given.position_noise, "rad": given.angle_noise, "1": 0.0}
        bias = {"m": given.position_bias, "rad": given.angle_bias, "1": 0.0}
        drawn = self._rng.normal(size=STATE_DIM) * [noise[unit] for unit in STATE_UNITS]
        turn = self._rng.normal(size=3) * given.angle_noise
        drawn += signs[:STATE_DIM] * [bias[unit] for unit in STATE_UNITS]
        turn += signs[STATE_DIM:] * given.angle_bias
        for driven, (driver, ratio) in _DRIVEN.items():
            drawn[driven] = drawn[driver] / ratio
        if given.still_known:
            drawn[_NEVER_MOVED] = 0.0
        seen = state + drawn
        if turn.any():
            seen[_QUATERNION] = _turned(seen[_QUATERNION], turn)
        return seen[_OBJECTS].astype(np.float32)


class _CommandedHand:
    """The fingers of a Franka hand, which takes one command at a time (franka/hand.py)."""

    def __init__(self, command_s: float) -> None:
        self._config = HandConfig()
        self._commanded = self._width = MAX_WIDTH  # [m]
        self._periods, self._left = ceil(command_s / PERIOD), 0  # of a command; left of the current one

    def fingers(self, targets: np.ndarray) -> np.ndarray:
        """The set-points (2,) [m] for a control period with finger targets (2,) [m]."""
        self._left = max(0, self._left - 1)
        wanted = wanted_width(self._commanded, float(targets.sum()), self._config)
        if not self._left and wanted != self._commanded:
            self._commanded, self._left = wanted, self._periods
        reach = self._config.speed * PERIOD
        self._width += np.clip(self._commanded - self._width, -reach, reach)
        return np.full(2, self._width / 2)


class _LimitedArm:
    """Leads the kitchen's arm along the path that its servos would take, within the limits of a profile.

    A real arm is stiff and follows a motion at 1 kHz. The kitchen's servos are soft, so each physics step gets a
    set-point ahead of the motion, which makes up for damping and weight.
    """

    def __init__(self, simulator: Kitchen, name: str) -> None:
        limits = profile(name).rezeroed(JOINT_ZERO)
        self.filter = SafetyFilter(limits, PERIOD)
        self.filter.start(simulator.qpos[:ROBOT_DIM])
        self._simulator = simulator
        self._place = np.clip(simulator.qpos[:ROBOT_DIM], limits.low, limits.high)[:ARM_DIM]

    def setpoints(self, target: np.ndarray) -> Iterator[np.ndarray]:
        """The set-points (9,) [rad, m] of a control period, one for each physics step; read each just before its step.

        Raises:
            InvalidInput: the target is not 9 finite numbers.
        """
        target, data = checked_target(target), self._simulator.data
        reading = self._simulator.state[:ARM_DIM].astype(np.float64)
        aim = course(self._place, reading, target[:ARM_DIM], data.qfrc_bias[:ARM_DIM], PERIOD)
        motion = self.filter.step(np.append(aim.position, target[ARM_DIM:])).trajectory  # (80, 9) at 1 kHz
        velocity = np.diff(motion[:, :ARM_DIM], axis=0, prepend=self._place[None]) / DT
        self._place = motion[-1, :ARM_DIM]
        every = round(self._simulator.model.opt.timestep / DT)
        return (
            np.append(setpoint(place[:ARM_DIM], speed, data.qfrc_bias[:ARM_DIM]), place[ARM_DIM:])
            for place, speed in zip(motion[every - 1 :: every], velocity[every - 1 :: every], strict=True)
        )


def _back(kept: Sequence[np.ndarray], late: int) -> np.ndarray:
    """The observation of some periods ago, or the first one."""
    return kept[max(-len(kept), -1 - late)]


def _turned(quaternion: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """A rotation (4,) wxyz after a small turn about its own axes (3,) [rad]."""
    w, vector = quaternion[0], quaternion[1:]
    turned = quaternion + np.append(-vector @ turn, w * turn + np.cross(vector, turn)) / 2
    return turned / np.linalg.norm(turned)
