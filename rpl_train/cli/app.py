"""The training commands of `rpl`, added to its app through the entry-point group `rpl.commands`.

Commands import what they need when they run, so a missing extra is one sentence and `rpl --help` stays fast.
"""

import tempfile
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from rpl_runtime.cli.options import ExecutorName, Json, Providers, TaskName, grouped, show
from rpl_runtime.errors import require
from rpl_train.cli import demos as demos_cli
from rpl_train.cli import goals as goals_cli
from rpl_train.cli.goals import Jobs, NewRun, Recordings, Seed
from rpl_train.cli.improve import improve_command
from rpl_train.cli.options import Device, SettingsOptions, check_place, require_exporter

if TYPE_CHECKING:
    from rpl_runtime.files import JsonDict
    from rpl_runtime.policy.bundle import Bundle
    from rpl_runtime.policy.manifest import Provenance, Statistics
    from rpl_runtime.policy.spec import PolicySpec
    from rpl_runtime.tasks.task import Task
    from rpl_train.augment import LowBatch
    from rpl_train.cli.settings import Settings
    from rpl_train.export.export import ExportResult
    from rpl_train.networks import RelayPolicy
    from rpl_train.recipe import RecipeConfig

COMPONENTS = "imitate.networks.high_components"
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each level.")]
Components = Annotated[
    int | None,
    typer.Option(min=1, help="Of the high level's mixture; use several if demonstrators differ in what they do."),
]
_NAME = "What a server calls the policy; by default the bundle's folder{}. Versions of a policy share one."
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that stands at BUNDLE.")]


def register(app: typer.Typer) -> None:
    """Add the training commands to `rpl`."""
    app.add_typer(demos_cli.app, name="demos")
    app.command("imitate")(imitate_command)
    app.command("export")(export_command)
    app.command("novelty")(novelty_command)
    app.command("stall")(stall_command)
    app.command("train")(train_command)
    app.command("improve")(improve_command)
    goals_cli.register(app)


