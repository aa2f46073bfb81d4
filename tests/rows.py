"""Rows of the paper's table, made up, so that no test needs hours of training."""

import zlib
from typing import Any

import numpy as np

from rpl_runtime.evaluation.results import Episode, summarize
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal
from rpl_train.paper.methods import METHODS, Method
from rpl_train.paper.reproduce import RowResult, TrialResult
from rpl_train.rl.finetune import Point

EPISODES, ITERATIONS = 4, 6


def episode(start: str, goal: str, seed: int, count: int) -> Episode:
    """One in which the first `count` elements are done and stay so."""
    elements = compound_goal(goal)
    return Episode(
        start=start,
        goal=goal,
        elements=elements,
        seed=seed,
        steps=280,
        refused=None,
        first_done=dict.fromkeys(elements[:count], 10),
        done_at_end=elements[:count],
        final_distance=dict.fromkeys(elements, 0.0),
    )


def evaluation(counts: dict[str, list[int]]) -> dict[str, Any]:
    """What evaluation.json holds of goals whose episodes do so many elements, the same from either start."""
    starts = {
        start: summarize(
            [episode(start, goal, seed, n) for goal, ns in counts.items() for seed, n in enumerate(ns)], KITCHEN
        )
        for start in ("nominal", "perturbed")
    }
    return {
        "protocol": {"policy": "made up", "episodes": EPISODES, "goals": list(counts)},
        "starts": starts,
        "command": "rpl evaluate made/up",
        "commit": "0123456789abcdef",
        "versions": {"python": "3"},
    }


def curve(share: float) -> tuple[Point, ...]:
    """One that rises to this share of successes."""
    rising = np.linspace(0.2 * share, share, ITERATIONS)
    return tuple(
        Point(index + 1, 20_000 * (index + 1), 4 * value, value, value, {"low": value}, {"low": 0.01})
        for index, value in enumerate(rising.tolist())
    )


def counts(goals: tuple[str, ...], share: float, seed: int) -> dict[str, list[int]]:
    rng = np.random.default_rng([zlib.crc32(repr(goals).encode()), seed])
    return {goal: rng.binomial(4, share, EPISODES).tolist() for goal in goals}


def row(method: Method, share: float = 0.8) -> RowResult:
    """A row that did about this share of what was asked for."""
    if not method.tunes:
        return RowResult(method, 0, (TrialResult(method.goals, 0, (), evaluation(counts(method.goals, share, 0))),))
    trials = [
        TrialResult(
            (goal,), seed, curve(min(1.0, share + 0.05 * index % 0.2)), evaluation(counts((goal,), share, seed))
        )
        for seed in method.seeds
        for index, goal in enumerate(method.goals)
    ]
    return RowResult(method, 120_000, tuple(trials))


def every_row() -> list[RowResult]:
    """All rows, each with a share of its own."""
    shares = np.linspace(0.98, 0.3, len(METHODS)).tolist()
    return [row(method, share) for method, share in zip(METHODS.values(), shares, strict=True)]


def distilled() -> dict[str, Any]:
    """The evaluation of a distilled bundle."""
    return evaluation(counts(PAPER_GOALS, 0.9, 5))
