"""The training commands of `rpl`, added to its app through the entry-point group `rpl.commands`.

Commands import what they need when they run: a missing extra is one sentence, and `rpl --help` stays instant.
"""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.errors import require
from rpl_train.demos import cli as demos_cli

if TYPE_CHECKING:
    from rpl_runtime.manifest import Provenance, Statistics
    from rpl_runtime.spec import PolicySpec
    from rpl_train.checkpoint import TrainedRun
    from rpl_train.demos.sources import Demonstrations
    from rpl_train.export import ExportResult
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import RelayPolicy
    from rpl_train.specialise import SpecialiseConfig

Recordings = Annotated[
    list[Path], typer.Option("--demos", help="Folder written by `rpl demos`, or what its import reads; repeat it.")
]
Seed = Annotated[int, typer.Option(help="Seed of weights and batches.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps of each level.")]
Components = Annotated[
    int, typer.Option(min=1, help="Of the high level's mixture: several where demonstrators differ in what comes next.")
]
Specialists = Annotated[
    list[str], typer.Option("--specialist", metavar="GOAL=RUN", help="A fine-tuned run for each goal; repeat it.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes; 2 train both levels side by side.")]


def register(app: typer.Typer) -> None:
    """Add the training commands to `rpl`."""
    app.add_typer(demos_cli.app, name="demos")
    app.command("imitate")(imitate_command)
    app.command("finetune")(finetune_command)
    app.command("distill")(distill_command)
    app.command("pack")(pack_command)
    app.command("unpack")(unpack_command)
    app.command("export")(export_command)
    app.command("novelty")(novelty_command)
    app.command("train")(train_command)
    app.command("methods")(methods_command)
    app.command("paper")(paper_command)


def imitate_command(
    run: Annotated[Path, typer.Argument(help="Folder of the run; one that was broken off goes on there.")],
    demos: Recordings,
    steps: Steps = 20_000,
    seed: Seed = 0,
    components: Components = 4,
    jobs: Jobs = 2,
) -> None:
    """Relay imitation learning of both levels.

    Checkpoints are written on the way: run the same command again to go on. Watch the losses with
    `tensorboard --logdir RUN`.
    """
    require("torch", "train")
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import NetworkConfig

    networks = NetworkConfig(high_components=components)
    _imitate(load_demonstrations(demos), run, ImitateConfig(steps=steps, seed=seed, jobs=jobs, networks=networks))
    typer.echo(f"{run} is trained; `rpl export {run} models/NAME` makes a bundle of it")