@grouped
def imitate_command(
    run: NewRun,
    demos: Recordings,
    *,
    task_name: TaskName = "kitchen",
    steps: Steps = None,
    seed: Seed = None,
    components: Components = None,
    jobs: Jobs = None,
    device: Device = None,
    options: SettingsOptions,
) -> None:
    """Relay imitation learning of both levels.

    Checkpoints are saved on the way: run the same command again to go on. Watch the losses with
    `tensorboard --logdir RUN`.

    Example: rpl imitate runs/base --demos runs/play --components 1
    """
    require("torch", "train")
    from rpl_runtime.console import progress
    from rpl_train.cli.progress import losses
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.imitate import imitate
    from rpl_train.tasks import load_task

    task = load_task(task_name)
    given: dict[str, object] = {"imitate.steps": steps, "imitate.seed": seed, "imitate.jobs": jobs}
    given |= {COMPONENTS: components, "imitate.device": device}
    settings = options.chosen(task, given).imitate
    with progress(stays=True) as report:
        imitate(load_demonstrations(demos, task), task, run, settings, losses(report, settings.steps))
    typer.echo(f"{run} is trained; `rpl export {run} models/NAME` makes a bundle of it")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What `rpl export` is asked for.

    Raises:
        BadParameter: options contradict each other.
    """

    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] BUNDLE",
            help="The run, or a bundle that was exported from one (neither with --from), and the bundle to write.",
        ),
    ]
    factory: Annotated[
        str | None,
        typer.Option("--from", metavar="MODULE:FACTORY", help="A function that returns (high, low, spec) instead."),
    ] = None
    task_name: Annotated[
        str | None,
        typer.Option(
            "--task", help="Compare in the worlds of this task; by default the run's. Without: random states."
        ),
    ] = None
    name: Annotated[str | None, typer.Option(help=_NAME.format(" (with --from, what its spec says)"))] = None
    low_only: Annotated[
        bool,
        typer.Option(
            "--low-only", help="Write the low level alone, to be served with a planner (`rpl docs two-rates`)."
        ),
    ] = False
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(
            help="Compute the inner layers of the low level in 8-bit integers, scaled by the states of --demos. "
            "Then both low levels play the same episodes."
        ),
    ] = None
    demos: Annotated[
        list[Path] | None,
        typer.Option(help="With --quantize: what the run learned from, as for `rpl imitate`. Repeat for several."),
    ] = None
    episodes: Annotated[
        int, typer.Option(min=1, help="With --quantize: of each goal from each start, by each low level.")
    ] = 20
    stall_rate: Annotated[
        float | None,
        typer.Option(
            "--stall", metavar="RATE", help="Let it ask for help, as `rpl stall` does, in vain at this rate at most."
        ),
    ] = None
    providers: Providers = "CPU"
    force: Force = False
    as_json: Json = False

    def __post_init__(self) -> None:
        given = " ".join(map(str, self.paths))
        if self.factory and len(self.paths) != 1:
            raise typer.BadParameter(f"with --from give one path, the bundle; got {given}")
        if not self.factory and len(self.paths) != 2:
            raise typer.BadParameter(f"give two paths, the run and the bundle; got {given}")
        if (self.quantize is None) != (self.demos is None):
            raise typer.BadParameter("--quantize needs --demos, to scale integers by them, and nothing else does")
        plays = not self.low_only and bool(self.task_name or not self.factory)
        if self.quantize and not plays:
            raise typer.BadParameter("--quantize plays episodes of the --task with both levels; not with --low-only")
        if self.stall_rate is not None and not plays:
            raise typer.BadParameter("--stall plays episodes of the --task with both levels; not with --low-only")

    @property
    def bundle(self) -> Path:
        """The bundle to write."""
        return self.paths[-1]


class _Source(NamedTuple):
    """A policy to export, and what its bundle says of it."""

    policy: "RelayPolicy"
    spec: "PolicySpec"
    provenance: "Provenance"
    statistics: "Statistics | None"
    task: str | None  # in whose worlds it is compared; None: in random states


@grouped
def export_command(asked: ExportOptions) -> None:
    """Make a bundle of a trained run, or of any two torch modules.

    Nothing is written if the graphs differ from the modules over whole episodes. A bundle that stands there already
    is replaced only with --force.

    Example: rpl export runs/base models/mine
    """
    require_exporter()
    check_place(asked.bundle, asked.force)
    from rpl_runtime.console import Console
    from rpl_runtime.evaluation.evaluate import check_policy
    from rpl_runtime.evaluation.paired import print_comparison
    from rpl_train.export.export import export
    from rpl_train.export.parity import ParityConfig
    from rpl_train.export.stall import StallConfig, add_stall
    from rpl_train.tasks import load_task

    stall = None if asked.stall_rate is None else StallConfig(rate=asked.stall_rate)
    source = _source(asked)
    with Console(stderr=True).status("exporting, and comparing whole episodes with the modules"):
        task = load_task(source.task) if source.task else None
        if task:
            check_policy(source.spec, task)
        scales = _scales(asked.paths[0], source, asked.demos, task) if task and asked.demos else None
        parity = ParityConfig(providers=asked.providers)
        write = partial(export, *source[:3], statistics=source.statistics, config=parity, task=task)
        result = write(asked.bundle, low_only=asked.low_only, calibration=scales)
        if task and stall:
            result = replace(result, bundle=add_stall(result.bundle, task, stall))
    facts, beside = result.facts(), None
    if task and asked.quantize:
        with tempfile.TemporaryDirectory() as scratch:
            plain = write(Path(scratch) / "float32").bundle
            facts["beside_float32"] = beside = _beside(plain, result.bundle, task, asked.episodes, Path(scratch))

    def tables() -> None:
        _print_export(result)
        if beside:
            typer.echo(f"new is {asked.bundle}; old is the same with its low level in float32")
            print_comparison(beside)

    show(asked.as_json, facts, tables)


def _source(asked: ExportOptions) -> _Source:
    """The policy of a factory, of a run, or of a bundle that was exported from one."""
    from rpl_runtime.policy.bundle import MANIFEST, load_bundle
    from rpl_train.export.factory import load_factory
    from rpl_train.export.restore import restore
    from rpl_train.runs import load_run

    if asked.factory:
        policy, spec, provenance = load_factory(asked.factory)
        spec = spec.model_copy(update={"name": asked.name or spec.name})
        return _Source(policy, spec, provenance, None, asked.task_name)
    if (asked.paths[0] / MANIFEST).exists():
        parent = load_bundle(asked.paths[0])
        policy, record = restore(parent, asked.task_name or "kitchen")
        provenance = record.provenance.model_copy(update={"parents": (parent.digest,)})
    else:
        policy, record = load_run(asked.paths[0])
        provenance = record.provenance
    spec = record.spec.model_copy(update={"name": asked.name or _folder_name(asked.bundle)})
    return _Source(policy, spec, provenance, record.statistics, asked.task_name or record.task)


def _scales(path: Path, source: _Source, demos: list[Path], task: "Task") -> "LowBatch":
    """Training tuples, which scale the integers of a low level; the run or bundle at the path learned from them."""
    from rpl_train.augment import Pool, PoolConfig
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.export.novelty import check_sources
    from rpl_train.export.quantize import calibration

    taught = load_demonstrations(demos, task)
    check_sources(path, source.provenance, taught)
    return calibration(Pool(taught.trajectories, source.spec, PoolConfig()))


def _beside(old: "Bundle", new: "Bundle", task: "Task", episodes: int, work: Path) -> "JsonDict":
    """The same episodes by two bundles, compared; the new one keeps its own as its evaluation."""
    from rpl_runtime.console import progress
    from rpl_runtime.evaluation.evaluate import EvaluateConfig
    from rpl_runtime.evaluation.paired import play_both
    from rpl_runtime.policy.bundle import attach_evaluation

    with progress(stays=True) as report:
        comparison, evaluation = play_both(old.path, new.path, task, EvaluateConfig(episodes=episodes), work, report)
    attach_evaluation(new, evaluation | {"beside_float32": comparison})
    return comparison


def _folder_name(bundle: Path) -> str:
    return bundle.absolute().name


def _print_export(result: "ExportResult") -> None:
    from rpl_runtime.console import Console
    from rpl_train.export.export import result_table

    Console(markup=False, highlight=False).print(result_table(result))


def novelty_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; it is written again.")],
    demos: Recordings,
    task_name: TaskName = "kitchen",
) -> None:
    """Add the out-of-distribution score to an older bundle.

    Bundles that `rpl export` writes now have it. The graphs stay the same; the bundle gets a new digest and loses its
    evaluation: `rpl evaluate BUNDLE --write` makes it again.

    Example: rpl novelty models/mine --demos runs/play
    """
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.export.novelty import add_novelty
    from rpl_train.tasks import load_task

    added = add_novelty(load_bundle(bundle), load_demonstrations(demos, load_task(task_name)))
    typer.echo(f"{bundle} scores states now; its digest is {added.digest}")


def stall_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; it is written again.")],
    task_name: TaskName = "kitchen",
    rate: Annotated[
        float, typer.Option(help="Share of the episodes that reach their goal and may ask for help all the same.")
    ] = 0.02,
    episodes: Annotated[int, typer.Option(min=1, help="Held-out episodes, from the task's starts in turn.")] = 136,
) -> None:
    """Let a policy ask for help where it makes no progress toward its goal.

    The limit is measured on held-out episodes that reach their goal, so that few of such ask in vain. The graphs stay
    the same; the bundle gets a new digest and loses its evaluation: `rpl evaluate BUNDLE --write` makes it again.

    Example: rpl stall models/mine
    """
    require("torch", "train")
    from rpl_runtime.console import Console
    from rpl_runtime.evaluation.evaluate import check_policy
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.export.stall import StallConfig, add_stall
    from rpl_train.tasks import load_task

    found, task = load_bundle(bundle), load_task(task_name)
    check_policy(found.spec, task)
    with Console(stderr=True).status("playing held-out episodes"):
        added = add_stall(found, task, StallConfig(rate=rate, episodes=episodes))
    stall = added.manifest.stall
    assert stall is not None
    typer.echo(
        f"{bundle} asks for help above {stall.limit:.1f}, by {stall.episodes} episodes that reached their goal; "
        f"its digest is {added.digest}"
    )


class Recipe(StrEnum):
    IMITATE = "imitate"
    RELAY = "relay"
    KITCHEN = "kitchen"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `rpl train` is asked for."""

    bundle: Annotated[Path, typer.Argument(help="The bundle to write, such as models/mine.")]
    demos: Annotated[
        list[Path] | None, typer.Option(help="As for `rpl imitate`; without any, the task's demonstrator plays first.")
    ] = None
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="imitate: imitation alone, minutes. relay: then fine-tune each goal of the task's first group and "
            "distil them into one policy, hours; models/kitchen was made so. kitchen: learn from shifts in which the "
            "policy drives more and more, two hours; models/shift was made so."
        ),
    ] = Recipe.IMITATE
    task_name: TaskName = "kitchen"
    sequences: Annotated[int | None, typer.Option(help="Sequences of play, without --demos.")] = None
    run: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/ and the bundle's name.")] = None
    name: Annotated[str | None, typer.Option(help=_NAME.format(""))] = None
    force: Force = False
    steps: Steps = None
    env_steps: Annotated[int | None, typer.Option(min=1, help="Environment steps of each goal's fine-tuning.")] = None
    seed: Seed = None
    components: Components = None
    jobs: Jobs = None
    executor: ExecutorName = None
    device: Device = None
    options: SettingsOptions
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20

    def settings(self, task: "Task") -> "Settings":
        """The settings of all stages; prints them and exits if that is asked for."""
        imitations = ("imitate", "aggregate.imitate")
        given: dict[str, object] = {COMPONENTS: self.components, "imitate.steps": self.steps}
        given |= {"finetune.env_steps": self.env_steps}
        given |= {f"{stage}.seed": self.seed for stage in ("play", *imitations, "finetune", "distill")}
        given |= {f"{stage}.device": self.device for stage in (*imitations, "finetune", "distill")}
        given |= {f"{stage}.executor": self.executor for stage in ("play", "distill")}
        given |= {"play.sequences": self.sequences}
        given |= {f"{stage}.jobs": self.jobs for stage in ("play", *imitations, "distill")}
        return self.options.chosen(task, given)

    def config(self, task: "Task") -> "RecipeConfig":
        """The recipe, with the settings of its stages."""
        from rpl_train.recipe import RecipeConfig

        settings = self.settings(task)
        goals = next(iter(task.groups.values())) if self.recipe is Recipe.RELAY else ()
        return RecipeConfig(
            task=replace(task, demonstrator=settings.demonstrator),
            run=self.run or Path("runs") / self.bundle.name,
            bundle=self.bundle,
            name=self.name or _folder_name(self.bundle),
            demonstrations=tuple(self.demos or ()),
            play=settings.play,
            imitate=settings.imitate,
            finetune={goal: replace(settings.finetune, goal=task.goals[goal]) for goal in goals},
            jobs=settings.imitate.jobs,
            executor=settings.play.executor,
            distill=settings.distill,
            parity=settings.parity,
            aggregate=settings.aggregate if self.recipe is Recipe.KITCHEN else None,
        )


@grouped
def train_command(context: typer.Context, asked: TrainOptions) -> None:
    """Train and evaluate a bundle, from demonstrations or from scripted play.

    Each stage is a command of its own: demos play, imitate, finetune, distill, export, evaluate. Run the same command
    again after an interruption: finished stages are kept, and the interrupted one goes on where it stopped.
    A bundle that stands there already is replaced only if it was made of the same run, or with --force.

    Example: rpl train models/mine --seed 1 --components 1
    """
    require_exporter()
    from rpl_runtime.cli.measure.commands import evaluate_command
    from rpl_runtime.console import progress
    from rpl_train.recipe import train
    from rpl_train.tasks import load_task

    config = asked.config(load_task(asked.task_name))
    check_place(asked.bundle, asked.force, config.last_run)
    with progress(stays=True) as report:
        result = train(config, report)
    _print_export(result)
    evaluate_command(
        context,
        bundle=asked.bundle,
        task_name=asked.task_name,
        episodes=asked.episodes,
        executor=asked.executor,
        output=config.run / "evaluation",
        write=True,
    )
