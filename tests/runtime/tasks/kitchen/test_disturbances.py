"""Disturbances move a kitchen by forces alone, and as far as they say."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.tasks.hazards import Disturbance
from rpl_runtime.tasks.kitchen.disturbances import Jolt, Push, PutBack, check_reachable, with_elements
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, UNSEEN_GOALS, compound_goal
from rpl_runtime.tasks.kitchen.simulator import Kitchen, open_kitchen


@pytest.fixture(scope="module")
def kitchen() -> Iterator[Kitchen]:
    with open_kitchen() as kitchen:
        yield kitchen


def hold(kitchen: Kitchen, disturbances: Sequence[Disturbance], steps: int) -> np.ndarray:
    """Configurations (T, 30) with the arm held at its place."""
    target, path = kitchen.state[:9].copy(), []
    for step in range(steps):
        kitchen.data.qfrc_applied[:] = 0
        for disturbance in disturbances:
            disturbance.act(step, kitchen.done())
        kitchen.step(target)
        path.append(kitchen.qpos)
    kitchen.data.qfrc_applied[:] = 0
    return np.array(path)


@pytest.mark.parametrize("seed", range(3))
def test_a_jolt_moves_every_joint_about_as_far_as_it_is_drawn(kitchen: Kitchen, seed: int) -> None:
    kitchen.reset(seed)
    calm = hold(kitchen, [], 12)
    kitchen.reset(seed)
    jolted = hold(kitchen, [Jolt(kitchen, 0.2, (4,), np.random.default_rng(seed))], 12)
    np.testing.assert_array_equal(jolted[:4], calm[:4])
    drawn = np.random.default_rng(seed).uniform(-0.2, 0.2, 7)
    moved = (jolted - calm)[5, :7]
    others = [0, 2, 3, 4, 5, 6]  # the second joint starts at the end of its range
    np.testing.assert_allclose(moved[others], drawn[others], atol=0.09)
    assert abs(moved[others]).max() > 0.1
    np.testing.assert_allclose(jolted[:, 9:], calm[:, 9:], atol=1e-3)  # nothing else is moved


@pytest.mark.parametrize("distance", [0.04, 0.08, 0.12])
def test_a_push_slides_the_kettle_by_its_distance_without_a_jump(kitchen: Kitchen, distance: float) -> None:
    kitchen.reset(1)
    start = kitchen.qpos
    before = kitchen.data.qpos.copy()
    push = Push(kitchen, distance, (2,), np.random.default_rng(1))
    push.act(2, frozenset())
    np.testing.assert_array_equal(kitchen.data.qpos, before)  # an impulse, not a place
    kitchen.reset(1)
    path = hold(kitchen, [Push(kitchen, distance, (2,), np.random.default_rng(1))], 20)
    assert np.linalg.norm(path[-1, 23:25] - start[23:25]) == pytest.approx(distance, rel=0.15)


def test_a_push_off_the_counter_is_drawn_again(kitchen: Kitchen) -> None:
    """Near the edge some directions are refused, and what is drawn in the end leaves the kettle standing."""
    kitchen.reset(0)
    edge = kitchen.qpos
    edge[24] -= 0.1
    redrawn = Counter[str]()
    for seed in range(12):
        kitchen.restore(edge, 0)
        push = Push(kitchen, 0.6, (0,), np.random.default_rng(seed))
        path = hold(kitchen, [push], 15)
        redrawn += push.redrawn
        assert path[-1, 25] == pytest.approx(edge[25], abs=0.05)
    assert redrawn["the kettle slips off the counter"]
    assert redrawn["the kettle tips over"]


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_finished_element_is_put_back_a_while_later(kitchen: Kitchen, element: str) -> None:
    kitchen.reset(0)
    start, dims = kitchen.qpos, list(ELEMENTS[element].dims)
    put_back = PutBack(kitchen, 3, (element,))
    kitchen.restore(with_elements(start, (element,)), 0)
    path = hold(kitchen, [put_back], 60)
    done = [ELEMENTS[element].is_done(qpos) for qpos in path]
    assert done[:3] == [True] * 3
    assert not done[-1]
    assert put_back.over
    assert np.linalg.norm((path[-1] - start)[dims]) < 0.1
    assert abs(np.diff(path[:, dims], axis=0)).max() < 0.15  # at the speed of a hand


def test_a_put_back_that_physics_refuses_is_tried_again_and_counted(kitchen: Kitchen) -> None:
    """Here somebody holds the door open."""
    kitchen.reset(0)
    put_back = PutBack(kitchen, 0, ("microwave",))
    kitchen.restore(with_elements(kitchen.qpos, ("microwave",)), 0)

    class Held(PutBack):
        def act(self, step: int, done: frozenset[str]) -> None:
            kitchen.data.qfrc_applied[22] = 20.0 * (-0.75 - kitchen.data.qpos[22])

    hold(kitchen, [put_back, Held(kitchen, 0, ())], 75)
    assert put_back.redrawn == {"physics refuses the put-back": 2}
    assert not put_back.over


@pytest.mark.parametrize("goal", [*UNSEEN_GOALS, "m", "mkbtlsh"])
def test_every_set_of_elements_is_a_state_in_which_the_kitchen_rests(kitchen: Kitchen, goal: str) -> None:
    kitchen.reset(0)
    state = with_elements(kitchen.qpos, compound_goal(goal))
    np.testing.assert_array_equal(check_reachable(kitchen, state), state)
    assert {name for name, element in ELEMENTS.items() if element.is_done(state)} == set(compound_goal(goal))


@pytest.mark.parametrize(("dim", "value"), [(24, 1.3), (25, 1.9), (19, 0.9)])
def test_a_state_that_the_kitchen_cannot_reach_is_refused(kitchen: Kitchen, dim: int, value: float) -> None:
    """The kettle in the wall, the kettle in the air, a drawer that is opened too far."""
    kitchen.reset(0)
    goal = kitchen.qpos
    goal[dim] = value
    with pytest.raises(InvalidGoal, match="must be a state in which every object rests"):
        check_reachable(kitchen, goal)