def _imitate(demonstrations: "Demonstrations", run: Path, config: "ImitateConfig") -> "TrainedRun":
    """Imitate the kitchen's demonstrations under a progress bar for each level."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rpl_runtime.kitchen.elements import STATE_DIM, kitchen_spec
    from rpl_train.checkpoint import LEVELS
    from rpl_train.imitate import imitate

    columns = (
        TextColumn("{task.description:>4} level"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns) as bars:
        tasks = {level: bars.add_task(level, total=config.steps, loss="") for level in LEVELS}
        return imitate(
            demonstrations,
            kitchen_spec("kitchen", high_noise=config.networks.high_noise(STATE_DIM)),
            run,
            config,
            lambda level, step, loss: bars.update(
                tasks[level], completed=step, loss="trained before" if loss is None else f"loss {loss:.3f}"
            ),
        )


class Variant(StrEnum):
    NPG = "npg"
    DAPG = "dapg"
    IRIL = "iril"


class Tuned(StrEnum):
    LOW = "low"
    HIGH = "high"
    BOTH = "both"


class RewardKind(StrEnum):
    SPARSE = "sparse"
    EUCLIDEAN = "euclidean"
    ELEMENTS = "elements"
    COMPLETION = "completion"


def finetune_command(
    base: Annotated[Path, typer.Argument(help="The run to start from, written by `rpl imitate`.")],
    run: Annotated[Path, typer.Argument(help="Folder of the new run; one that was broken off goes on there.")],
    goal: Annotated[str, typer.Option(help="Letters of a compound goal such as mkbs, or elements with commas.")],
    objective: Annotated[
        Variant,
        typer.Option(help="npg: rewards alone. dapg: and demonstrations. iril: and its own episodes, relabelled."),
    ] = Variant.IRIL,
    levels: Annotated[Tuned, typer.Option(help="Which level learns.")] = Tuned.LOW,
    reward: Annotated[
        RewardKind, typer.Option(help="What a level earns; docs/method.md has the formulas.")
    ] = RewardKind.COMPLETION,
    demos: Annotated[
        list[Path] | None, typer.Option(help="What the run learned from; dapg and iril need it. Repeat it.")
    ] = None,
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps, at least.")] = 120_000,
    seed: Annotated[int, typer.Option(help="Seed of episodes and batches.")] = 0,
) -> None:
    """Relay reinforcement fine-tuning of one compound goal by natural policy gradient.

    It is kept after every iteration: run the same command again to go on. Watch it with `tensorboard --logdir RUN`.
    """
    require("torch", "train")
    from rpl_runtime.evaluate import parse_goals
    from rpl_train.checkpoint import LEVELS, load_run
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.finetune import FinetuneConfig, finetune
    from rpl_train.progress import bar

    if objective is not Variant.NPG and not demos:
        raise typer.BadParameter(f"{objective.value} needs the --demos that {base} learned from")
    goals = parse_goals(goal)
    if len(goals) > 1:
        raise typer.BadParameter(f"{goal} is {len(goals)} goals; fine-tuning takes one, each of them a run of its own")
    config = FinetuneConfig(
        goals[0][1],
        objective.value,
        LEVELS if levels is Tuned.BOTH else (levels.value,),
        reward=reward.value,
        env_steps=env_steps,
        threads=os.cpu_count() or 1,
        seed=seed,
    )
    trajectories = load_demonstrations(demos).trajectories if demos else []
    with bar("iterations", config.iterations) as report:
        finetune(
            load_run(base),
            trajectories,
            run,
            config,
            lambda point: report(point.iteration, f"{point.steps_done:.2f} steps, {point.success:.0%} success"),
        )
    typer.echo(f"{run} is fine-tuned; `rpl export {run} models/NAME` makes a bundle of it")


def distill_command(
    base: Annotated[Path, typer.Argument(help="The run that the specialists started from.")],
    run: Annotated[Path, typer.Argument(help="Folder of the new run; one that was broken off goes on there.")],
    specialists: Specialists,
    demos: Recordings,
    seed: Seed = 0,
) -> None:
    """Distil the specialists of several goals into one goal-conditioned policy."""
    require("torch", "train")
    from rpl_train.checkpoint import load_run
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.distill import DistillConfig, distill
    from rpl_train.progress import bar

    teachers = _teachers(specialists)
    config = DistillConfig(seed=seed)
    with bar("rounds", config.rounds) as report:
        distill(load_run(base), load_demonstrations(demos).trajectories, teachers, run, config, report)
    typer.echo(f"{run} is distilled; `rpl export {run} models/NAME` makes a bundle of it")


def _teachers(specialists: list[str]) -> "dict[str, TrainedRun]":
    """By the letters of their goals."""
    from rpl_train.checkpoint import load_run

    named = dict(_pair(text) for text in specialists)
    if len(named) < len(specialists):
        raise typer.BadParameter("a goal has several specialists; each may have one")
    return {goal: load_run(path) for goal, path in named.items()}


def _pair(text: str) -> tuple[str, Path]:
    goal, equals, path = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no specialist; write GOAL=RUN, such as mkbs=runs/mkbs")
    return goal, Path(path)


def pack_command(
    base: Annotated[Path, typer.Argument(help="The run that the specialists started from.")],
    file: Annotated[Path, typer.Argument(help="The file to write (.safetensors).")],
    specialists: Specialists,
) -> None:
    """Keep an imitated policy and what was fine-tuned from it as one compact file, equal to the bit."""
    require("torch", "train")
    from rpl_train.checkpoint import load_run
    from rpl_train.specialists import save_specialists

    teachers = _teachers(specialists)
    save_specialists(load_run(base), teachers, file)
    typer.echo(f"{file} keeps {base} and {len(teachers)} specialists in {file.stat().st_size / 1e6:.1f} MB")


def unpack_command(
    file: Annotated[Path, typer.Argument(help="A file of `rpl pack`.")],
    folder: Annotated[Path, typer.Argument(help="Gets a run called base, and one for each goal.")],
) -> None:
    """Make runs of what `rpl pack` kept: to be exported, fine-tuned further, or distilled."""
    require("torch", "train")
    from rpl_train.specialists import unpack

    for run in unpack(file, folder):
        typer.echo(str(run))


def export_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="[RUN] BUNDLE", help="The run (not with --from), and the bundle to write.")
    ],
    factory: Annotated[
        str | None,
        typer.Option("--from", metavar="MODULE:FACTORY", help="A function that returns (high, low, spec) instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Make a bundle of a trained run, or of anyone's two torch modules.

    Nothing is written where the graphs differ from the modules over whole episodes.
    """
    if len(paths) != (1 if factory else 2):
        wanted = "with --from give one path, the bundle" if factory else "give two paths, the run and the bundle"
        raise typer.BadParameter(f"{wanted}; got {' '.join(map(str, paths))}")
    require("torch", "train")
    from rpl_train.checkpoint import load_run
    from rpl_train.factory import load_factory

    if factory:
        custom = load_factory(factory)
        result = _export(paths[0], custom.policy, custom.spec, custom.provenance)
    else:
        policy, record = load_run(paths[0])
        result = _export(paths[1], policy, record.spec, record.provenance, record.statistics)
    if as_json:
        typer.echo(json.dumps(result.facts(), indent=1))
    else:
        _print_export(result)


