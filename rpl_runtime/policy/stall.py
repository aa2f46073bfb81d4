"""When a policy asks for help: it has made no progress toward its goal for longer than where it reaches it.

Progress is a new least distance from the goal. A step without progress counts as much as its state is novel
(novelty.py), or 1 where states are not scored, since a policy that stands still far from its training data will hardly
go on by itself. Above a limit that the bundle states, the policy asks for help; progress ends that.

The distance is what is left of the goal's elements, each in units of its tolerance; of a goal without elements, its
distance in standard deviations of the training data, in units of the distance at which it counts as reached.

It sees what the policy sees. Where observations are late or wrong it notices only what they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rpl_runtime.policy.manifest import Stall, Statistics
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal

_FLOOR = 0.01  # [rad, m] lower bound of a standard deviation
_MARGIN = 0.02  # progress, as a share of what was left at first


@dataclass
class Clock:
    """The steps without progress of one run toward one goal."""

    goal: ResolvedGoal
    first: float  # what was left when the clock started
    best: float  # the least that was left since
    count: float = 0.0  # of steps since then, each as much as its state is novel


class Watched(Protocol):
    """A run, and its clock; None starts another."""

    goal: ResolvedGoal
    clock: Clock | None


class StallDetector:
    """Says which runs ask for help, by a bundle's spec, statistics and limit."""

    def __init__(self, spec: PolicySpec, statistics: Statistics | None, stall: Stall) -> None:
        self._limit = stall.limit
        self._weights = np.zeros((spec.state.dim, max(1, len(spec.elements))))  # of squares, by element
        for number, element in enumerate(spec.elements.values()):
            self._weights[list(element.dims), number] = element.tolerance**-2
        if not spec.elements:
            assert statistics is not None  # the manifest checks it
            dims = list(spec.goal_dims)
            self._weights[dims, 0] = (np.maximum(statistics.std, _FLOOR)[dims] * (stall.tolerance or 1.0)) ** -2

    def left(self, goals: np.ndarray, masks: np.ndarray, states: np.ndarray) -> np.ndarray:
        """How much of the goals is left (B,), 0 where they are reached; goals, masks and states are (B, n)."""
        squares = ((goals - states) * masks) ** 2 @ self._weights
        return np.maximum(np.sqrt(squares) - 1, 0).sum(1)

    def asks(self, runs: Sequence[Watched], states: np.ndarray, scores: Sequence[float | None]) -> list[bool]:
        """Whether each run asks for help after a step in these states (B, n), with their novelty; moves the clocks."""
        goals, masks = (np.array(vectors) for vectors in zip(*(run.goal for run in runs), strict=True))
        asking = []
        for run, left, score in zip(runs, self.left(goals, masks, states).tolist(), scores, strict=True):
            clock = run.clock
            if clock is None or clock.goal is not run.goal:
                clock = run.clock = Clock(run.goal, left, left)
            elif left == 0 or left < clock.best - _MARGIN * clock.first:
                clock.best, clock.count = min(left, clock.best), 0.0
            else:
                clock.count += 1.0 if score is None else score
            asking.append(self.asking(run))
        return asking

    def asking(self, run: Watched) -> bool:
        """Whether a run asked for help at its last step."""
        return run.clock is not None and run.clock.count > self._limit
