"""A simulated robot with a real robot's faults: limits on its motion, a slow hand, noisy or late observations.

The physics stays the world's; only what the robot follows and what the policy observes change. All random numbers come
from the seed of the episode, whatever runs in parallel.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.task import Limited

OWN = "own"  # the profile of a world's robot as it is
_STREAM, _BIASED = 1, 2  # of a seed's random numbers; the start is drawn from another stream
_LONGEST = 100  # [periods] of latency, [s] of a hand's command


@dataclass(frozen=True)
class Conditions:
    """The faults of a robot; by default none.

    Raises:
        InvalidInput: a value is out of range, or there is no such profile.
    """

    profile: str = OWN  # the limits of the arm's motion, by name
    position_noise: float = 0.0  # [m] standard deviation of an object's coordinates, drawn for every observation
    angle_noise: float = 0.0  # [rad] of each of an object's angles, and of its rotation about each axis
    object_latency: int = 0  # [periods] of delay of the objects behind the robot
    object_dropout: float = 0.0  # probability that they are not seen in a period and keep their last state
    latency: int = 0  # [periods] of delay of the whole observation
    still_known: bool = False  # no noise on objects that no element moves
    hand_time: float | None = None  # [s] of one command of the hand; None: fingers follow every target
    latency_jitter: int = 0  # [periods] by which it varies at most, drawn for every observation
    stamped: bool = True  # whether observations carry the time at which they were measured
    position_bias: float = 0.0  # [m] by which each coordinate of an object is off, up or down for a whole episode
    angle_bias: float = 0.0  # [rad] of each of an object's angles, and of its rotation about each axis

    def __post_init__(self) -> None:
        if self.profile not in (OWN, *PROFILES):
            raise InvalidInput(f"the profile is {self.profile!r}; must be one of {', '.join((OWN, *PROFILES))}")
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
                most = f"the latency, {highest}" if name == "latency_jitter" else f"{highest:g}"
                raise InvalidInput(f"{name} is {value}; must be 0 to {most}")

    @property
    def limits_motion(self) -> bool:
        """Whether the robot moves otherwise than the world's own."""
        return self.profile != OWN or self.hand_time is not None

    @property
    def exact(self) -> bool:
        """Whether senses and hand have no fault; the arm may have its limits."""
        return replace(self, profile=OWN) == Conditions()

    @property
    def degrades_sight(self) -> bool:
        """Whether it observes otherwise."""
        return not replace(self, hand_time=None, still_known=False, stamped=True).exact


class DegradedRobot:
    """A simulated robot with faults (the `Robot` protocol).

    Args:
        simulated: the robot without faults, closed with this one.
        conditions: the faults.

    Raises:
        InvalidInput: the task does not say how its robot can have such faults.
    """

    waits = True

    def __init__(self, simulated: SimulatedRobot, conditions: Conditions) -> None:
        self.simulated = simulated
        self.conditions = conditions
        task = simulated.task
        if conditions.limits_motion and task.limited is None:
            raise InvalidInput(f"the robot of {task.name} has no other limits and no hand of its own; leave both out")
        if conditions.degrades_sight and task.sight is None:
            raise InvalidInput(f"{task.name} does not say how its observations degrade; leave noise and delays out")
        self._limited: Limited | None = None
        self._objects_dims = list(task.sight.objects) if task.sight else []
        self.reset(0)

    @property
    def limit_violations(self) -> Mapping[str, int]:
        """How often each kind of limit changed a motion since the last reset."""
        return {} if self._limited is None else self._limited.violations

    def reset(self, seed: int) -> None:
        """Start an episode; the same seed gives the same one."""
        task, conditions = self.simulated.task, self.conditions
        self.simulated.reset(seed)
        self._rng = np.random.default_rng((seed, _STREAM))
        if conditions.limits_motion and task.limited is not None:
            self._limited = task.limited(self.simulated.world, conditions.profile, conditions.hand_time)
        dims = task.spec.state.dim
        self._signs = np.random.default_rng((seed, _BIASED)).choice([-1.0, 1.0], size=dims + 3)
        state, late = self.simulated.observe(), conditions.latency + conditions.latency_jitter
        self._states = deque([state], late + 1)
        self._objects = deque([self._seen(state)], late + conditions.object_latency + 1)
        self._late = conditions.latency  # [periods] of this observation
        self._begun = 0  # [periods]

    @property
    def ages(self) -> Ages:
        """How old the observation is; the objects' age is unknown while they are missed."""
        if not self.conditions.stamped:
            return Ages()
        period, late = self.simulated.task.spec.period_s, (self._late, self._late + self.conditions.object_latency)
        return Ages(*(period * min(each, self._begun) for each in late))

    def observe(self) -> np.ndarray:
        """The observed state (n,), the robot's own dimensions with the world's noise."""
        state = _back(self._states, self._late).copy()
        state[self._objects_dims] = _back(self._objects, self._late + self.conditions.object_latency)
        return state

    def apply(self, target: np.ndarray) -> None:
        """Follow an action (m,) for one control period of simulated time.

        Raises:
            InvalidInput: the action is not m finite numbers.
        """
        if self._limited is None:
            self.simulated.apply(target)
        else:
            self._limited.follow(target)
        state, missed = self.simulated.observe(), self._rng.random() < self.conditions.object_dropout
        self._begun += 1
        if jitter := self.conditions.latency_jitter:
            # An observation never arrives before an older one.
            drawn = self.conditions.latency + self._rng.integers(-jitter, jitter + 1)
            self._late = int(min(drawn, self._late + 1))
        self._states.append(state)
        self._objects.append(self._objects[-1] if missed else self._seen(state))

    def done(self) -> frozenset[str]:
        """The elements at their goal now, without noise."""
        return self.simulated.done()

    def stop(self) -> None:
        """Nothing to do: the world stands still between steps."""

    def close(self) -> None:
        """Release the simulator."""
        self.simulated.close()

    def _seen(self, state: np.ndarray) -> np.ndarray:
        """The observed objects of a state (n,); without noise they are equal to the last bit."""
        sight = self.simulated.task.sight
        if sight is None:
            return state[self._objects_dims]
        given, signs, units = self.conditions, self._signs, self.simulated.task.spec.state.units
        noise = {"m": given.position_noise, "rad": given.angle_noise}
        bias = {"m": given.position_bias, "rad": given.angle_bias}
        drawn = self._rng.normal(size=len(state)) * [noise.get(unit, 0.0) for unit in units]
        turn = self._rng.normal(size=3) * given.angle_noise  # (3,) [rad] about the object's own axes
        drawn += signs[: len(state)] * [bias.get(unit, 0.0) for unit in units]
        turn += signs[len(state) :] * given.angle_bias
        for driven, (driver, ratio) in sight.driven.items():
            drawn[driven] = drawn[driver] / ratio
        if given.still_known:
            drawn[list(sight.still)] = 0.0
        seen = state + drawn
        if sight.rotation and turn.any():
            quaternion = seen[list(sight.rotation)]  # wxyz
            w, vector = quaternion[0], quaternion[1:]
            turned = quaternion + np.append(-vector @ turn, w * turn + np.cross(vector, turn)) / 2
            seen[list(sight.rotation)] = turned / np.linalg.norm(turned)
        return seen[self._objects_dims].astype(np.float32)


def _back(kept: Sequence[np.ndarray], late: int) -> np.ndarray:
    """The observation of some periods ago, or the first one."""
    return kept[max(-len(kept), -1 - late)]