def _export(
    bundle: Path,
    policy: "RelayPolicy",
    spec: "PolicySpec",
    provenance: "Provenance",
    statistics: "Statistics | None" = None,
) -> "ExportResult":
    require("onnxscript", "train")
    from rich.console import Console

    from rpl_train.export import export

    with Console(stderr=True).status("exporting, and comparing whole episodes with the modules"):
        return export(policy, spec, provenance, bundle, statistics)


def _print_export(result: "ExportResult") -> None:
    from rich.console import Console

    from rpl_train.export import result_table

    Console(markup=False, highlight=False).print(result_table(result))


def novelty_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; it is written anew.")],
    demos: Recordings,
) -> None:
    """Let the server of an older bundle say how far a state is from the training data.

    What `rpl export` writes now can do so by itself. The graphs stay as they are; the bundle's identity becomes another
    and its evaluation is left out: `rpl evaluate BUNDLE --write` makes it again.
    """
    from rpl_runtime.bundle import load_bundle
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.novelty import add_novelty

    added = add_novelty(load_bundle(bundle), load_demonstrations(demos))
    typer.echo(f"{bundle} scores states now; its digest is {added.digest}")


class Recipe(StrEnum):
    IMITATE = "imitate"
    RELAY = "relay"


def train_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle to write, such as models/mine.")],
    demos: Annotated[
        list[Path] | None, typer.Option(help="As for `rpl imitate`; without any, scripted play is made first.")
    ] = None,
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="imitate: imitation alone, minutes. relay: then fine-tune each of the 17 compound goals and distil "
            "them into one policy, hours; models/kitchen was made so."
        ),
    ] = Recipe.IMITATE,
    sequences: Annotated[int, typer.Option(help="Sequences of scripted play, where no --demos are named.")] = 400,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/ and the bundle's name.")] = None,
    steps: Steps = 20_000,
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps of each goal's fine-tuning.")] = 120_000,
    seed: Seed = 0,
    components: Components = 4,
    jobs: Jobs = 2,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20,
) -> None:
    """From demonstrations, or from nothing, to an evaluated bundle.

    Each stage is a command of its own: demos play, imitate, finetune, distill, export, evaluate. Run the same command
    again after an interruption: what is trained stays trained, and what was broken off goes on where it stopped.
    """
    require("torch", "train")
    from rpl_runtime.cli import evaluate_command
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import NetworkConfig
    from rpl_train.specialise import SpecialiseConfig

    run = run or Path("runs") / bundle.name
    if not demos:
        from rpl_train.demos.play import PlayConfig

        demos = [demos_cli.play(run / "play", PlayConfig(sequences, seed=seed, jobs=jobs)).folder]
    networks = NetworkConfig(high_components=components)
    config = ImitateConfig(steps=steps, seed=seed, jobs=jobs, networks=networks)
    trained = _imitate(load_demonstrations(demos), run, config)
    if recipe is Recipe.RELAY:
        trained = _specialise_and_distil(run, demos, SpecialiseConfig(env_steps=env_steps, seed=seed, jobs=jobs))
    policy, record = trained
    _print_export(_export(bundle, policy, record.spec, record.provenance, record.statistics))
    evaluate_command(bundle, episodes=episodes, output=run / "evaluation", write=True)


