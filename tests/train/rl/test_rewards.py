"""Each formula of the rewards, by hand, on three steps of the drawers."""

from typing import get_args

import numpy as np
import pytest

from demonstrations import NAMES, drawer_spec
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import PolicySpec, VectorSpec
from rpl_train.rl.rewards import REWARDS, Outcome, RewardName, outcome, reward_for
from rpl_train.rl.rollout import Episode, Start

FIRST, SECOND = "first drawer", "second drawer"
ENDS = np.array([1, 2])  # a subgoal of two steps, one of one


def spec() -> PolicySpec:
    """The drawers, opened by a joint."""
    drawers = drawer_spec()
    unit = {"units": ("rad",)}
    return drawers.model_copy(update={"action": drawers.action.model_copy(update=unit)})


def seen(named: tuple[str, ...] = (FIRST, SECOND)) -> Outcome:
    """The first drawer opens in the second step and the second in the last; the hand is where it should be in two."""
    goal = spec().resolve(named, np.zeros(3, dtype=np.float32))
    states = np.array([[0, 0, 0], [0.2, 0.3, 0], [1, 0.9, 0]], dtype=np.float32)
    episode = Episode(
        start=Start(named, 0),
        goal=goal,
        states=states,
        subgoals=np.array([[1, 1, 0], [1, 1, 0], [2, 1, 1]], dtype=np.float32),
        targets=np.zeros((3, 1), dtype=np.float32),
        done=(frozenset(), frozenset({FIRST}), frozenset({FIRST, SECOND})),
        final_state=np.array([2.6, 0.95, 0.95], dtype=np.float32),
    )
    return outcome(episode, spec(), np.array([0.5, 0.25, 0.2]))


def low(name: RewardName) -> np.ndarray:
    return REWARDS[name].low(seen())


def high(name: RewardName, *named: str) -> np.ndarray:
    return REWARDS[name].high(seen(named or (FIRST, SECOND)), ENDS)


def test_every_reward_that_can_be_asked_for_is_there():
    assert set(REWARDS) == set(get_args(RewardName))


def test_an_outcome_is_what_was_reached_after_each_step():
    found = seen()
    assert found.reached[:, 0] == pytest.approx([0.2, 1, 2.6])
    assert found.done.tolist() == [0, 1, 2]
    assert found.arm == (0,)


def test_elements_that_nobody_named_are_not_counted_as_done():
    assert seen((SECOND,)).done.tolist() == [0, 0, 1]


def test_sparse_asks_the_low_level_for_every_element_and_the_arm():
    # Step 1: the drawer is 0.7 away. Step 2: it is 0.1 away, one tenth and no less. Step 3: the hand is 0.6 rad away.
    assert low("sparse").tolist() == [0, 0, 0]
    found = seen()
    found.reached[1, 1] = 0.95
    found.reached[2, 0] = 2.4
    assert REWARDS["sparse"].low(found).tolist() == [0, 1, 1]


def test_sparse_on_objects_asks_the_low_level_for_every_element_and_not_for_the_arm():
    # As above, but in the third step a hand that is 0.6 rad away does not matter.
    assert low("sparse-objects").tolist() == [0, 0, 1]
    found = seen()
    found.reached[:, 0] = 9  # wherever the hand is
    found.reached[1, 1] = 0.95
    assert REWARDS["sparse-objects"].low(found).tolist() == [0, 1, 1]
    assert REWARDS["sparse"].low(found).tolist() == [0, 0, 0]
    assert high("sparse-objects").tolist() == [0, 1]


@pytest.mark.parametrize(("hand", "drawer", "objects", "both"), [
    (0.49, 0.066, 1, 1), (0.51, 0.066, 1, 0), (0.49, 0.068, 0, 0),
])  # fmt: skip
def test_sparse_counts_a_third_of_the_tolerance_and_half_a_radian(hand, drawer, objects, both):
    found = seen()
    found.reached[1] = found.subgoals[1] + [hand, 0, drawer]  # the tolerance is 0.2
    assert REWARDS["sparse-objects"].low(found)[1] == objects
    assert REWARDS["sparse"].low(found)[1] == both


def test_only_joints_that_turn_are_the_arm():
    """A gripper's fingers slide, and a subgoal's fingers are none of it."""
    hand = spec().action
    both = VectorSpec(names=NAMES[:2], units=("rad", "m"), low=hand.low * 2, high=hand.high * 2)
    gripping = spec().model_copy(update={"action": both})
    goal = gripping.resolve((FIRST,), np.zeros(3, dtype=np.float32))
    still = np.zeros((1, 3), dtype=np.float32)
    episode = Episode(Start((FIRST,), 0), goal, still, still, np.zeros((1, 2), np.float32), (frozenset(),), still[0])
    assert outcome(episode, gripping, np.ones(3)).arm == (0,)


def test_sparse_asks_the_high_level_for_the_whole_goal():
    assert high("sparse").tolist() == [0, 1]
    assert high("sparse", FIRST).tolist() == [1, 1]


def test_euclidean_is_the_distance_in_standard_deviations():
    first = np.sqrt(((-0.8 / 0.5) ** 2 + (-0.7 / 0.25) ** 2 + 0) / 3)
    third = np.sqrt(((0.6 / 0.5) ** 2 + (-0.05 / 0.25) ** 2 + (-0.05 / 0.2) ** 2) / 3)
    assert low("euclidean")[[0, 2]] == pytest.approx([-first, -third], rel=1e-5)


def test_euclidean_counts_for_the_high_level_what_the_goal_names():
    after_second = np.sqrt(((-0.1 / 0.25) ** 2 + (-1 / 0.2) ** 2) / 2)
    at_end = np.sqrt(((-0.05 / 0.25) ** 2 + (-0.05 / 0.2) ** 2) / 2)
    assert high("euclidean") == pytest.approx([-after_second, -at_end], rel=1e-5)
    assert high("euclidean", FIRST) == pytest.approx([-0.1 / 0.25, -0.05 / 0.25], rel=1e-5)


def test_elements_are_counted_by_the_environments_threshold():
    assert low("elements").tolist() == [0.5, 1, 1]  # 0.7 is beyond the tolerance of 0.2, 0.1 inside
    assert high("elements").tolist() == [0.5, 1]
    assert high("elements", SECOND).tolist() == [0, 1]


def test_completion_pays_once_for_each_element_and_takes_back_what_reverts():
    assert low("completion").tolist() == [0, 1, 1]
    assert high("completion").tolist() == [1, 1]
    found = seen()
    found.done[:] = [1, 0, 2]
    assert REWARDS["completion"].low(found).tolist() == [1, -1, 2]
    assert REWARDS["completion"].high(found, ENDS).tolist() == [0, 2]


def test_rewards_that_look_at_elements_need_a_policy_with_some():
    bare = spec().model_copy(update={"elements": {}, "library": {}})
    for name in REWARDS:
        assert reward_for(name, spec()) is REWARDS[name]
        if name in {"euclidean", "completion"}:
            assert reward_for(name, bare) is REWARDS[name]
        else:
            with pytest.raises(InvalidInput, match=f"the reward {name} needs a policy with elements"):
                reward_for(name, bare)


def test_rewards_toward_a_subgoal_end_with_it():
    assert {name for name, reward in REWARDS.items() if reward.until_subgoal} == {
        "sparse-objects", "sparse", "euclidean", "elements"
    }  # fmt: skip


@pytest.mark.parametrize("name", REWARDS)
def test_each_gives_one_number_a_step_and_a_subgoal(name: RewardName):
    assert low(name).shape == (3,)
    assert high(name).shape == (2,)
