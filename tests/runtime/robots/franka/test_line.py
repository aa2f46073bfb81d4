"""What a Franka receives: lines that stay inside the profile, whatever targets come and whenever they do."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("ruckig", reason="needs the franka extra")

import franky_in_step
from limits_kept import assert_inside
from rpl_runtime.errors import InvalidInput
from rpl_runtime.robots.franka.follow import Lines
from rpl_runtime.robots.franka.frames import to_franka, to_kitchen
from rpl_runtime.robots.franka.franka import HOME, FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.line import Waypoint, line, violations
from rpl_runtime.robots.franka.objects import UNTOUCHED, FixedObjects
from rpl_runtime.robots.franka.sim import simulated_robot
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import LimitViolation
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import Box, Profile
from rpl_runtime.safety.motion import State

PERIOD_MS = 80
ANSWER_MS = 15  # from an observation to its target
HAND_OPEN = np.array([0.04, 0.04])
ZEROS = np.zeros(7)
CONFIG = FrankaConfig(realtime=False)
KINDS = ("end", "box", "jump", "hold", "swing")
LATEST_MS = 30  # that a target is late or early by


@pytest.fixture
def franky(monkeypatch: pytest.MonkeyPatch) -> type[franky_in_step.Robot]:
    """franky without a clock, and its robot."""
    monkeypatch.setitem(sys.modules, "franky", franky_in_step.module())
    monkeypatch.setattr(franky_in_step.Robot, "slowest_ms", 6)
    return franky_in_step.Robot


def robot_at(franky: type[franky_in_step.Robot], joints: np.ndarray, profile: Profile, speed: float) -> FrankaRobot:
    """A robot that begins where it stands, at joints (7,) [rad] as Franka counts them."""
    franky.start = joints
    config = FrankaConfig(profile=profile, speed=speed, realtime=False)
    robot = FrankaRobot("host", FixedObjects(UNTOUCHED), config)
    robot._measure()
    robot._safety.start(np.append(to_kitchen(joints), HAND_OPEN))
    return robot


def leads(kind: str, rng: np.random.Generator) -> Iterator[np.ndarray | None]:
    """By how much (7,) [rad] targets lead the arm, None for a period without one."""
    joint, side, rate = rng.integers(7), rng.choice([-1, 1]), rng.uniform(2, 6, 7)
    direction, number = rng.uniform(-1, 1, 7), 0
    while True:
        number += 1
        match kind:
            case "end":
                yield side * rng.uniform(0.05, 0.16) * (np.arange(7) == joint) + rng.normal(0, 0.005, 7)
            case "box":
                direction = rng.uniform(-1, 1, 7) if number % 15 == 0 else direction
                yield 0.16 * direction
            case "jump":
                yield rng.uniform(-0.5, 0.5, 7)
            case "hold":
                yield 0.16 * direction if rng.random() < 0.7 else None
            case "swing":
                yield 0.16 * np.sin(rate * number * PERIOD_MS / 1000)


def attack(franky: type[franky_in_step.Robot], kind: str, name: str, seed: int, periods: int) -> FrankaRobot:
    """Drive a robot against its limits, and look at everything that it received."""
    rng = franky.rng = np.random.default_rng(seed)
    profile, speed, late_ms = PROFILES[name], float(rng.uniform(0.1, 1)), int(rng.integers(0, LATEST_MS + 1))
    joints = np.clip(to_franka(HOME) + rng.uniform(-0.3, 0.3, 7), profile.low[:7] + 0.01, profile.high[:7] - 0.01)
    if kind == "box":
        flange, half = flange_pose(joints)[0], rng.uniform(0.02, 0.12, 3)
        profile = profile.within(Box(tuple(flange - half), tuple(flange + half)))  # type: ignore[arg-type]
    with closing(robot_at(franky, joints, profile, speed)) as robot:
        arm, due_ms = franky.made, 0
        for lead, _ in zip(leads(kind, rng), range(periods), strict=False):
            seen = robot.observe()[:7]
            arm.pass_by(ANSWER_MS)
            if lead is not None:
                robot.apply(np.append(seen + lead, HAND_OPEN))
            if rng.random() < 0.02:
                robot.stop()
            due_ms = max(due_ms + PERIOD_MS, arm.time_ms)
            arm.pass_by(max(0, due_ms + int(rng.integers(-late_ms, late_ms + 1)) - arm.time_ms))
    received = np.array(arm.commands)
    with_fingers = np.column_stack([received, np.tile(HAND_OPEN, (len(received), 1))])
    assert_inside(profile.slowed(speed, speed, speed), with_fingers[0], with_fingers)
    return robot


@pytest.mark.parametrize("name", ["fr3", "panda"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_what_a_robot_receives_stays_inside(
    franky: type[franky_in_step.Robot], kind: str, name: str, seed: int
) -> None:
    attack(franky, kind, name, seed, periods=30)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 300))
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_times_what_a_robot_receives_stays_inside(
    franky: type[franky_in_step.Robot], kind: str, seed: int
) -> None:
    attack(franky, kind, ("fr3", "panda")[seed % 2], seed, periods=80)


@pytest.mark.parametrize("late_ms", [-LATEST_MS, 0, LATEST_MS])
def test_an_arm_goes_on_where_every_other_target_is_late_or_early(
    franky: type[franky_in_step.Robot], late_ms: int
) -> None:
    with closing(robot_at(franky, to_franka(HOME), PROFILES["fr3"], 1.0)) as robot:
        arm = franky.made
        for number in range(12):
            robot.apply(np.append(robot.observe()[:7] + 0.05, HAND_OPEN))
            arm.pass_by(max(0, PERIOD_MS * (number + 1) + late_ms * (number % 2) - arm.time_ms))
        assert robot.held_back == 0
        speeds = abs(np.diff(np.array(arm.commands), axis=0)).max(axis=1) / 1e-3
    assert speeds[200:].min() > 0.1


@pytest.mark.parametrize("told_late_ms", [40, 70, 150])
def test_an_arm_goes_on_where_it_is_told_late_what_took_over(
    franky: type[franky_in_step.Robot], told_late_ms: int
) -> None:
    with closing(robot_at(franky, to_franka(HOME), PROFILES["fr3"], 1.0)) as robot:
        arm = franky.made
        for number in range(30):
            arm.told_late_ms = told_late_ms if number == 10 else 1
            robot.apply(np.append(robot.observe()[:7] + 0.02, HAND_OPEN))
            arm.pass_by(PERIOD_MS)
        assert robot.held_back <= 6
    assert np.ptp(np.array(arm.commands)[-200:], axis=0).max() > 0.005


def test_a_target_that_reaches_franky_too_late_changes_nothing(franky: type[franky_in_step.Robot]) -> None:
    with closing(robot_at(franky, to_franka(HOME), PROFILES["fr3"], 1.0)) as robot:
        arm = franky.made
        robot.apply(np.append(robot.observe()[:7] + 0.1, HAND_OPEN))
        arm.pass_by(PERIOD_MS)
        ahead = robot._lines._look(arm.state).commands
        arm.delay_ms = lambda: 120  # type: ignore[method-assign]
        robot.apply(np.append(robot.observe()[:7] - 0.1, HAND_OPEN))
        arm.pass_by(400)
        np.testing.assert_allclose(np.array(arm.commands)[-1], ahead[-1], atol=1e-6)


@pytest.mark.parametrize("after_ms", [20, 60, 80, 100, 150])
def test_a_stop_brakes_as_soon_as_it_may(franky: type[franky_in_step.Robot], after_ms: int) -> None:
    with closing(robot_at(franky, to_franka(HOME), PROFILES["fr3"], 1.0)) as robot:
        arm = franky.made
        for _ in range(6):
            robot.apply(np.append(robot.observe()[:7] + 0.1, HAND_OPEN))
            arm.pass_by(PERIOD_MS)
        arm.pass_by(after_ms)
        before_ms = arm.time_ms
        robot.stop()
        assert not arm.is_in_control
        assert arm.time_ms - before_ms < 350
    moved = np.array(arm.commands)[before_ms:]
    np.testing.assert_array_equal(moved[-1], moved[-10])


def test_the_way_to_the_start_can_be_broken_off(franky: type[franky_in_step.Robot]) -> None:
    with closing(robot_at(franky, to_franka(HOME), PROFILES["fr3"], 0.5)) as robot:
        arm, start = franky.made, to_franka(HOME)
        robot._lines.begin()
        assert robot._lines.go(start + 0.4, share=0.2) == set()
        arm.pass_by(700)
        robot.stop()
        assert 0.01 < (arm.commands[-1] - start).max() < 0.2
    received = np.column_stack([np.array(arm.commands), np.tile(HAND_OPEN, (len(arm.commands), 1))])
    assert_inside(PROFILES["fr3"].slowed(0.5, 0.5, 0.5), received[0], received)


def test_the_way_to_a_start_near_an_end_is_slow_enough(franky: type[franky_in_step.Robot]) -> None:
    profile = PROFILES["fr3"]
    franky.start = profile.high[:7] - 0.3
    with closing(FrankaRobot("host", FixedObjects(UNTOUCHED), CONFIG)) as robot:
        robot.reset(0)
    received = np.column_stack([np.array(franky.made.commands), np.tile(HAND_OPEN, (len(franky.made.commands), 1))])
    assert_inside(profile, received[0], received)
    np.testing.assert_allclose(to_kitchen(received[-1, :7]), HOME, atol=0.01)


def test_a_way_to_the_start_that_leaves_the_workspace_is_refused(franky: type[franky_in_step.Robot]) -> None:
    there = to_franka(HOME) + np.array([2.2, 0, 0, 0, 0, 0, 0])
    ends = flange_pose(np.array([to_franka(HOME), there]))[0]
    chord = PROFILES["fr3"].within(Box(tuple(ends.min(axis=0) - 0.01), tuple(ends.max(axis=0) + 0.01)))
    franky.start = there
    with closing(FrankaRobot("host", FixedObjects(UNTOUCHED), FrankaConfig(profile=chord, realtime=False))) as robot:
        with pytest.raises(InvalidInput, match=r"the straight way .* leaves the profile's limits of workspace"):
            robot.reset(0)
        np.testing.assert_array_equal(franky.made.commands[-1], there)


def test_after_a_missed_millisecond_nothing_is_sent_until_the_arm_stands(franky: type[franky_in_step.Robot]) -> None:
    with closing(robot_at(franky, to_franka(HOME), PROFILES["fr3"], 1.0)) as robot:
        arm = franky.made
        for number in range(20):
            robot.apply(np.append(robot.observe()[:7] + 0.05, HAND_OPEN))
            arm.pass_by(PERIOD_MS // 2)
            if number == 8:
                arm.miss()
            arm.pass_by(PERIOD_MS // 2)
        assert 1 <= robot.held_back <= 8
    received = np.array(arm.commands)
    assert (received[-1] - received[800] > 0.1).all()


class Sent(NamedTuple):
    """What franky sent in one millisecond."""

    motion: int  # number
    step_ms: int  # since the last command
    at_ms: int  # since franky took control
    state: Any  # franky's RobotState
    joints: np.ndarray  # (7,) [rad]


@pytest.mark.alone
def test_the_line_is_the_one_that_franky_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit nearly, through the vendor's client and its own Ruckig, where it missed no millisecond."""
    pytest.importorskip("franky", reason="needs the franka extra")
    pytest.importorskip("franky_sim", reason="needs the franka-sim extra")
    rng, sent, motions = np.random.default_rng(0), list[Sent](), list[tuple[Sequence[Waypoint], float]]()
    host = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.7"

    def watched(lines: Lines, waypoints: Sequence[Waypoint], share: float = 1.0, returns: bool = False) -> Any:
        motion, number = draw(lines, waypoints, share, returns), len(motions)
        motions.append((waypoints, share))
        motion.register_callback(
            lambda state, step, since, at, command: sent.append(
                Sent(number, step.to_msec(), at.to_msec(), state, np.array(command.q))
            )
        )
        return motion

    draw = Lines._motion
    monkeypatch.setattr(Lines, "_motion", watched)
    with simulated_robot(host) as host, closing(FrankaRobot(host, FixedObjects(UNTOUCHED), CONFIG)) as robot:
        drawn = robot._lines._drawn
        robot.reset(0)
        for _ in range(15):
            robot.apply(np.append(robot.observe()[:7] + rng.uniform(-0.15, 0.15, 7), HAND_OPEN))
            over_ms = robot._arm.state.time.to_msec() + 70
            while robot._arm.state.time.to_msec() < over_ms:
                time.sleep(0.002)
        robot.stop()
    compared = 0
    for number, (waypoints, share) in enumerate(motions):
        own = [place for place, each in enumerate(sent) if each.motion == number]
        if not own or any(sent[place].step_ms > 1 for place in own):
            continue
        first = sent[own[0]]
        before = first.state.q_d if first.at_ms == 0 else sent[own[0] - 1].joints
        start = State(np.ravel(before), np.ravel(first.state.dq_d), np.ravel(first.state.ddq_d))
        commands = line(start, waypoints, drawn, share)
        assert commands is not None
        length = min(len(own), len(commands))
        received = [sent[place].joints for place in own[:length]]
        np.testing.assert_allclose(received, commands[:length], rtol=0, atol=1e-9)
        compared += length
    assert compared > 500


