"""How far a policy goes beyond the goals it was trained for: every set of one to seven of the kitchen's elements.

    python benchmarks/policy/sets.py models/kitchen --output docs/data/sets.json
    python benchmarks/policy/sets.py --from docs/data/sets.json

Each row is `rpl evaluate` on the sets of a kind, with 70 control steps for each element, which is the protocol's time
for four. Sets of four are those of the paper, those that people played besides, and those that nobody did. Success is
that all elements of the set were done at some step, and at the last one; intervals are 95 % bootstrap over sets.
Finished episodes are kept in the folder --journals, so that a run that was cut short goes on there. The second command
runs nothing: it prints what the first has kept.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate, plan_tasks
from rpl_runtime.provenance import command, commit
from rpl_runtime.server.subprocess import serve_in_process

STEPS = 70  # [control steps] for each element
KINDS = {  # what `rpl evaluate` calls the sets -> how many elements, and for people
    "sets1": (1, "one"),
    "sets2": (2, "two"),
    "sets3": (3, "three"),
    "paper": (4, "four, the paper's"),
    "human": (4, "four, others that people played"),
    "unseen": (4, "four that nobody did"),
    "sets5": (5, "five"),
    "sets6": (6, "six"),
    "sets7": (7, "all seven"),
}


def main(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle whose policy plays.")] = None,
    saved: Annotated[Path | None, typer.Option("--from", help="Run nothing: print this file again.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each set from each start.")] = 4,
    jobs: Annotated[int | None, typer.Option(help="Simulators side by side, by default one a core.")] = None,
    journals: Annotated[Path, typer.Option(help="Folder for finished episodes.")] = Path("runs/sets"),
    output: Annotated[Path | None, typer.Option(help="Write the JSON here.")] = None,
) -> None:
    """Print success on the sets of each kind as a table in Markdown."""
    if (bundle is None) == (saved is None):
        raise typer.BadParameter("give a BUNDLE, or a file --from which to print")
    if bundle is not None:
        content = measure(bundle, episodes, jobs or os.cpu_count() or 1, journals)
    else:
        assert saved is not None
        content = json.loads(saved.read_text())
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content, indent=1) + "\n")
    typer.echo(table(content))


def measure(bundle: Path, episodes: int, jobs: int, journals: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    with serve_in_process(bundle) as address, Progress(console=Console(stderr=True), transient=True) as progress:
        for kind, (elements, name) in KINDS.items():
            config = EvaluateConfig((kind,), episodes, steps=STEPS * elements, jobs=jobs)
            bar = progress.add_task(name, total=len(plan_tasks(config)))
            journal = journals / f"{kind}.jsonl"
            found = evaluate(address, config, journal, lambda _, bar=bar: progress.advance(bar)).content
            rows.append(row(kind, found))
            progress.remove_task(bar)
    return {
        "rows": rows,
        "steps": STEPS,
        "episodes": episodes,
        "bundle_digest": found["bundle_digest"],
        "command": command(),
        "commit": commit(),
        "versions": found["versions"],
    }


def row(kind: str, evaluation: dict[str, Any]) -> dict[str, Any]:
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


def table(content: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| elements | sets | start | episodes | success ever | success end | elements done | worst set |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for each in content["rows"]:
        for start, results in each["starts"].items():
            low, high = results["interval"]
            worst = min(results["goals"], key=results["goals"].__getitem__)
            cells = (
                KINDS[each["kind"]][1],
                str(each["sets"]),
                start,
                str(results["episodes"]),
                f"{results['success']:.1%} ({low:.0%}–{high:.0%})",
                f"{results['success_end']:.1%}",
                f"{results['elements_done']:.2f}",
                f"`{worst}` {results['goals'][worst]:.0%}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
