"""That what a level learns from is what it saw, did and earned, row by row."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import drawers
from demonstrations import STEPS
from rpl_runtime.policy.manifest import Statistics
from rpl_train.networks import HighLevel, LowLevel, RelayPolicy, TargetStatistics
from rpl_train.rl.experience import Explorer, experience, feature_count
from rpl_train.rl.rewards import REWARDS
from rpl_train.rl.rollout import Start, open_worlds, rollout
from rpl_train.runs import LEVELS
from rpl_train.statistics import STD_FLOOR

SPEC = drawers.spec()
STATISTICS = Statistics(mean=(0.5, 0.2, 0.3), std=(0.4, 0.3, 0.3), low=(0, 0, 0), high=(1, 1, 1))
EPISODES = 5
LOG_STD = 2.0  # so noisy that many of the low level's targets are clipped


@pytest.fixture(scope="module")
def policy() -> RelayPolicy:
    torch.manual_seed(0)
    low = LowLevel(SPEC, STATISTICS, TargetStatistics((0.5,), (0.4,)), (16,))
    with torch.no_grad():
        low.log_std.fill_(LOG_STD)
    return RelayPolicy(HighLevel(SPEC, STATISTICS, (16,), 1), low)


def played(policy, levels=LEVELS):
    """Five episodes on two drawers, so in three waves of which the last is short; and what the low level drew."""
    explorer = Explorer(policy, levels)
    starts = [Start(drawers.GOAL, seed, sampling=seed) for seed in range(EPISODES)]
    with open_worlds(drawers.TASK, 2) as two:
        episodes = rollout(explorer, SPEC, drawers.TASK, starts, two)
    return episodes, explorer.targets(episodes)


def of(level, policy, reward="completion"):
    episodes, drawn = played(policy)
    return episodes, experience(level, episodes, drawn, REWARDS[reward], SPEC, STATISTICS)


def test_samples_belong_to_the_episodes_and_steps_that_they_were_drawn_in(policy):
    episodes, drawn = played(policy)
    assert drawn.shape == (EPISODES, STEPS, 1)
    for episode, targets in zip(episodes, drawn, strict=True):
        clipped = policy.low.clip(torch.from_numpy(targets)).numpy()
        assert np.array_equal(clipped, episode.targets)
    assert 0.1 < (drawn != np.stack([episode.targets for episode in episodes])).mean() < 0.9


def test_the_low_level_learns_from_what_it_drew_and_not_from_what_was_commanded(policy):
    episodes, seen = of("low", policy)
    commanded = np.concatenate([episode.targets for episode in episodes])
    low, high = SPEC.action.bounds
    assert (seen.outputs < low).any()
    assert (seen.outputs > high).any()
    drawn, clipped = (
        policy.low.log_prob(*map(torch.from_numpy, (*seen.inputs, targets))).mean().item()
        for targets in (seen.outputs, commanded)
    )
    expected = -0.5 - LOG_STD  # of samples of a normal distribution, without the constant
    assert drawn == pytest.approx(expected, abs=0.15)
    assert clipped > expected + 0.15


def test_the_low_level_decides_in_every_step(policy):
    episodes, seen = of("low", policy)
    states, subgoals = seen.inputs
    assert np.array_equal(states, np.concatenate([episode.states for episode in episodes]))
    assert np.array_equal(subgoals, np.concatenate([episode.subgoals for episode in episodes]))
    assert seen.rewards.shape == (EPISODES, STEPS)
    assert seen.outputs.shape == (EPISODES * STEPS, 1)


def test_the_high_level_decides_once_a_horizon(policy):
    episodes, seen = of("high", policy)
    states, goals, masks = seen.inputs
    plans = np.arange(0, STEPS, SPEC.horizon)
    assert np.array_equal(states, np.concatenate([episode.states[plans] for episode in episodes]))
    assert np.array_equal(seen.outputs, np.concatenate([episode.subgoals[plans] for episode in episodes]))
    assert np.array_equal(goals, np.repeat([episode.goal.state for episode in episodes], len(plans), axis=0))
    assert (masks == [0, 1, 1]).all()
    assert seen.rewards.shape == (EPISODES, len(plans))
    assert seen.last.tolist() == [False] * (len(plans) - 1) + [True]


def test_a_subgoal_that_an_episode_cuts_short_ends_with_it(policy):
    """Of 24 steps in horizons of 5, the last subgoal is kept for four."""
    spec = SPEC.model_copy(update={"horizon": 5})
    episodes, drawn = played(policy)
    low, high = (experience(level, episodes, drawn, REWARDS["sparse"], spec, STATISTICS) for level in ("low", "high"))
    assert np.flatnonzero(low.last).tolist() == [4, 9, 14, 19, 23]
    assert high.rewards.shape == (EPISODES, 5)


def test_both_levels_earn_the_same_elements(policy):
    """Each completion is paid in the step, and to the subgoal, that it happens in."""
    episodes, low = of("low", policy)
    _, high = of("high", policy)
    assert low.rewards.any()
    by_subgoal = low.rewards.reshape(EPISODES, -1, SPEC.horizon).sum(2)
    assert np.array_equal(high.rewards, by_subgoal)
    assert low.rewards.sum(1).tolist() == [len(episode.done[-1]) for episode in episodes]


@pytest.mark.parametrize("reward", REWARDS)
def test_a_return_of_the_low_level_ends_where_its_reward_says(policy, reward):
    _, seen = of("low", policy, reward)
    ends = np.flatnonzero(seen.last).tolist()
    assert ends == ([3, 7, 11, 15, 19, 23] if REWARDS[reward].until_subgoal else [23])


@pytest.mark.parametrize("level", LEVELS)
def test_a_baseline_sees_as_many_features_as_it_was_made_for(policy, level):
    _, seen = of(level, policy)
    assert seen.features.shape == (seen.rewards.size, feature_count(level, 3))
    assert seen.features.dtype == np.float32


@pytest.mark.parametrize("level", LEVELS)
def test_a_baseline_sees_state_and_goal_in_standard_deviations_and_how_late_it_is(policy, level):
    """Row by row, of a goal that leaves a drawer out, and of a dimension that never moved in the demonstrations."""
    statistics = STATISTICS.model_copy(update={"std": (0.4, 0.3, 0.0)})
    spec = SPEC.model_copy(update={"horizon": 5})
    episodes, drawn = played(policy)
    named = [replace(each, goal=spec.resolve((drawers.FIRST,), each.states[0])) for each in episodes]
    seen = experience(level, named, drawn, REWARDS["completion"], spec, statistics)
    mean, scale = np.array(statistics.mean), np.array([0.4, 0.3, STD_FLOOR])
    expected = []
    for episode in named:
        for step in range(0, STEPS, 1 if level == "low" else 5):
            state, late = episode.states[step], step / STEPS
            to_goal = [0.0, (episode.goal.state[1] - state[1]) / scale[1], 0.0]
            to_subgoal = (episode.subgoals[step] - state) / scale if level == "low" else []
            times = [late, late**2, late**3, (step % 5) / 5]
            expected.append([*(state - mean) / scale, *to_goal, *times, *to_subgoal])
    assert seen.features == pytest.approx(np.array(expected), rel=1e-4, abs=1e-5)


def test_a_level_that_does_not_learn_takes_its_modes(policy):
    (first, *_), _ = played(policy, levels=("high",))
    state, subgoal = torch.from_numpy(first.states), torch.from_numpy(first.subgoals)
    assert np.allclose(policy.low(state, subgoal, torch.zeros(STEPS, 1)).detach(), first.targets, atol=1e-6)
    (first, *_), _ = played(policy, levels=("low",))
    mode = policy.plan(first.states[:1], first.goal.state[None], first.goal.mask[None], np.zeros((1, 3), np.float32))
    assert np.allclose(mode[0], first.subgoals[0], atol=1e-6)
