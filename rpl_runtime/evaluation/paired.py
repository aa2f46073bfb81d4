"""Two policies on the same episodes: which one is better.

An episode of one policy and the episode of the other with the same start, goal and seed are a pair. Only pairs in which
one succeeds and the other does not tell them apart. The 95 % interval of the difference of success is that of Agresti
and Min (Statistics in Medicine 24, 2005): Wald's for matched pairs with half a pair added to each of the four outcomes.
"""

from collections.abc import Sequence
from itertools import count
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from rpl_runtime.client import Access
from rpl_runtime.console import Console, Report, say
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.evaluate import EvaluateConfig, Evaluation, evaluate, plan_trials
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.files import JsonDict
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.task import Task

_NORMAL = 1.959964  # 97.5 % quantile of the normal distribution


class Paired(NamedTuple):
    """Two bundles on the same episodes."""

    comparison: JsonDict
    new: JsonDict  # the evaluation of the new one


def play_both(old: Path, new: Path, task: Task, config: EvaluateConfig, work: Path, report: Report) -> Paired:
    """Let two bundles play the same episodes, and compare them.

    Args:
        work: a folder in which each keeps its finished episodes, so that they are not played again.
        report: is told what is played, how many episodes of it are done, and of how many.
    """
    total = len(plan_trials(task, config))

    def played(name: str, bundle: Path) -> Evaluation:
        done = count(1)
        with serve_in_process(bundle) as address:
            return evaluate(
                *(address, task, config, work / f"{name}.jsonl"),
                lambda episode: report(f"{name} policy's episodes", next(done), total),
                Access(),
            )

    before, after = played("old", old), played("new", new)
    return Paired(compare(before.episodes, after.episodes), after.content)


def compare(old: Sequence[Episode], new: Sequence[Episode]) -> JsonDict:
    """Success (all elements of the goal ever done) of both policies by start, their difference and a verdict.

    Raises:
        InvalidInput: the episodes are not the same ones.
    """
    before, after = ({(each.start, each.goal, each.seed): each for each in episodes} for episodes in (old, new))
    if not before or before.keys() != after.keys():
        raise InvalidInput(f"{len(before)} and {len(after)} episodes are not pairs; must have the same goals and seeds")
    starts = dict.fromkeys(start for start, _, _ in before)
    return {start: _compared([(before[at], after[at]) for at in before if at[0] == start]) for start in starts}


def verdict(start: JsonDict) -> str:
    """The outcome of a start as one sentence."""
    low, high = start["interval"]
    found = "better" if low > 0 else "worse" if high < 0 else "not told apart from the old one"
    return f"the new policy is {found} ({100 * start['difference']:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f})"


def print_comparison(comparison: JsonDict) -> None:
    """Print a comparison as a table, a row for each start, and below it the outcome of each."""
    table = Table(
        *("start", "pairs", "old", "new", "only old", "only new"),
        caption="old, new: episodes with all elements ever done; only: those of one policy alone; 95 % intervals",
    )
    for name, found in comparison.items():
        shares = (f"{found[key]:.1%}" for key in ("old", "new"))
        table.add_row(name, str(found["pairs"]), *shares, str(found["lost"]), str(found["gained"]))
    Console().print(table)
    for name, found in comparison.items():
        say(f"{name}: {verdict(found)}")


def _compared(pairs: Sequence[tuple[Episode, Episode]]) -> JsonDict:
    sides = dict(zip(("old", "new"), zip(*pairs, strict=True), strict=True))
    was, now = (np.array([len(e.first_done) == len(e.elements) for e in side]) for side in sides.values())
    gained, lost, size = int((now & ~was).sum()), int((was & ~now).sum()), len(pairs) + 2
    middle = (gained - lost) / size
    reach = _NORMAL * sqrt(gained + lost + 1 - (gained - lost) ** 2 / size) / size
    return {
        "pairs": len(pairs),
        "old": float(was.mean()),
        "new": float(now.mean()),
        "difference": float(now.mean() - was.mean()),
        "interval": [max(-1.0, middle - reach), min(1.0, middle + reach)],
        "gained": gained,
        "lost": lost,
        # The mean number ever done.
        "elements": {side: float(np.mean([len(e.first_done) for e in episodes])) for side, episodes in sides.items()},
    }
