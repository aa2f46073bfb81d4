"""What demonstrations hold, and what play came to, as numbers and as tables.

In: demonstrations, or a folder of play. Out: a `Summary`, facts and tables. It does not know what they
will be used for.
"""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from rpl_runtime.tasks.kitchen.elements import ELEMENTS, EPISODE_STEPS, PERIOD
from rpl_train.data.sources import Demonstrations

if TYPE_CHECKING:  # playing needs the simulator, counting does not
    from rpl_train.tasks.kitchen.play import PlayResult


class Summary(NamedTuple):
    sources: list[dict[str, Any]]
    episodes: int
    steps: int
    length: dict[str, float]  # [steps] shortest, median and longest episode
    complete: int  # episodes that end with every element they name done
    done_at_end: dict[str, int]  # element -> episodes that end with it done
    sequences: dict[str, int]  # elements in the order they were worked on -> episodes


def summarise(demonstrations: Demonstrations) -> Summary:
    """Count what demonstrations hold."""
    trajectories = demonstrations.trajectories
    lengths = [len(trajectory) for trajectory in trajectories]
    ends = [{name for name, element in ELEMENTS.items() if element.is_done(t.states[-1])} for t in trajectories]
    sequences = Counter(", ".join(trajectory.elements) for trajectory in trajectories)
    return Summary(
        sources=demonstrations.sources,
        episodes=len(trajectories),
        steps=sum(lengths),
        length={"min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)},
        complete=sum(set(t.elements) <= end for t, end in zip(trajectories, ends, strict=True)),
        done_at_end={name: sum(name in end for end in ends) for name in ELEMENTS},
        sequences=dict(sequences.most_common()),
    )


def print_summary(summary: Summary) -> None:
    """Print a summary as tables."""
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
        f"{summary.episodes} episodes, {summary.steps} steps ({summary.steps * PERIOD / 60:.1f} min); "
        f"{length['min']:.0f} to {length['max']:.0f} steps each, median {length['median']:.0f}; "
        f"{summary.complete} end with all their elements done\n"
    )
    done = Table("element", "done at the end", title="Elements", title_justify="left")
    for name, count in summary.done_at_end.items():
        done.add_row(name, str(count))
    console.print(done)
    sequences = Table("sequence", "episodes", title="Sequences", title_justify="left")
    for sequence, count in summary.sequences.items():
        sequences.add_row(sequence, str(count))
    console.print(sequences)


def play_facts(result: "PlayResult") -> dict[str, Any]:
    """What scripted play came to, ready for JSON."""
    steps = [sequence.steps for sequence in result.sequences]
    return {
        "folder": str(result.folder),
        "sequences": len(result.sequences),
        "complete": result.completed,  # share with every element done in the last state
        "steps": {name: float(np.percentile(steps, q)) for name, q in (("p50", 50), ("p90", 90), ("max", 100))},
        "within_an_episode": float(np.mean([count <= EPISODE_STEPS for count in steps])),
        "elements": [asdict(row) for row in result.by_element()],
    }


def print_play(result: "PlayResult") -> None:
    """The same as a table."""
    facts, console = play_facts(result), Console()
    table = Table(
        "element", "tried", "done at the end", "", "median steps", title="Scripted play", title_justify="left"
    )
    for row in result.by_element():
        median = "–" if row.steps is None else f"{row.steps:.0f}"
        table.add_row(row.name, str(row.tried), str(row.done), f"{row.done / max(1, row.tried):.1%}", median)
    console.print(table)
    steps = facts["steps"]
    console.print(
        f"{facts['sequences']} sequences in {facts['folder']}, {result.played} of them played now; "
        f"{facts['complete']:.1%} end with every element done; median {steps['p50']:.0f} steps, "
        f"90 % within {steps['p90']:.0f}, {facts['within_an_episode']:.1%} within {EPISODE_STEPS}"
    )
