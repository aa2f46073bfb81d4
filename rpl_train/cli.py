"""The training commands of `rpl`, added to its app through the entry-point group `rpl.commands`.

Commands import what they need when they run: a missing extra is one sentence, and `rpl --help` stays instant.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.cli import StartKind
from rpl_runtime.errors import require

if TYPE_CHECKING:
    from rpl_runtime.manifest import Provenance, Statistics
    from rpl_runtime.spec import PolicySpec
    from rpl_train.checkpoint import TrainedRun
    from rpl_train.demos.play import PlayConfig, PlayResult
    from rpl_train.demos.sources import Demonstrations
    from rpl_train.demos.trajectory import Trajectory
    from rpl_train.export import ExportResult
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import RelayPolicy

Recordings = Annotated[
    list[Path], typer.Option("--demos", help="Folder written by `rpl demos`, or what its import reads; repeat it.")
]
AnyRecordings = Annotated[
    list[Path],
    typer.Argument(
        help="HDF5 files in D4RL's kitchen layout, raw logs (.mjl) or folders of them, Minari data sets by folder or "
        "by name (D4RL/kitchen/complete-v2), folders written by `rpl demos`."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of weights and batches.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps of each level.")]
Components = Annotated[
    int, typer.Option(min=1, help="Of the high level's mixture: several where demonstrators differ in what comes next.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes; 2 train both levels side by side.")]


def register(app: typer.Typer) -> None:
    """Add the training commands to `rpl`."""
    demos = typer.Typer(help="Demonstrations: play, import, look at and export them.", no_args_is_help=True)
    demos.command("play")(demos_play)
    demos.command("import")(demos_import)
    demos.command("info")(demos_info)
    demos.command("export")(demos_export)
    app.add_typer(demos, name="demos")
    app.command("imitate")(imitate_command)
    app.command("finetune")(finetune_command)
    app.command("distill")(distill_command)
    app.command("export")(export_command)
    app.command("novelty")(novelty_command)
    app.command("train")(train_command)
    app.command("methods")(methods_command)
    app.command("paper")(paper_command)


class Order(StrEnum):
    HUMAN = "human"
    RANDOM = "random"


def demos_play(
    folder: Annotated[Path, typer.Argument(help="Folder for one .npz per sequence; play broken off goes on there.")],
    sequences: Annotated[int, typer.Option(help="How many sequences.")] = 400,
    length: Annotated[int, typer.Option(help="Elements in a sequence: 1 tries each alone, 7 does them all.")] = 4,
    order: Annotated[Order, typer.Option(help="human: the order in which people work. random: any.")] = Order.HUMAN,
    start: Annotated[StartKind, typer.Option(help="Where the kitchen starts.")] = StartKind.PERTURBED,
    seed: Annotated[int, typer.Option(help="Seed of the sequences.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; what is played does not depend on it.")] = 2,
    sheet: Annotated[Path | None, typer.Option(help="Draw the first four sequences here (.png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Let the scripted demonstrator play: sequences of elements, with noise, pauses and detours."""
    from rpl_runtime.kitchen.simulator import NOMINAL, PERTURBED
    from rpl_train.demos.play import PlayConfig
    from rpl_train.demos.sheet import contact_sheet
    from rpl_train.demos.summary import play_facts, print_play
    from rpl_train.demos.trajectory import load

    noise = PERTURBED if start is StartKind.PERTURBED else NOMINAL
    result = _play(folder, PlayConfig(sequences, length, order.value, seed, jobs, noise))
    if sheet is not None:
        contact_sheet([load(sequence.path) for sequence in result.sequences[:4]], sheet)
    if as_json:
        typer.echo(json.dumps(play_facts(result), indent=1))
    else:
        print_play(result)


def _play(folder: Path, config: "PlayConfig") -> "PlayResult":
    """Play under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rpl_train.demos.play import play

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("sequences", total=config.sequences)
        return play(config, folder, lambda finished, total: progress.update(bar, completed=finished, total=total))


def demos_import(
    recordings: AnyRecordings,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for one .npz per demonstration.")],
    replay: Annotated[
        bool, typer.Option("--replay", help="Play the targets through the physics, and keep the states it answers.")
    ] = False,
) -> None:
    """Turn public recordings into a folder of demonstrations with position targets."""
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.demos.trajectory import save_folder

    demonstrations = load_demonstrations(recordings)
    trajectories = _replay(demonstrations) if replay else demonstrations.trajectories
    save_folder(trajectories, out)
    for sentence in (sentence for source in demonstrations.sources for sentence in source.get("left_out", ())):
        typer.echo(f"left out: {sentence}", err=True)
    typer.echo(f"{len(trajectories)} demonstrations written to {out}")


def _replay(demonstrations: "Demonstrations") -> "list[Trajectory]":
    """Replay demonstrations under a progress bar, and print what they complete."""
    from rich.console import Console
    from rich.progress import Progress

    from rpl_train.demos.replay import replay, replay_table

    trajectories = demonstrations.trajectories
    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task("replaying", total=len(trajectories))
        result = replay(trajectories, jobs=os.cpu_count() or 1, on_episode=lambda: bars.advance(task))
    Console().print(replay_table(result))
    return result.trajectories


def demos_info(
    recordings: AnyRecordings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what demonstrations hold: how many, how long, which elements in which order."""
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.demos.summary import print_summary, summarise

    summary = summarise(load_demonstrations(recordings))
    if as_json:
        typer.echo(json.dumps(summary._asdict(), indent=1))
    else:
        print_summary(summary)


