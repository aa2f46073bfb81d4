"""The profiles of limits, against what others say of the same robots."""

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.robots.kitchen.limits import KITCHEN
from rpl_runtime.robots.profiles import PROFILES, profile
from rpl_runtime.safety.limits import ArmLimits, Box, Profile
from rpl_runtime.tasks.kitchen.elements import TARGET_HIGH, TARGET_LOW
from rpl_runtime.tasks.kitchen.simulator import Kitchen

ARMS = [each for each in PROFILES.values() if each.arm]


def arm_of(each: Profile) -> ArmLimits:
    assert each.arm is not None
    return each.arm


def franka_description() -> Path:
    """The robot description of the FR3 from Franka, as franky-sim carries it."""
    found = importlib.util.find_spec("franky_sim")
    if found is None or found.origin is None:
        pytest.skip("franky-sim is not installed")
    return Path(found.origin).parent / "assets" / "fr3.urdf"


def swept(joint: int) -> np.ndarray:
    """Positions (1001, 7) that lead one joint of the FR3 through its range."""
    position = np.zeros((1001, 7))
    position[:, joint] = np.linspace(PROFILES["fr3"].low[joint], PROFILES["fr3"].high[joint], 1001)
    return position


def test_the_fr3_is_no_faster_than_its_makers_newer_description_allows() -> None:
    limits, revolute = arm_of(PROFILES["fr3"]), 0
    for joint in ElementTree.parse(franka_description()).iter("joint"):
        if joint.get("type") != "revolute":
            continue
        limit, near_end = joint.find("limit"), joint.find("position_based_velocity_limits")
        assert limit is not None
        assert near_end is not None
        low, high, velocity = (float(limit.attrib[name]) for name in ("lower", "upper", "velocity"))
        slope, offset = 2 * float(near_end.attrib["deceleration_limit"]), float(near_end.attrib["velocity_offset"])
        assert low <= PROFILES["fr3"].low[revolute] < PROFILES["fr3"].high[revolute] <= high
        position = swept(revolute)
        slowest, fastest = (bound[:, revolute] for bound in limits.velocity_range(position))
        up = np.sqrt(slope * (high - position[:, revolute])) - offset
        down = np.sqrt(slope * (position[:, revolute] - low)) - offset
        assert (fastest <= np.clip(up, 0, velocity)).all()
        assert (slowest >= -np.clip(down, 0, velocity)).all()
        assert fastest.max() == pytest.approx(velocity, abs=0.002)
        revolute += 1
    assert revolute == 7


def test_the_fr3_is_no_faster_than_its_documentation_allows() -> None:
    """computeUpperLimitsJointVelocity and computeLowerLimitsJointVelocity of libfranka's rate_limiting.h."""
    formula = [  # velocity, slope, offset, upper end, lower end
        (2.62, 12.0, 0.30, 2.75010, -2.75010),
        (2.62, 5.17, 0.20, 1.79180, -1.79180),
        (2.62, 7.00, 0.20, 2.90650, -2.90650),
        (2.62, 8.00, 0.30, -0.1458, -3.04810),
        (5.26, 34.0, 0.35, 2.81010, -2.81010),
        (4.18, 11.0, 0.35, 4.52050, 0.54092),
        (5.26, 34.0, 0.35, 3.01960, -3.01960),
    ]
    for joint, (velocity, slope, offset, upper, lower) in enumerate(formula):
        position = swept(joint)
        slowest, fastest = (bound[:, joint] for bound in arm_of(PROFILES["fr3"]).velocity_range(position))
        up = np.maximum(0, np.sqrt(np.maximum(0, slope * (upper - position[:, joint]))) - offset)
        down = np.maximum(0, np.sqrt(np.maximum(0, slope * (position[:, joint] - lower))) - offset)
        assert (fastest <= np.maximum(0, np.minimum(velocity, up) - 1e-3)).all()
        assert (slowest >= -np.maximum(0, np.minimum(velocity, down) - 1e-3)).all()


def test_the_panda_has_the_ranges_of_the_kitchens_model_where_that_kept_its_zeros() -> None:
    kitchen = Kitchen()
    unmoved = [0, 1, 2, 4]
    np.testing.assert_allclose(kitchen.model.jnt_range[unmoved, 0], PROFILES["panda"].low[unmoved])
    np.testing.assert_allclose(kitchen.model.jnt_range[unmoved, 1], PROFILES["panda"].high[unmoved])
    kitchen.close()


def test_the_kitchen_has_the_bounds_of_its_set_points() -> None:
    np.testing.assert_array_equal(KITCHEN.low, TARGET_LOW)
    np.testing.assert_array_equal(KITCHEN.high, TARGET_HIGH)
    assert KITCHEN.arm is None


@pytest.mark.parametrize("each", ARMS, ids=lambda each: each.name)
def test_a_joint_may_rest_anywhere_and_not_leave_its_range(each: Profile) -> None:
    slowest, fastest = arm_of(each).velocity_range(np.linspace(each.low[:7], each.high[:7], 101))
    assert (slowest <= 0).all()
    assert (fastest >= 0).all()
    assert (np.maximum(-slowest, fastest) <= arm_of(each).velocity).all()
    assert (np.diff(fastest, axis=0) <= 0).all()
    assert (np.diff(slowest, axis=0) <= 0).all()


@pytest.mark.parametrize("each", ARMS, ids=lambda each: each.name)
def test_with_other_zeros_it_is_the_same_robot(each: Profile) -> None:
    zero = np.array([0.0, 0.1, 0.0, 0.0, -0.2, 1.57, 0.7854])
    moved, position = each.rezeroed(zero), np.linspace(each.low[:7], each.high[:7], 7)
    np.testing.assert_allclose(moved.low[:7] + zero, each.low[:7])
    np.testing.assert_allclose(moved.high[:7] + zero, each.high[:7])
    np.testing.assert_array_equal(moved.low[7:], each.low[7:])
    np.testing.assert_array_equal(arm_of(moved).zero, zero)
    for mine, its in zip(
        arm_of(moved).velocity_range(position - zero), arm_of(each).velocity_range(position), strict=True
    ):
        np.testing.assert_allclose(mine, its, atol=1e-9)


def test_a_profile_takes_a_workspace_of_ones_own() -> None:
    box = Box((0.2, -0.4, 0.1), (0.7, 0.4, 0.9))
    assert arm_of(PROFILES["fr3"].within(box)).workspace == box
    assert arm_of(PROFILES["fr3"]).workspace != box


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: profile("ur5"), "profile is 'ur5'; must be one of panda, fr3"),
        (lambda: PROFILES["fr3"].within(Box((0, 0, 0.5), (1, 1, 0.5))), "low must be below high"),
        (lambda: KITCHEN.within(Box((0, 0, 0), (1, 1, 1))), "must be a profile with an arm"),
        (lambda: PROFILES["fr3"].rezeroed(np.zeros(6)), "must be 7"),
        (lambda: PROFILES["fr3"].rezeroed(np.full(7, np.nan)), "must be 7"),
        (lambda: KITCHEN.rezeroed(np.zeros(7)), "for an arm"),
    ],
)
def test_a_mistake_says_what_is_allowed(mistake, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        mistake()
