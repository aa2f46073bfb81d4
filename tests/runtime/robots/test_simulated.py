"""The kitchen as a robot."""

from collections.abc import Iterator

import numpy as np
import pytest

from robot_contract import RobotContract
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots import Robot
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, kitchen_spec


@pytest.fixture(scope="module")
def kitchen() -> Iterator[SimulatedRobot]:
    robot = SimulatedRobot(KITCHEN)
    yield robot
    robot.close()


class TestContract(RobotContract):
    noise = 5e-3  # that of the environment's readings, and how far the arm sags below its set-points in a period
    moving = slice(0, 7)

    @pytest.fixture
    def spec(self) -> PolicySpec:
        return kitchen_spec("kitchen")

    @pytest.fixture
    def robot(self, kitchen: SimulatedRobot) -> Robot:
        kitchen.reset(0)
        return kitchen


def play(robot: Robot, seed: int, steps: int = 3) -> np.ndarray:
    robot.reset(seed)
    states = [robot.observe()]
    for _ in range(steps):
        robot.apply(states[-1][:9] + 0.05)
        states.append(robot.observe())
    robot.stop()
    return np.array(states)


def test_a_seed_fixes_an_episode(kitchen: SimulatedRobot) -> None:
    np.testing.assert_array_equal(play(kitchen, 3), play(kitchen, 3))
    assert not np.array_equal(play(kitchen, 3), play(kitchen, 4))


def test_the_start_may_change_between_runs(kitchen: SimulatedRobot) -> None:
    kitchen.reset(5)
    nominal = kitchen.observe()
    kitchen.start = "perturbed"
    kitchen.reset(5)
    perturbed = kitchen.observe()
    kitchen.start = "nominal"
    assert np.abs(perturbed - nominal)[:7].max() > 0.005
    assert np.abs(perturbed - nominal)[:7].max() < 0.06


def test_done_is_read_from_the_simulator(kitchen: SimulatedRobot) -> None:
    kitchen.reset(0)
    assert kitchen.done() == frozenset()
    kitchen.world.data.qpos[22] = ELEMENTS["microwave"].goal[0]
    assert kitchen.done() == {"microwave"}
