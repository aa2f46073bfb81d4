"""The contracts of robots, kept by the smallest robots there are."""

import numpy as np
import pytest

import policies
from fake_clock import FakeClock
from live_robot import PERIOD_NS, FakeArm
from robot_contract import LiveContract, RobotContract
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots import Robot
from rpl_runtime.tasks.kitchen.elements import kitchen_spec


class Cart:
    """Goes nine tenths of the way to its target each period, on a table with a door that it opens by being there."""

    waits = True
    ages = Ages()

    def __init__(self) -> None:
        self._state = np.zeros(5, dtype=np.float32)

    def reset(self, seed: int) -> None:
        self._state[:] = 0

    def observe(self) -> np.ndarray:
        return self._state.copy()

    def apply(self, target: np.ndarray) -> None:
        if np.shape(target) != (2,) or not np.isfinite(target).all():
            raise InvalidInput(f"a cart's target is 2 finite numbers; got {target}")
        self._state[:2] += 0.9 * (target - self._state[:2])

    def done(self) -> frozenset[str]:
        return policies.tiny_spec().done(self._state)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class TestCart(RobotContract):
    @pytest.fixture
    def spec(self) -> PolicySpec:
        return policies.tiny_spec()

    @pytest.fixture
    def robot(self) -> Robot:
        return Cart()


class TestFakeArm(LiveContract):
    moving = slice(0, 1)
    clock = FakeClock()

    @pytest.fixture
    def spec(self) -> PolicySpec:
        return kitchen_spec("kitchen")

    @pytest.fixture
    def robot(self) -> Robot:
        return FakeArm(self.clock)

    def let_pass(self, robot: Robot) -> None:
        self.clock.advance(PERIOD_NS)
