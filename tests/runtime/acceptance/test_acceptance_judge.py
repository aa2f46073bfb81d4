"""The judgements of an acceptance, on readings of an arm that is sound and of ones that are not."""

from collections.abc import Sequence

import numpy as np
import pytest

from rpl_runtime.acceptance.journal import Check
from rpl_runtime.acceptance.judge import (
    LIMITS,
    judge_connection,
    judge_elements,
    judge_joints,
    judge_motion,
    judge_punctuality,
    judge_senses,
    judge_states,
    judge_stop,
    judge_workspace,
)
from rpl_runtime.acceptance.trace import Trace, standstill, trail_s
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.policy.manifest import Statistics
from rpl_runtime.robots.franka.frames import to_franka
from rpl_runtime.robots.franka.franka import HOME, ArmReading
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import Box
from rpl_runtime.tasks.kitchen.elements import STATE_NAMES, STATE_UNITS, kitchen_spec

FR3 = PROFILES["fr3"]
START = to_franka(HOME)
SPEC = kitchen_spec("kitchen")
EVERY_S = 0.02
assert FR3.arm is not None
REACH = FR3.arm.workspace


def broken(checks: Sequence[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def reading(joints: np.ndarray = START, width: float = 0.08) -> ArmReading:
    """A robot at rest that is sound."""
    return ArmReading(joints, joints, np.zeros(7), flange_pose(joints)[0], width, "Idle")


def swing(late_s: float = 0.02, speed: float = 0.2, joint: int = 0) -> Trace:
    """Two seconds in which one joint swings at up to a speed [rad/s], measured later than commanded."""
    at_s, rate = np.arange(0.0, 2.0, EVERY_S), 4.0
    commanded, measured, velocity = (np.tile(START, (len(at_s), 1)) for _ in range(3))
    commanded[:, joint] += speed / rate * np.sin(rate * at_s)
    measured[:, joint] += speed / rate * np.sin(rate * (at_s - late_s)) - 0.004  # it hangs a little
    velocity[:] = 0.0
    velocity[:, joint] = speed * np.cos(rate * (at_s - late_s))
    return Trace(at_s, measured, commanded, velocity, flange_pose(measured)[0], np.full(len(at_s), 0.08))


def braking(from_s: float, rest_s: float, again_s: float | None = None) -> Trace:
    """An arm that turns at 0.2 rad/s, brakes evenly from one moment [s] to another, and may begin again."""
    at_s = np.arange(0.0, 3.0, EVERY_S)
    speed = np.interp(at_s, [0.0, from_s, rest_s, 3.0], [0.2, 0.2, 0.0, 0.0])
    if again_s is not None:
        speed[at_s >= again_s] = 0.018  # [rad/s] slower than an arm that stands, for long
    velocity = np.zeros((len(at_s), 7))
    velocity[:, 0] = speed
    joints = START + np.cumsum(velocity, axis=0) * EVERY_S
    return Trace(at_s, joints, joints, velocity, flange_pose(joints)[0], np.full(len(at_s), 0.08))


def test_a_sound_robot_at_rest_passes() -> None:
    assert broken(judge_connection(reading(), "fr3", FR3)) == []


def test_a_robot_with_the_limits_of_another_is_found() -> None:
    [name] = broken(judge_connection(reading(), "panda", FR3))
    assert "calls itself panda, with the limits of fr3" in name


@pytest.mark.parametrize("joint", range(6))  # the seventh turns the flange about its own place
def test_a_joint_with_its_sign_turned_is_found_before_anything_moves(joint: int) -> None:
    turned = START.copy()
    turned[joint] *= -1
    checks = judge_connection(reading()._replace(measured=turned), "fr3", FR3)
    assert any("kinematics" in name for name in broken(checks))


def test_a_joint_outside_its_range_is_found() -> None:
    out = START.copy()
    out[3] = FR3.high[3] + 0.01
    [check] = [check for check in judge_connection(reading(out), "fr3", FR3) if not check.passed]
    assert check.value == pytest.approx(-0.01)
    assert "joint 4" in check.meaning


def test_the_box_that_an_arm_may_reach_is_a_workspace() -> None:
    assert broken(judge_workspace(REACH, REACH, START)) == []


@pytest.mark.parametrize(("side", "beyond"), [(0, -0.1), (2, -0.02), (4, 0.3)])
def test_a_workspace_that_is_too_large_is_found_with_its_side(side: int, beyond: float) -> None:
    faces = np.array([*REACH.low, *REACH.high])
    faces[side] += beyond
    box = Box(tuple(faces[:3].tolist()), tuple(faces[3:].tolist()))
    [check] = [check for check in judge_workspace(box, REACH, START) if not check.passed]
    assert check.value == pytest.approx(abs(beyond))
    assert ("low x", "low y", "low z", "high x", "high y", "high z")[side] in check.meaning


def test_a_workspace_without_the_start_is_found() -> None:
    [name] = broken(judge_workspace(Box((0.0, 0.0, 0.0), (0.1, 0.1, 0.1)), REACH, START))
    assert "start of a run" in name


def staircase(turned: int | None = None, along: float = 0.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Commanded and measured joints before and after each joint was turned by 0.05 rad."""
    places, joints = [np.array([START, START - 0.004])], START.copy()
    for joint in range(7):
        joints = joints.copy()
        joints[joint] += 0.05
        measured = joints - 0.004
        measured[(joint + 1) % 7] += along
        if turned is not None:
            measured[turned] = 2 * START[turned] - measured[turned]
        places.append(np.array([joints, measured]))
    return places[:-1], places[1:]


def test_joints_that_follow_their_commands_pass() -> None:
    assert broken(judge_joints(*staircase(), swing())) == []


@pytest.mark.parametrize("joint", range(7))
def test_a_joint_that_goes_the_other_way_is_named(joint: int) -> None:
    names = broken(judge_joints(*staircase(turned=joint), swing()))
    assert f"joint {joint + 1}, measured motion as a share of the commanded one" in names
    assert len([name for name in names if name.startswith("joint ")]) == 1


def test_joints_that_move_along_are_found() -> None:
    assert "other joints that move along" in broken(judge_joints(*staircase(along=0.03), swing()))


def test_an_arm_that_does_not_move_is_not_taken_for_a_sound_one() -> None:
    still = [np.array([START, START])] * 7
    assert len([name for name in broken(judge_joints(still, still, swing())) if name.startswith("joint ")]) == 7


@pytest.mark.parametrize("late_s", [0.0, 0.02, 0.06])
def test_the_trail_of_an_arm_is_measured(late_s: float) -> None:
    assert trail_s(swing(late_s)) == pytest.approx(late_s, abs=3e-3)


def test_the_trail_of_an_arm_that_stands_is_unknown() -> None:
    assert trail_s(swing(speed=0.001)) is None


def test_40_ms_more_than_a_sound_robots_are_found() -> None:
    assert broken(judge_motion(swing(0.02), FR3, 0.1)) == []
    assert broken(judge_motion(swing(0.06), FR3, 0.1)) == ["the arm is later than its commands by"]


def test_a_motion_that_is_too_fast_or_leaves_the_workspace_is_found() -> None:
    assert broken(judge_motion(swing(speed=0.5), FR3, 0.1)) == ["the fastest joint, as a share of its limit"]
    here = flange_pose(START)[0]
    small = FR3.within(Box(tuple((here - 0.001).tolist()), tuple((here + 0.001).tolist())))
    assert broken(judge_motion(swing(), small, 0.1)) == ["the flange outside of the workspace"]


def calibration(**found: object) -> Calibration:
    still = (0.0,) * len(STATE_NAMES)
    content: dict[str, object] = {"names": STATE_NAMES, "rest": still, "sigma": still, "arm_age_s": 0.0, "hand_s": 0.6}
    return Calibration.model_validate(content | found)


WIDTHS = np.array([0.08, 0.04, 0.001, 0.04, 0.08])  # [m] of a hand that closes and opens


def noisy(dim: int, sigma: float) -> tuple[float, ...]:
    return tuple(sigma if number == dim else 0.0 for number in range(len(STATE_NAMES)))


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({}, []),
        ({"hand_s": None}, []),  # it follows every target
        ({"hand_s": 1.0}, []),
        ({"hand_s": 1.5}, ["one command of the hand"]),
        ({"arm_age_s": 0.02}, []),
        ({"arm_age_s": 0.04}, ["the arm answers late, beside the age that the robot states"]),
        ({"object_age_s": 0.1}, []),
        ({"object_age_s": 0.3}, ["the objects are seen late by"]),
        ({"sigma": noisy(STATE_NAMES.index("kettle_x"), 0.004)}, []),
        (
            {"sigma": noisy(STATE_NAMES.index("kettle_x"), 0.02)},
            ["the place of an object at rest trembles by, at most"],
        ),
        (
            {"sigma": noisy(STATE_NAMES.index("light_switch"), 0.05)},
            ["the angle of an object at rest trembles by, at most"],
        ),
    ],
)
def test_senses(found: dict[str, object], names: list[str]) -> None:
    assert broken(judge_senses(calibration(**found), 0.0, WIDTHS, STATE_UNITS)) == names


def test_an_age_that_the_robot_states_is_none_that_is_missed() -> None:
    assert broken(judge_senses(calibration(arm_age_s=0.08), 0.08, WIDTHS, STATE_UNITS)) == []


def test_a_hand_that_stays_open_is_found() -> None:
    assert broken(judge_senses(calibration(hand_s=None), 0.0, np.full(5, 0.08), STATE_UNITS)) == ["the hand, closed"]


def test_an_arm_that_comes_to_rest_in_time_passes() -> None:
    found = standstill(braking(1.0, 1.4), 1.0)
    assert found.speed == pytest.approx(0.2)
    assert found.after_s == pytest.approx(0.38, abs=0.03)
    assert 0.0 < found.way_m < 0.04
    assert broken(judge_stop(braking(1.0, 1.4), 1.0, LIMITS.stop)) == []


def test_an_arm_that_brakes_too_late_or_never_is_found() -> None:
    assert "standstill after" in broken(judge_stop(braking(2.0, 2.4), 1.0, LIMITS.stop))
    assert "standstill after" in broken(judge_stop(braking(3.0, 3.1), 1.0, LIMITS.stop))


def test_an_arm_that_creeps_on_is_found() -> None:
    assert broken(judge_stop(braking(1.0, 1.4, again_s=1.6), 1.0, LIMITS.stop)) == ["motion after standstill"]


def test_a_stop_of_an_arm_that_stands_shows_nothing() -> None:
    assert broken(judge_stop(braking(0.1, 0.5), 1.0, LIMITS.stop)) == ["the fastest joint before"]


def states(**shift: float) -> np.ndarray:
    state = np.concatenate([HOME, [0.04, 0.04], np.zeros(14), [-0.27, 0.35, 1.62, 1.0, 0.0, 0.0, 0.0]])
    for name, by in shift.items():
        state[STATE_NAMES.index(name)] += by
    return np.tile(state, (5, 1))


def judged_states(states: np.ndarray, targets: np.ndarray | None = None) -> list[str]:
    seen = tuple(globals()["states"]()[0].tolist())
    low, high = (tuple(value + side for value in seen) for side in (-0.1, 0.1))
    statistics = Statistics(mean=seen, std=(0.1,) * len(seen), low=low, high=high)
    return broken(judge_states(states, states[:, :9] if targets is None else targets, SPEC, statistics))


def test_plausible_states_pass_and_others_are_found() -> None:
    assert judged_states(states()) == []
    assert judged_states(states(kettle_y=0.3)) == ["the objects beyond where they were in the training data"]
    far = states()[:, :9] + np.array([0.5] + [0.0] * 8)
    assert judged_states(states(), far) == ["the farthest target from its joint"]
    assert "control steps with an action" in judged_states(states()[:0])


def test_a_late_loop_is_found() -> None:
    on_time = np.full(100, 2_000_000)
    assert broken(judge_punctuality(0, on_time, on_time)) == []
    assert broken(judge_punctuality(1, on_time, on_time)) == ["control periods missed"]
    assert broken(judge_punctuality(0, on_time, np.full(100, 70_000_000))) == [
        "from an observation to its command, 95th percentile"
    ]


def test_an_element_that_was_not_done_is_named() -> None:
    assert broken(judge_elements(["kettle", "microwave"], {"kettle": 40, "microwave": None})) == [
        "microwave done after"
    ]
