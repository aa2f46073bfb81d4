"""Relay data relabelling: Algorithms 2 and 3 of Relay Policy Learning (Gupta et al., CoRL 2019).

Any state that a demonstration reaches within the window after step t is a goal that its behaviour at t leads to.
Windows stop at the end of the demonstration. Tuples are indices into the steps of all demonstrations, laid end to end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LowTuples(NamedTuple):
    """Algorithm 2: (s_t, goal s_{t+w}, a_t) for w = 1..W_l."""

    step: np.ndarray  # (N,) int64, the t of both state and action
    goal: np.ndarray  # (N,) int64


class HighTuples(NamedTuple):
    """Algorithm 3: (s_t, goal s_{t+w}, subgoal s_{t+min(w, W_l)}) for w = 1..W_h."""

    step: np.ndarray  # (N,) int64
    goal: np.ndarray  # (N,) int64
    subgoal: np.ndarray  # (N,) int64


def relabel_low(lengths: Sequence[int], window: int) -> LowTuples:
    """Every low-level tuple of demonstrations with `lengths` steps, for W_l = `window` [steps]."""
    step, goal = _pairs(lengths, window)
    return LowTuples(step, goal)


def relabel_high(lengths: Sequence[int], low_window: int, high_window: int) -> HighTuples:
    """The same for the high level; W_l = `low_window` and W_h = `high_window` [steps]."""
    step, goal = _pairs(lengths, high_window)
    return HighTuples(step, goal, np.minimum(goal, step + low_window))


def _pairs(lengths: Sequence[int], window: int) -> tuple[np.ndarray, np.ndarray]:
    """All (t, t + w) with 1 <= w <= window inside one demonstration, as indices into all of them end to end."""
    first, steps, goals = 0, [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for length in lengths:
        t = np.repeat(np.arange(length), window)
        w = np.tile(np.arange(1, window + 1), length)
        inside = t + w < length
        steps.append(first + t[inside])
        goals.append(first + (t + w)[inside])
        first += length
    return np.concatenate(steps), np.concatenate(goals)
