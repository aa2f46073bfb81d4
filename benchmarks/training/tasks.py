"""The tasks of examples/, from nothing to an evaluated bundle: success, and the time that it takes.

    python -m benchmarks.training.tasks --output docs/data/tasks.json
    python -m benchmarks.training.tasks --from docs/data/tasks.json

A row is a task and a method with the same demonstrations: `relay` imitates both levels, `flat` clones one level on
goals reached later (goal-conditioned cloning), and `fine-tuned` goes on from `relay` by reinforcement at both levels.
Success is by `rpl evaluate` on episodes of seeds that no training uses; intervals are 95 % Wilson intervals. Finished
rows are kept in the output, and interrupted ones go on in --runs.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common import Saved, circumstances, markdown
from rpl_runtime.client import Access
from rpl_runtime.console import progress
from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate
from rpl_runtime.evaluation.protocol_results import wilson
from rpl_runtime.files import JsonDict, write_json
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.task import Task
from rpl_train.cli.settings import Settings, settings_of
from rpl_train.data.recordings import load_demonstrations
from rpl_train.export.export import export
from rpl_train.play import play
from rpl_train.recipe import RecipeConfig, train
from rpl_train.rl.finetune import finetune, read_curve
from rpl_train.runs import load_run
from rpl_train.tasks import load_task

TASKS = {"PointMaze_Large-v3": "examples.point_maze:make", "FetchPickAndPlace-v4": "examples.fetch_pick_and_place:make"}
FLAT = ("imitate.networks.flat=true", "imitate.pool.relabelling=goal")
ROWS = [(task, method) for task in TASKS for method in ("relay", "flat")] + [("PointMaze_Large-v3", "fine-tuned")]
PACKAGES = ("torch", "numpy", "mujoco", "gymnasium-robotics")


def main(
    output: Annotated[Path | None, typer.Option(help="Write the JSON here; finished rows in it are kept.")] = None,
    saved: Saved = None,
    chosen: Annotated[
        list[str] | None, typer.Option("--row", metavar="ROW", help="TASK METHOD; by default every row. Repeatable.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, max=1000, help="Episodes of each row.")] = 200,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/tasks"),
) -> None:
    """Print each row's success and time."""
    if saved is not None:
        content = json.loads(saved.read_text())
    else:
        content = json.loads(output.read_text()) if output and output.exists() else {"rows": {}}
        for task, method in ROWS:
            if not chosen or f"{task} {method}" in chosen:
                found = circumstances(PACKAGES)
                row = measure(task, method, episodes, runs) | {"commit": found["commit"], "machine": found["machine"]}
                content["rows"][f"{task} {method}"] = row
                content |= {"command": found["command"], "versions": found["versions"]}
                if output is not None:
                    write_json(output, content)
    typer.echo(table(content))


def measure(name: str, method: str, episodes: int, runs: Path) -> JsonDict:
    """Train and evaluate one row."""
    task, folder = load_task(TASKS[name]), runs / name.split("-")[0]
    settings = settings_of(task, texts=FLAT if method == "flat" else ())
    begin = time.monotonic()
    run, bundle = folder / method, folder / f"{method}-bundle"
    if method == "fine-tuned":
        _fine_tune(task, settings, folder, run, bundle)
    else:
        played = play(task, replace(settings.play, jobs=2), folder / "play")
        config = RecipeConfig(
            task=task,
            run=run,
            bundle=bundle,
            name=task.name,
            demonstrations=(played.folder,),
            imitate=settings.imitate,
            parity=settings.parity,
        )
        with progress(stays=True) as report:
            train(config, report)
    trained = time.monotonic()
    with serve_in_process(bundle) as address:
        found = evaluate(address, task, EvaluateConfig(episodes=episodes), access=Access())
    [results] = found.content["starts"].values()
    done = sum(bool(episode.first_done) for episode in found.episodes)
    at_end = sum(bool(episode.done_at_end) for episode in found.episodes)
    row: JsonDict = {
        "episodes": episodes,
        "ever": [done / episodes, *wilson(done, episodes)],
        "end": [at_end / episodes, *wilson(at_end, episodes)],
        "control_steps": found.content["protocol"]["steps"],
        "refused": results["refused"],
        "train_s": round(trained - begin),
        "evaluate_s": round(time.monotonic() - trained),
        "digest": found.content["bundle_digest"],
    }
    if method == "fine-tuned":
        row["curve"] = [{"env_steps": point.env_steps, "success": point.success} for point in read_curve(run)]
    return row


def _fine_tune(task: Task, settings: Settings, folder: Path, run: Path, bundle: Path) -> None:
    tuning = replace(settings.finetune, levels=("high", "low"), threads=2)
    demonstrations = load_demonstrations([folder / "play"], task)
    iterations = tuning.iterations(task)
    with progress(stays=True) as report:
        tuned = finetune(
            *(task, load_run(folder / "relay"), demonstrations, run, tuning),
            lambda point: report("iterations", point.iteration, iterations, f"{point.success:.0%} success"),
        )
    policy, record = tuned.trained
    export(policy, record.spec, record.provenance, bundle, record.statistics, settings.parity, task)


def table(content: JsonDict) -> str:
    """The rows as a table in Markdown."""
    rows = []
    for name, row in content["rows"].items():
        shares = ["{:.1%} ({:.0%} to {:.0%})".format(*row[when]) for when in ("ever", "end")]
        rows.append((*name.split(" ", 1), *shares, f"{row['train_s']} s", f"{row['evaluate_s']} s"))
    return markdown(("task", "method", "goal reached", "at the end", "training", "evaluation"), rows)


if __name__ == "__main__":
    typer.run(main)