def demos_export(
    recordings: AnyRecordings,
    minari: Annotated[
        Path, typer.Option("--minari", help="Folder of the Minari data set, named NAME-vN; one that is there grows.")
    ],
) -> None:
    """Write demonstrations as a Minari data set, which keeps their position targets."""
    from rpl_train.demos.minari_io import export_minari
    from rpl_train.demos.sources import load_demonstrations

    demonstrations = load_demonstrations(recordings)
    licences = dict.fromkeys(source["licence"] for source in demonstrations.sources)
    held = export_minari(demonstrations.trajectories, minari, "; ".join(licences))
    typer.echo(f"{len(demonstrations.trajectories)} demonstrations written to {minari}, which now holds {held}")


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
    with _bar("iterations", config.iterations) as report:
        finetune(
            load_run(base),
            trajectories,
            run,
            config,
            lambda point: report(point.iteration, f"{point.steps_done:.2f} steps, {point.success:.0%} success"),
        )
    typer.echo(f"{run} is fine-tuned; `rpl export {run} models/NAME` makes a bundle of it")


@contextmanager
def _bar(what: str, total: int) -> "Iterator[Callable[..., None]]":
    """A progress bar on stderr; the value takes how many are finished, a remark, and another total where it changes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, remark="")
        yield lambda finished, remark, total=None: bars.update(task, completed=finished, remark=remark, total=total)


def distill_command(
    base: Annotated[Path, typer.Argument(help="The run that the specialists started from.")],
    run: Annotated[Path, typer.Argument(help="Folder of the new run; one that was broken off goes on there.")],
    specialists: Annotated[
        list[str], typer.Option("--specialist", metavar="GOAL=RUN", help="A fine-tuned run for each goal; repeat it.")
    ],
    demos: Recordings,
    seed: Seed = 0,
) -> None:
    """Distil the specialists of several goals into one goal-conditioned policy."""
    require("torch", "train")
    from rpl_train.checkpoint import load_run
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.distill import DistillConfig, distill

    named = dict(_pair(text) for text in specialists)
    if len(named) < len(specialists):
        raise typer.BadParameter("a goal has several specialists; each may have one")
    config = DistillConfig(seed=seed)
    teachers = {goal: load_run(path) for goal, path in named.items()}
    with _bar("rounds", config.rounds) as report:
        distill(load_run(base), load_demonstrations(demos).trajectories, teachers, run, config, report)
    typer.echo(f"{run} is distilled; `rpl export {run} models/NAME` makes a bundle of it")


def _pair(text: str) -> tuple[str, Path]:
    goal, equals, path = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no specialist; write GOAL=RUN, such as mkbs=runs/mkbs")
    return goal, Path(path)


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


def train_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle to write, such as models/mine.")],
    demos: Annotated[
        list[Path] | None, typer.Option(help="As for `rpl imitate`; without any, scripted play is made first.")
    ] = None,
    sequences: Annotated[int, typer.Option(help="Sequences of scripted play, where no --demos are named.")] = 400,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/ and the bundle's name.")] = None,
    steps: Steps = 20_000,
    seed: Seed = 0,
    components: Components = 4,
    jobs: Jobs = 2,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20,
) -> None:
    """From demonstrations, or from nothing, to an evaluated bundle: play, imitate, export, evaluate.

    Each stage is a command of its own. Run the same command again after an interruption: what is trained stays
    trained, and the evaluation goes on where it stopped.
    """
    require("torch", "train")
    from rpl_runtime.cli import evaluate_command
    from rpl_train.demos.sources import load_demonstrations
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import NetworkConfig

    run = run or Path("runs") / bundle.name
    if not demos:
        from rpl_train.demos.play import PlayConfig

        demos = [_play(run / "play", PlayConfig(sequences, seed=seed, jobs=jobs)).folder]
    networks = NetworkConfig(high_components=components)
    config = ImitateConfig(steps=steps, seed=seed, jobs=jobs, networks=networks)
    policy, record = _imitate(load_demonstrations(demos), run, config)
    _print_export(_export(bundle, policy, record.spec, record.provenance, record.statistics))
    evaluate_command(bundle, episodes=episodes, output=run / "evaluation", write=True)


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
    from rpl_train.scores import known_trials, write_distilled, write_row
    from rpl_train.tables import print_paper, write_markdown

    methods = chosen(rows)
    if demos:
        config = PaperConfig(runs, tuple(demos), env_steps, episodes=episodes, jobs=jobs, executor=executor.value)
        with _bar("trials", 0) as report:
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
