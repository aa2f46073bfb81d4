"""Relabelling against a brute-force reading of the paper's Algorithms 2 and 3."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rpl_train.relabel import HighTuple, HighTuples, LowTuple, Window

lengths = st.lists(st.integers(1, 12), min_size=0, max_size=5)
windows = st.integers(1, 15)


def relabel_low(lengths, window) -> LowTuple:
    """Every tuple of the low level."""
    pairs = Window(lengths, window)
    return pairs[np.arange(len(pairs))]


def relabel_high(lengths, low_window, high_window) -> HighTuple:
    """Every tuple of the high level, whose subgoals are `low_window` steps ahead."""
    tuples = HighTuples(Window(lengths, high_window), np.arange(sum(lengths)) + low_window)
    return tuples[np.arange(len(tuples))]


def brute_low(lengths, window):
    """Algorithm 2, read literally: for t, for w = 1..W_l, add (s_t, s_{t+w}, a_t)."""
    tuples, first = set(), 0
    for length in lengths:
        for t in range(length):
            for w in range(1, window + 1):
                if t + w <= length - 1:
                    tuples.add((first + t, first + t + w))
        first += length
    return tuples


def brute_high(lengths, low_window, high_window):
    """Algorithm 3, read literally: for t, for w = 1..W_h, add (s_t, s_{t+w}, s_{t+min(w, W_l)})."""
    tuples, first = set(), 0
    for length in lengths:
        for t in range(length):
            for w in range(1, high_window + 1):
                if t + w <= length - 1:
                    tuples.add((first + t, first + t + w, first + t + min(w, low_window)))
        first += length
    return tuples


@given(lengths, windows)
def test_low_tuples_are_those_of_algorithm_2(lengths, window):
    step, goal = relabel_low(lengths, window)
    assert len(step) == len(goal) == len(brute_low(lengths, window))  # each once
    assert set(zip(step.tolist(), goal.tolist(), strict=True)) == brute_low(lengths, window)


@given(lengths, windows, windows)
def test_high_tuples_are_those_of_algorithm_3(lengths, low_window, high_window):
    found = relabel_high(lengths, low_window, high_window)
    expected = brute_high(lengths, low_window, high_window)
    assert len(found.step) == len(expected)
    assert set(zip(*(column.tolist() for column in found), strict=True)) == expected


@given(lengths.filter(lambda ls: sum(ls) > 0), windows)
def test_no_tuple_crosses_from_one_demonstration_into_another(lengths, window):
    episode = np.repeat(np.arange(len(lengths)), lengths)
    high = relabel_high(lengths, window, 2 * window)
    assert (episode[high.step] == episode[high.goal]).all()
    assert (episode[high.step] == episode[high.subgoal]).all()
    assert (high.step < high.subgoal).all()
    assert (high.subgoal <= high.goal).all()
