"""The kitchen as a robot."""

from collections.abc import Iterator

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.kitchen.elements import ELEMENTS, kitchen_spec
from rpl_runtime.kitchen.simulator import NOMINAL, PERTURBED
from rpl_runtime.robots import Robot
from rpl_runtime.robots.kitchen import KitchenRobot


@pytest.fixture(scope="module")
def kitchen() -> Iterator[KitchenRobot]:
    robot = KitchenRobot()
    yield robot
    robot.close()


def play(robot: Robot, seed: int, steps: int = 3) -> np.ndarray:
    robot.reset(seed)
    states = [robot.observe()]
    for _ in range(steps):
        robot.apply(states[-1][:9] + 0.05)
        states.append(robot.observe())
    robot.stop()
    return np.array(states)


def test_a_seed_fixes_an_episode(kitchen: KitchenRobot) -> None:
    np.testing.assert_array_equal(play(kitchen, 3), play(kitchen, 3))
    assert not np.array_equal(play(kitchen, 3), play(kitchen, 4))


def test_states_are_what_a_kitchens_policy_accepts(kitchen: KitchenRobot) -> None:
    spec = kitchen_spec("kitchen", horizon=30, high_noise=4, low_noise=9)
    for state in play(kitchen, 3):
        assert state.dtype == np.float32
        spec.state.check("state", state)


def test_a_target_moves_the_arm_toward_it(kitchen: KitchenRobot) -> None:
    kitchen.reset(0)
    start = kitchen.observe()[:7]
    target = np.append(start + 0.1, [0.02, 0.02])
    for _ in range(10):
        kitchen.apply(target)
    assert np.abs(kitchen.observe()[:7] - target[:7]).max() < np.abs(start - target[:7]).max() / 2


def test_the_start_noise_may_change_between_runs(kitchen: KitchenRobot) -> None:
    kitchen.reset(5)
    nominal = kitchen.observe()
    kitchen.start_noise = PERTURBED
    kitchen.reset(5)
    perturbed = kitchen.observe()
    kitchen.start_noise = NOMINAL
    assert np.abs(perturbed - nominal)[:7].max() > 0.005
    assert np.abs(perturbed - nominal)[:7].max() < 0.06


def test_done_is_read_from_the_simulator(kitchen: KitchenRobot) -> None:
    kitchen.reset(0)
    assert kitchen.done() == frozenset()
    kitchen.simulator.data.qpos[22] = ELEMENTS["microwave"].goal[0]
    assert kitchen.done() == {"microwave"}


def test_a_target_that_is_not_finite_is_refused(kitchen: KitchenRobot) -> None:
    kitchen.reset(0)
    with pytest.raises(InvalidInput, match="9 finite numbers"):
        kitchen.apply(np.full(9, np.nan))
