"""A fake arm in a world that does not wait: it goes exactly as its safety filter says, and keeps every millisecond."""

from collections.abc import Mapping

import numpy as np

from fake_clock import FakeClock
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages
from rpl_runtime.robots.franka.frames import JOINT_ZERO
from rpl_runtime.robots.franka.franka import HOME
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import SafetyFilter
from rpl_runtime.safety.limits import Profile
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, PERIOD

OBJECTS = np.concatenate([np.zeros(14), [-0.27, 0.35, 1.62, 1.0, 0.0, 0.0, 0.0]])  # of a kitchen nobody has touched
START = np.append(HOME, [0.04, 0.04])
PERIOD_NS = round(PERIOD * 1e9)


class FakeArm:
    """An arm with the kitchen's state (the `LiveRobot` protocol), whose time is a fake clock's."""

    waits = False
    ages = Ages(0.0, 0.0)

    def __init__(self, clock: FakeClock) -> None:
        self.commanded: list[np.ndarray] = []  # (80, 9) each, a control period at 1 kHz
        self.stopped = 0
        self.closed = False
        self._clock = clock
        self._profile = PROFILES["fr3"].rezeroed(JOINT_ZERO)
        self._safety = SafetyFilter(self._profile, PERIOD)
        self._safety.start(START)
        self._told_ns = clock.now_ns()

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def limit_violations(self) -> Mapping[str, int]:
        return self._safety.counts

    @property
    def at_rest(self) -> bool:
        return self._safety.at_rest

    def reset(self, seed: int) -> None:
        self.stop()
        self.commanded.clear()
        self._safety.start(START)

    def observe(self) -> np.ndarray:
        self._go_on()
        return self._state()

    def apply(self, target: np.ndarray) -> None:
        if np.shape(target) != (9,) or not np.isfinite(target).all():
            raise InvalidInput(f"an arm's target is 9 finite numbers; got {target}")
        self._go_on()
        self.commanded.append(self._safety.step(target).trajectory)
        self._told_ns = self._clock.now_ns()

    def done(self) -> frozenset[str]:
        return frozenset(name for name, element in ELEMENTS.items() if element.is_done(self._state()))

    def stop(self) -> None:
        self.stopped += 1
        while not self._safety.at_rest:
            self.commanded.append(self._safety.stop().trajectory)

    def close(self) -> None:
        self.stop()
        self.closed = True

    def _state(self) -> np.ndarray:
        return np.append(self._safety.position, OBJECTS).astype(np.float32)

    def _go_on(self) -> None:
        """To rest, for the periods without a target that went by since the last one."""
        gone = round((self._clock.now_ns() - self._told_ns) / PERIOD_NS) - 1
        while gone > 0 and not self._safety.at_rest:
            self.commanded.append(self._safety.stop().trajectory)
            self._told_ns += PERIOD_NS
            gone -= 1
