"""Statistics of training states: what they say of states like them and unlike them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.policy.novelty import Novelty
from rpl_train.statistics import state_statistics


def scores(training: np.ndarray, states: np.ndarray) -> np.ndarray:
    novelty = Novelty.of(state_statistics(training.astype(np.float32)))
    assert novelty is not None
    return novelty.score(states.astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_one_state_in_a_hundred_of_the_training_data_is_flagged(seed: int, dims: int) -> None:
    rng = np.random.default_rng(seed)
    training = rng.normal(size=(2000, dims)) @ rng.normal(size=(dims, dims)) + rng.normal(size=dims)
    assert (scores(training, training) > 1).mean() == pytest.approx(0.01, abs=0.002)


def test_a_state_of_ordinary_numbers_in_an_unseen_combination_is_far_away() -> None:
    along = np.random.default_rng(0).normal(size=(2000, 1))
    training = np.hstack([along, along + np.random.default_rng(1).normal(0, 0.05, (2000, 1))])
    together, against = scores(training, np.array([[1.0, 1.0], [1.0, -1.0]]))
    assert together < 1 < against / 2


def test_what_never_moved_in_the_data_may_be_measured_with_a_little_noise() -> None:
    training = np.hstack([np.random.default_rng(0).normal(size=(2000, 1)), np.zeros((2000, 1))])
    noisy, moved = scores(training, np.array([[0.0, 0.001], [0.0, 0.1]]))
    assert noisy < 1 < moved