def _specialise_and_distil(run: Path, demos: list[Path], config: "SpecialiseConfig") -> "TrainedRun":
    """One policy from the imitated one in a run's folder, by way of a specialist for each goal."""
    from rpl_train.checkpoint import load_run
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.distill import DistillConfig, distill
    from rpl_train.progress import bar
    from rpl_train.specialise import specialise

    with bar("goals", len(config.goals)) as report:
        specialists = specialise(run, demos, run / "specialists", config, report)
    settings = DistillConfig(seed=config.seed)
    with bar("rounds", settings.rounds) as report:
        trajectories = load_demonstrations(demos).trajectories
        return distill(load_run(run), trajectories, specialists, run / "distilled", settings, report)


def methods_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the paper's systems and ablations, and what each is made of."""
    require("torch", "train")
    from rpl_train.tables import methods_facts, print_methods

    if as_json:
        typer.echo(json.dumps(methods_facts(), indent=1))
    else:
        print_methods()


class ExecutorKind(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def paper_command(
    results: Annotated[Path, typer.Argument(help="Folder for a JSON file a row, and what is drawn from them.")],
    demos: Annotated[
        list[Path] | None, typer.Option(help="As for `rpl imitate`; without any, only draw what the folder holds.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="A row of `rpl methods`, by default all; repeat it.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; what was broken off goes on there.")] = Path(
        "runs/paper"
    ),
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps of each fine-tuning.")] = 120_000,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20,
    jobs: Jobs = 2,
    executor: Annotated[
        ExecutorKind, typer.Option(help="local: processes here. ray: tasks of a Ray cluster.")
    ] = ExecutorKind.LOCAL,
    distilled: Annotated[
        Path | None, typer.Option(help="An evaluated bundle, such as models/kitchen: its figures become a row.")
    ] = None,
) -> None:
    """Run the systems of the paper under one budget, and draw its table, curves and ablations.

    A row takes minutes to hours: leave it in the background, and run the same command again after an interruption. A
    trial that a row's file holds is not run again, wherever it was run; one that was broken off goes on in --runs.
    The tables go into the page beside the folder too, RESULTS.md, where it has a place marked for them.
    """
    require("torch", "train")
    from rpl_runtime.bundle import load_bundle
    from rpl_train.paper import PaperConfig, chosen, reproduce
    from rpl_train.pictures import draw_paper
    from rpl_train.progress import bar
    from rpl_train.scores import known_trials, write_distilled, write_row
    from rpl_train.tables import print_paper, write_markdown

    methods = chosen(rows)
    if demos:
        config = PaperConfig(runs, tuple(demos), env_steps, episodes=episodes, jobs=jobs, executor=executor.value)
        with bar("trials", 0) as report:
            reproduce(
                methods,
                config,
                known_trials(methods, config, results),
                lambda what, done, total: report(done, what, total),
                lambda row: write_row(row, results),
            )
    if distilled:
        write_distilled(load_bundle(distilled).evaluation, results)
    draw_paper(results)
    write_markdown(results)
    print_paper(results)
