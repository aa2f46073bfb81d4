"""Advantages against a literal reading of their definition, and the value function they lean on."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rpl_train.rl.baseline import Baseline, advantages, informative

EPISODES = 3
numbers = st.floats(-5, 5, width=32)
discounts = st.floats(0, 1)


@st.composite
def episodes(draw):
    """Rewards (E, T), values (E, T) and which steps end a return (T,); the last one does."""
    steps = draw(st.integers(1, 9))
    rewards, values = (draw(arrays(np.float64, (EPISODES, steps), elements=numbers)) for _ in range(2))
    last = np.append(draw(arrays(np.bool_, steps - 1)), True)
    return rewards, values, last


def naive(rewards, values, last, gamma, smoothing):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, up to the step that ends the return."""
    estimates = np.zeros_like(rewards)
    for episode, step in np.ndindex(rewards.shape):
        for ahead in range(step, rewards.shape[1]):
            following = 0.0 if last[ahead] else values[episode, ahead + 1]
            delta = rewards[episode, ahead] + gamma * following - values[episode, ahead]
            estimates[episode, step] += (gamma * smoothing) ** (ahead - step) * delta
            if last[ahead]:
                break
    return estimates


@given(episodes(), discounts, discounts)
def test_advantages_are_the_discounted_sum_of_temporal_differences(made, gamma, smoothing):
    assert advantages(*made, gamma, smoothing) == pytest.approx(naive(*made, gamma, smoothing), abs=1e-9)


@given(episodes(), discounts)
def test_without_smoothing_they_are_returns_less_values(made, gamma):
    rewards, values, last = made
    returns = naive(rewards, np.zeros_like(rewards), last, gamma, 1.0)
    assert advantages(rewards, values, last, gamma, 1.0) + values == pytest.approx(returns, abs=1e-9)


def test_what_follows_the_end_of_a_return_does_not_count():
    rewards, values = np.array([[1.0, 2.0, 100.0, 100.0]]), np.array([[0.0, 0.0, 50.0, 50.0]])
    ends_early = np.array([False, True, False, True])
    assert advantages(rewards, values, ends_early, 1.0, 1.0)[0, :2].tolist() == [3.0, 2.0]
    whole = np.array([False, False, False, True])
    assert advantages(rewards, values, whole, 1.0, 1.0)[0, 0] == 203.0


def seen(count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Features and the returns that follow from them, far from zero and from unit scale."""
    features = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    return features, 40 + 10 * np.sin(features[:, 0]) + 5 * features[:, 1]


def test_an_unfitted_baseline_is_zero():
    assert not Baseline(6).values(seen()[0]).any()


def test_fitting_explains_most_of_the_returns_and_goes_on_from_the_last_fit():
    features, returns = seen()
    baseline, left = Baseline(6), []
    for seed in range(4):
        baseline.fit(features, returns, seed)
        left.append(np.square(baseline.values(features) - returns).mean() / returns.var())
    assert left[0] < 0.5
    assert left[-1] < min(left[0], 0.05)


def test_a_fit_depends_on_its_seed_and_its_data_alone():
    features, returns = seen(600)  # more than a batch, so that their order counts
    one, other, another = (copy.deepcopy(begun) for begun in [Baseline(6)] * 3)
    for baseline, seed in ((one, 3), (other, 3), (another, 4)):
        baseline.fit(features, returns, seed)
    assert np.array_equal(one.values(features), other.values(features))
    assert not np.array_equal(one.values(features), another.values(features))


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_fit_is_the_same_in_every_unit_of_the_returns(unit: float):
    features, returns = seen(300)
    one, other = Baseline(6), Baseline(6)
    other.load_state_dict(one.state_dict())
    one.fit(features, returns, seed=3)
    other.fit(features, unit * returns - 7, seed=3)
    assert other.values(features) == pytest.approx(unit * one.values(features) - 7, rel=1e-3, abs=0.01 * unit)


def test_returns_that_are_all_equal_can_be_fitted():
    features, _ = seen(100)
    baseline = Baseline(6)
    baseline.fit(features, np.full(100, 3.0), seed=0)
    assert baseline.values(features) == pytest.approx(np.full(100, 3.0), abs=1e-3)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e4])
def test_rewards_that_every_episode_earns_alike_are_not_informative_whatever_their_size(size):
    alike = np.tile(size * np.linspace(0.5, 1, 7, dtype=np.float32), (EPISODES, 1))
    rounded = alike * (1 + 1e-7 * np.arange(EPISODES, dtype=np.float32)[:, None])
    assert not informative(alike)
    assert not informative(rounded)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_one_episode_that_earned_otherwise_in_one_step_is_informative(size):
    rewards = np.full((EPISODES, 7), size, dtype=np.float32)
    rewards[1, 3] *= 1.01
    assert informative(rewards)


def test_rewards_that_are_no_numbers_are_left_to_be_found():
    assert informative(np.full((EPISODES, 7), np.nan, dtype=np.float32))
