"""Success beyond the goals of training: every set of one to seven of the kitchen's elements.

    python -m benchmarks.policy.sets models/relay --output docs/data/sets.json
    python -m benchmarks.policy.sets --from docs/data/sets.json

Each row is `rpl evaluate` on the sets of a kind, with 70 control steps for each element, as in the protocol for four.
Sets of four are those of the paper, the others in human play, and those in no demonstrations. Success means that all
elements of the set were done, at any control step ("ever") or at the last ("end"); intervals are 95 % bootstrap over
sets. Finished episodes are kept in the folder --journals, from which an interrupted run continues. The second command
runs nothing: it prints the results of the first.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from benchmarks.common import PROGRESS, Given, Output, Saved, circumstances, markdown, obtained
from rpl_runtime.client import Access
from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate, plan_trials
from rpl_runtime.files import JsonDict
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.server.subprocess import serve_in_process

STEPS = 70  # [control steps] for each element
KINDS = {  # name in `rpl evaluate` -> number of elements, and title
    "sets1": (1, "one"),
    "sets2": (2, "two"),
    "sets3": (3, "three"),
    "paper": (4, "four, the paper's"),
    "human": (4, "four, others in human play"),
    "unseen": (4, "four, in no demonstrations"),
    "sets5": (5, "five"),
    "sets6": (6, "six"),
    "sets7": (7, "all seven"),
}


def main(
    bundle: Given = None,
    saved: Saved = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each set from each start.")] = 4,
    jobs: Annotated[int | None, typer.Option(help="Simulators in parallel; default: one per core.")] = None,
    journals: Annotated[Path, typer.Option(help="Folder for finished episodes.")] = Path("runs/sets"),
    output: Output = None,
) -> None:
    """Print success on the sets of each kind as a table in Markdown."""
    cores = jobs or os.cpu_count() or 1
    typer.echo(table(obtained(bundle, saved, lambda path: measure(path, episodes, cores, journals), output)))


def measure(bundle: Path, episodes: int, jobs: int, journals: Path) -> JsonDict:
    rows: list[JsonDict] = []
    found: JsonDict = {}
    with serve_in_process(bundle) as address, Progress(console=PROGRESS, transient=True) as progress:
        for kind, (elements, name) in KINDS.items():
            config = EvaluateConfig((kind,), episodes, steps=STEPS * elements, jobs=jobs)
            bar = progress.add_task(name, total=len(plan_trials(KITCHEN, config)))
            journal = journals / f"{kind}.jsonl"
            found = evaluate(
                address, KITCHEN, config, journal, lambda _, bar=bar: progress.advance(bar), Access()
            ).content
            rows.append(row(kind, found))
            progress.remove_task(bar)
    return {
        "rows": rows,
        "steps": STEPS,
        "episodes": episodes,
        "bundle_digest": found["bundle_digest"],
        **circumstances(()),
        "versions": found["versions"],
    }


def row(kind: str, evaluation: JsonDict) -> JsonDict:
    starts = evaluation["starts"]
    return {
        "kind": kind,
        "sets": len(evaluation["protocol"]["goals"]),
        "starts": {
            start: {
                "episodes": results["episodes"],
                "success": results["success_ever"],
                "interval": results["intervals"]["success_ever"],
                "success_end": results["success_end"],
                "elements_done": results["mean_steps_ever"],
                "goals": {goal: each["success_ever"] for goal, each in results["goals"].items()},
            }
            for start, results in starts.items()
        },
    }


def table(content: JsonDict) -> str:
    """The rows in Markdown."""
    rows = []
    for each in content["rows"]:
        for start, results in each["starts"].items():
            low, high = results["interval"]
            worst = min(results["goals"], key=results["goals"].__getitem__)
            rows.append(
                (
                    KINDS[each["kind"]][1],
                    each["sets"],
                    start,
                    results["episodes"],
                    f"{results['success']:.1%} ({low:.0%}–{high:.0%})",
                    f"{results['success_end']:.1%}",
                    f"{results['elements_done']:.2f}",
                    f"`{worst}` {results['goals'][worst]:.0%}",
                )
            )
    headings = ("elements", "sets", "start", "episodes", "success ever", "success end", "elements done", "worst set")
    return markdown(headings, rows)


if __name__ == "__main__":
    typer.run(main)
