"""Counts of what demonstrations hold, as numbers and as tables."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from rich.table import Table

from rpl_runtime.console import Console, count
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.spec import PolicySpec
from rpl_train.data.sources import Demonstrations


class Summary(NamedTuple):
    sources: list[JsonDict]
    episodes: int
    steps: int
    length: dict[str, float]  # [steps] shortest, median and longest episode
    complete: int  # episodes that end with every element they name done
    done_at_end: dict[str, int]  # element -> episodes that end with it done
    sequences: dict[str, int]  # elements in the order they were worked on -> episodes


def summarise(demonstrations: Demonstrations, spec: PolicySpec) -> Summary:
    """Count what demonstrations of the spec's states hold."""
    trajectories = demonstrations.trajectories
    lengths = [len(trajectory) for trajectory in trajectories]
    ends = [spec.done(trajectory.states[-1]) for trajectory in trajectories]
    sequences = Counter(", ".join(trajectory.elements) for trajectory in trajectories)
    return Summary(
        sources=demonstrations.sources,
        episodes=len(trajectories),
        steps=sum(lengths),
        length={"min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)},
        complete=sum(set(t.elements) <= end for t, end in zip(trajectories, ends, strict=True)),
        done_at_end={name: sum(name in end for end in ends) for name in spec.elements},
        sequences=dict(sequences.most_common()),
    )


def print_summary(summary: Summary, period: float) -> None:
    """Print a summary as tables; a step takes `period` [s]."""
    console = Console()
    sources = Table("source", "episodes", "steps", "digest", "licence", title="Demonstrations", title_justify="left")
    for source in summary.sources:
        counts = str(source["episodes"]), str(source["steps"])
        sources.add_row(source["name"], *counts, source["digest"][:12], source["licence"])
    console.print(sources)
    for sentence in (sentence for source in summary.sources for sentence in source.get("left_out", ())):
        console.print(f"left out: {sentence}", markup=False)
    length = summary.length
    console.print(
        f"{count(summary.episodes, 'episode')}, {count(summary.steps, 'control step')} "
        f"({summary.steps * period / 60:.1f} min); {length['min']:.0f} to {length['max']:.0f} steps each, "
        f"median {length['median']:.0f}; {summary.complete} end with all their elements done\n"
    )
    for title, heading, counted in (
        ("Elements", ("element", "done at the end"), summary.done_at_end),
        ("Sequences", ("sequence", "episodes"), summary.sequences),
    ):
        table = Table(*heading, title=title, title_justify="left")
        for name, number in counted.items():
            table.add_row(name, str(number))
        console.print(table)
