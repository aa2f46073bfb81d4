"""A calibration of a robot whose world does not wait: one target in each control period, and rest at the end."""

from itertools import pairwise

from fake_clock import FakeClock
from live_robot import PERIOD_NS, FakeArm
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.loop.calibrate import calibrate
from rpl_runtime.tasks.kitchen.body import KITCHEN_BODY
from rpl_runtime.tasks.kitchen.elements import STATE_NAMES, kitchen_spec


def test_a_live_robot_is_calibrated_by_the_clock_and_left_at_rest() -> None:
    clock = FakeClock()
    robot, told = FakeArm(clock), list[int]()
    apply = robot.apply

    def applied(target: object) -> None:
        told.append(clock.now_ns())
        apply(target)

    robot.apply = applied
    found = calibrate(robot, KITCHEN_BODY, kitchen_spec("kitchen"), clock=clock)
    assert isinstance(found, Calibration)
    assert {later - now for now, later in pairwise(told)} == {PERIOD_NS}
    assert robot.at_rest
    assert found.names == STATE_NAMES
    assert set(found.sigma) == {0.0}
