"""A calibration of a robot whose world does not wait: one target in each control period, and rest at the end."""

from itertools import pairwise

import numpy as np
import pytest

from fake_clock import FakeClock
from live_robot import PERIOD_NS, FakeArm
from rpl_runtime.estimation.body import Ages
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.loop.calibrate import UNHURRIED, calibrate
from rpl_runtime.robots.franka.frames import JOINT_ZERO
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import SafetyFilter
from rpl_runtime.tasks.kitchen.body import KITCHEN_BODY
from rpl_runtime.tasks.kitchen.elements import STATE_NAMES, kitchen_spec
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, course

SPEC = kitchen_spec("kitchen")


def test_a_live_robot_is_calibrated_by_the_clock_and_left_at_rest() -> None:
    clock = FakeClock()
    robot, told = FakeArm(clock), list[int]()
    apply = robot.apply

    def applied(target: object) -> None:
        told.append(clock.now_ns())
        apply(target)

    robot.apply = applied
    found = calibrate(robot, KITCHEN_BODY, SPEC, clock=clock)
    assert isinstance(found, Calibration)
    assert {later - now for now, later in pairwise(told)} == {PERIOD_NS}
    assert robot.at_rest
    assert found.names == STATE_NAMES
    assert set(found.sigma) == {0.0}


class LimitedArm:
    """An arm that is seen at once and follows its targets as a Franka does, at a share of its limits."""

    waits = True
    ages = Ages(0.0)

    def __init__(self, profile: str, share: float) -> None:
        # A Franka's filter gets these shares of the acceleration and of the jerk (robots/franka/franka.py).
        self._filter = SafetyFilter(
            PROFILES[profile].slowed(share, 0.64 * share, 0.8 * share).rezeroed(JOINT_ZERO), 0.08
        )
        self._state = np.zeros(len(STATE_NAMES))
        self._state[:9] = 0.15, -1.76, 1.84, -2.47, 0.26, 0.71, 1.59, 0.04, 0.04  # [rad, m] where episodes begin

    def reset(self, seed: int) -> None:
        self._filter.start(self._state[:9])

    def observe(self) -> np.ndarray:
        return self._state.astype(np.float32)

    def apply(self, target: np.ndarray) -> None:
        arm = self._state[:ARM_DIM]
        there = course(arm, arm, target[:ARM_DIM], np.zeros(ARM_DIM), 0.08)
        self._filter.step(np.append(there.position, target[ARM_DIM:]))
        self._state[:9] = self._filter.position

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("profile", ["fr3", "panda"])
def test_the_limits_of_an_arm_do_not_make_it_seem_late(profile: str) -> None:
    """At a tenth of them they would, by a third of a second."""
    ages_s = [calibrate(LimitedArm(profile, share), KITCHEN_BODY, SPEC).arm_age_s for share in (UNHURRIED, 0.1)]
    assert ages_s[0] == 0.0
    assert ages_s[1] is not None
    assert ages_s[1] > 0.1
