"""Relay data relabelling: Algorithms 2 and 3 of Relay Policy Learning (Gupta et al., CoRL 2019).

What a demonstrator does at step t leads to every state that the demonstration reaches soon after: within a window of
W_l steps for the low level, and of W_h steps for the high level. Each such state is a goal to learn from. The subgoal
on the way to it is the state W_l steps ahead, or the goal itself if that is nearer. Windows stop at the end of the
demonstration.

A tuple holds indices of steps, where all demonstrations are laid end to end. Tuples are numbered, and each is computed
from its number when it is drawn: there are about as many as steps times the window's length, too many to keep.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class LowTuple(NamedTuple):
    """Algorithm 2: (s_t, goal s_{t+w}, a_t) for w = 1..W_l."""

    step: np.ndarray  # (B,) int64, the t of both state and action
    goal: np.ndarray  # (B,) int64


class HighTuple(NamedTuple):
    """Algorithm 3: (s_t, goal s_{t+w}, subgoal s_{t+min(w, W_l)}) for w = 1..W_h."""

    step: np.ndarray  # (B,) int64
    goal: np.ndarray  # (B,) int64
    subgoal: np.ndarray  # (B,) int64


class LowTuples(Protocol):
    """Numbered tuples of the low level."""

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: np.ndarray) -> LowTuple:
        """The tuples with these numbers (B,)."""
        ...

    def span(self, first: int, end: int) -> tuple[int, int]:
        """The first number of the tuples of the steps from `first` on, and of those from `end` on."""
        ...


class Window:
    """All pairs (t, t + w) with 1 <= w <= `window` inside one demonstration, for demonstrations with `lengths` steps.

    No pair begins in the last `without` steps of its demonstration; by default pairs begin at every step.
    """

    def __init__(self, lengths: Sequence[int], window: int, without: Sequence[int] | np.ndarray | None = None) -> None:
        left = [np.minimum(np.arange(length - 1, -1, -1), window) for length in lengths]  # pairs of each step
        for pairs, end in zip(left, [0] * len(left) if without is None else without, strict=True):
            pairs[len(pairs) - min(end, len(pairs)) :] = 0
        self._before = np.append(0, np.cumsum(np.concatenate([np.empty(0, np.int64), *left])))  # (N + 1,)

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, numbers: np.ndarray) -> LowTuple:
        """The pairs with these numbers (B,), in the order of t and then of w."""
        step = np.searchsorted(self._before, numbers, side="right") - 1
        return LowTuple(step, step + 1 + numbers - self._before[step])

    def span(self, first: int, end: int) -> tuple[int, int]:
        """As `LowTuples`."""
        return int(self._before[first]), int(self._before[end])


class Ends:
    """One tuple for each of N steps, whose goal is the step in `ends` (N,)."""

    def __init__(self, ends: np.ndarray) -> None:
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, numbers: np.ndarray) -> LowTuple:
        """The tuples of these steps (B,)."""
        return LowTuple(numbers, self._ends[numbers])

    def span(self, first: int, end: int) -> tuple[int, int]:
        """As `LowTuples`."""
        return first, end


class HighTuples:
    """A tuple for each pair (t, goal): its subgoal is `ahead[t]` of `ahead` (N,), or the goal if that comes first."""

    def __init__(self, pairs: Window, ahead: np.ndarray) -> None:
        self._pairs, self._ahead = pairs, ahead

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, numbers: np.ndarray) -> HighTuple:
        """The tuples with these numbers (B,)."""
        step, goal = self._pairs[numbers]
        return HighTuple(step, goal, np.minimum(goal, self._ahead[step]))

    def span(self, first: int, end: int) -> tuple[int, int]:
        """As `LowTuples`."""
        return self._pairs.span(first, end)