FR3 = PROFILES["fr3"]


@pytest.mark.parametrize(
    ("profile", "fault"),
    [
        (FR3, None),
        (FR3.slowed(0.1, 1, 1), LimitViolation("velocity", 0)),
        (FR3.slowed(1, 0.5, 1), LimitViolation("acceleration", 0)),
        (FR3.slowed(1, 1, 0.5), LimitViolation("jerk", 0)),
        (replace(FR3, high=np.array([0.35, *FR3.high[1:]])), LimitViolation("position", 0)),
        (FR3.within(Box((-0.855, 0.1, -0.05), (0.855, 0.155, 1.188))), LimitViolation("workspace", None)),
    ],
)
def test_each_limit_that_a_line_leaves_is_found(profile: Profile, fault: LimitViolation | None) -> None:
    assert FR3.arm is not None
    start = to_franka(HOME)
    way = np.array([0.25, 0, 0, 0, 0, 0, 0])
    drawn = replace(FR3.arm, acceleration=0.9 * FR3.arm.acceleration, jerk=0.9 * FR3.arm.jerk)
    commands = line(State(start, ZEROS, ZEROS), [Waypoint(way, ZEROS)], drawn)
    assert commands is not None
    found = violations(profile, np.vstack([[start] * 3, commands]), np.zeros((1, 7)))
    assert found == (set() if fault is None else {fault})
