"""The training commands for many goals: fine-tune, distil, save specialists, reproduce the paper's table.

As in cli/app.py, they import what they need when they run.
"""

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.cli.options import ExecutorName, Json, grouped, show, to_write
from rpl_runtime.errors import InvalidInput, require
from rpl_train.cli.options import Device, NewRun, Recordings, Seed, SettingsOptions

if TYPE_CHECKING:
    from rpl_train.paper.reproduce import PaperConfig
    from rpl_train.rl.finetune import Point
    from rpl_train.runs import TrainedRun

Specialists = Annotated[
    list[str],
    typer.Option("--specialist", metavar="GOAL=RUN", help="A fine-tuned run. Repeat for each goal."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to `rpl`."""
    app.command("finetune")(finetune_command)
    app.command("distill")(distill_command)
    app.command("pack")(pack_command)
    app.command("unpack")(unpack_command)
    app.command("methods")(methods_command)
    app.command("paper")(paper_command)


class Variant(StrEnum):
    NPG = "npg"
    DAPG = "dapg"
    IRIL = "iril"


class Tuned(StrEnum):
    LOW = "low"
    HIGH = "high"
    BOTH = "both"


class RewardKind(StrEnum):
    SPARSE_OBJECTS = "sparse-objects"
    SPARSE = "sparse"
    EUCLIDEAN = "euclidean"
    ELEMENTS = "elements"
    COMPLETION = "completion"


@grouped
def finetune_command(
    base: Annotated[Path, typer.Argument(help="The run to start from, written by `rpl imitate`.")],
    run: NewRun,
    *,
    goal: Annotated[str, typer.Option(help="A goal of the task such as mkbs, or element names with commas.")],
    objective: Annotated[
        Variant | None,
        typer.Option(help="npg: rewards only. dapg: plus demonstrations. iril: plus its own relabelled episodes."),
    ] = None,
    levels: Annotated[Tuned | None, typer.Option(help="Which level learns.")] = None,
    reward: Annotated[
        RewardKind | None, typer.Option(help="Reward of the levels that learn; formulas: `rpl docs method`.")
    ] = None,
    demos: Annotated[
        list[Path] | None, typer.Option(help="Demonstrations of the base; needed by dapg and iril. Repeat for several.")
    ] = None,
    env_steps: Annotated[int | None, typer.Option(min=1, help="Environment steps, at least.")] = None,
    seed: Seed = None,
    device: Device = None,
    options: SettingsOptions,
) -> None:
    """Relay reinforcement fine-tuning of one compound goal by natural policy gradient.

    Its state is saved after every iteration: run the same command again to go on. Watch it with
    `tensorboard --logdir RUN`.

    Example: rpl finetune runs/base runs/mkth --goal mkth
    """
    require("torch", "train")
    from rpl_runtime.console import progress
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.data.sources import Demonstrations
    from rpl_train.rl.finetune import finetune
    from rpl_train.runs import LEVELS, load_run
    from rpl_train.tasks import load_task

    trained = load_run(base)
    task = load_task(trained.record.task)
    given: dict[str, object] = {"finetune.env_steps": env_steps, "finetune.seed": seed, "finetune.device": device}
    given |= {"finetune.objective": objective and objective.value, "finetune.reward": reward and reward.value}
    given |= {"finetune.levels": levels and (LEVELS if levels is Tuned.BOTH else (levels.value,))}
    given |= {"finetune.threads": os.cpu_count() or 1}
    settings = options.chosen(task, given)
    tuning = replace(settings.finetune, goal=task.parse_goal(goal).elements)
    if tuning.objective != "npg" and not demos:
        raise typer.BadParameter(f"{tuning.objective} needs the --demos that {base} learned from")
    demonstrations = load_demonstrations(demos, task) if demos else Demonstrations([], [])
    with progress(stays=True) as report:
        iterations = tuning.iterations(task)

        def on_point(point: "Point") -> None:
            remark = f"{point.steps_done:.2f} elements done, {point.success:.0%} success"
            report("iterations", point.iteration, iterations, remark)

        finetune(
            *(task, trained, demonstrations, run, tuning, on_point),
            on_begin=lambda finished: report("iterations", finished, iterations),
        )
    typer.echo(f"{run} is fine-tuned; `rpl export {run} models/NAME` makes a bundle of it")


@grouped
def distill_command(
    base: Annotated[Path, typer.Argument(help="The run that the specialists started from.")],
    run: NewRun,
    specialists: Specialists,
    demos: Recordings,
    *,
    seed: Seed = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that play, each one goal's episodes.")] = None,
    executor: ExecutorName = None,
    device: Device = None,
    options: SettingsOptions,
) -> None:
    """Distil the specialists of several goals into one goal-conditioned policy.

    Example: rpl distill runs/base runs/one --specialist mkth=runs/mkth --demos runs/play
    """
    require("torch", "train")
    from rpl_runtime.console import progress
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.distill import distill
    from rpl_train.runs import load_run
    from rpl_train.tasks import load_task

    teachers, trained = _teachers(specialists), load_run(base)
    task = load_task(trained.record.task)
    given = {"distill.seed": seed, "distill.device": device, "distill.jobs": jobs, "distill.executor": executor}
    settings = options.chosen(task, given).distill
    with progress(stays=True) as report:
        distill(
            *(task, trained, load_demonstrations(demos, task), teachers, run, settings),
            lambda finished, what: report("rounds", finished, settings.rounds, what),
        )
    typer.echo(f"{run} is distilled; `rpl export {run} models/NAME` makes a bundle of it")


def _teachers(specialists: list[str]) -> "dict[str, TrainedRun]":
    """Load the specialists, by the letters of their goals."""
    from rpl_train.runs import load_run

    named: dict[str, Path] = {}
    for text in specialists:
        goal, equals, path = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not a specialist; must be GOAL=RUN, such as mkbs=runs/mkbs")
        named[goal] = Path(path)
    if len(named) < len(specialists):
        raise typer.BadParameter("a goal has several specialists; must be one for each goal")
    return {goal: load_run(path) for goal, path in named.items()}


def pack_command(
    base: Annotated[Path, typer.Argument(help="The run that the specialists started from.")],
    file: Annotated[Path, typer.Argument(help="The file to write (.safetensors).")],
    specialists: Specialists,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that stands at FILE.")] = False,
) -> None:
    """Save an imitated policy and its specialists as one compact file, without loss.

    A file that stands there already is replaced only with --force.

    Example: rpl pack runs/base all.safetensors --specialist mkth=runs/mkth
    """
    require("torch", "train")
    from rpl_runtime.console import count
    from rpl_train.runs import load_run
    from rpl_train.specialists import save_specialists

    if file.exists() and not force:
        raise InvalidInput(f"{file} already exists; pass --force to replace it, or choose another path")
    teachers = _teachers(specialists)
    save_specialists(load_run(base), teachers, file)
    typer.echo(f"{file} holds {base} and {count(len(teachers), 'specialist')} in {file.stat().st_size / 1e6:.1f} MB")


def unpack_command(
    file: Annotated[Path, typer.Argument(help="A file of `rpl pack`.")],
    folder: Annotated[
        Path, typer.Argument(callback=to_write, help="Folder for a run named base and a run for each goal.")
    ],
) -> None:
    """Restore the runs of a file of `rpl pack`, to export, fine-tune or distil them.

    Example: rpl unpack all.safetensors runs
    """
    require("torch", "train")
    from rpl_train.specialists import unpack

    for run in unpack(file, folder):
        typer.echo(str(run))


def methods_command(
    as_json: Json = False,
) -> None:
    """List the paper's systems and ablations with their settings.

    Example: rpl methods --json
    """
    require("torch", "train")
    from rpl_train.paper.tables import methods_facts, print_methods

    show(as_json, methods_facts(), print_methods)


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """What `rpl paper` is asked for."""

    results: Annotated[
        Path, typer.Argument(callback=to_write, help="Folder for a JSON file per row, and for tables and plots.")
    ]
    demos: Annotated[
        list[Path] | None,
        typer.Option(help="As for `rpl imitate`. Without any, only draw the folder's rows."),
    ] = None
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="A row of `rpl methods`, by default all. Repeat for several.")
    ] = None
    runs: Annotated[Path, typer.Option(callback=to_write, help="Folder of the runs; interrupted runs go on there.")] = (
        Path("runs/paper")
    )
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps of each fine-tuning.")] = 120_000
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2
    executor: ExecutorName = None
    distilled: Annotated[
        Path | None, typer.Option(help="An evaluated bundle, such as models/relay, to add as a row.")
    ] = None
    page: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A Markdown page with marks for the tables; they go there too."),
    ] = None

    def budget(self) -> "PaperConfig":
        """The budget of every row."""
        from rpl_train.paper.reproduce import PaperConfig

        return PaperConfig(
            runs=self.runs,
            demonstrations=tuple(self.demos or ()),
            env_steps=self.env_steps,
            episodes=self.episodes,
            jobs=self.jobs,
            executor=self.executor or "local",
        )


@grouped
def paper_command(asked: PaperOptions) -> None:
    """Run the systems of the paper under one budget, and draw its table, curves and ablations.

    A row takes minutes to hours: run it in the background, and run the same command again after an interruption.
    Finished trials of a row's file are not run again. Interrupted ones go on in --runs, and runs there are evaluated
    again if --episodes changed.

    Example: rpl paper results --demos recordings.hdf5 --row nearest
    """
    require("torch", "train")
    from rpl_runtime.console import progress
    from rpl_runtime.evaluation.protocol_results import draw_protocol
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.paper.plots import draw_paper
    from rpl_train.paper.reproduce import chosen, reproduce
    from rpl_train.paper.results import known_trials, write_distilled, write_row
    from rpl_train.paper.tables import HARD, print_paper, read_hard, write_markdown

    methods, results = chosen(asked.rows), asked.results
    if asked.demos:
        budget = asked.budget()
        with progress(stays=True) as report:
            known = known_trials(methods, budget, results)
            reproduce(methods, budget, known, report, lambda row: write_row(row, results))
    if asked.distilled:
        write_distilled(load_bundle(asked.distilled).evaluation, results)
    draw_paper(results)
    if hard := read_hard(results):
        draw_protocol(hard, results / HARD / "hard.png")
    if asked.page:
        write_markdown(results, asked.page)
    print_paper(results)
