"""The command `rpl export`. As in cli/app.py, it imports what it needs when it runs."""

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from rpl_runtime.cli.options import Json, Providers, grouped, show
from rpl_train.cli.options import NAME, Force, check_place, require_exporter

if TYPE_CHECKING:
    from rpl_runtime.files import JsonDict
    from rpl_runtime.policy.bundle import Bundle
    from rpl_runtime.policy.manifest import Provenance, Statistics
    from rpl_runtime.policy.spec import PolicySpec
    from rpl_runtime.tasks.task import Task
    from rpl_train.augment import LowBatch
    from rpl_train.export.export import ExportResult
    from rpl_train.networks import RelayPolicy


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
    name: Annotated[str | None, typer.Option(help=NAME.format(" (with --from, what its spec says)"))] = None
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
        print_export(result)
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
    spec = record.spec.model_copy(update={"name": asked.name or asked.bundle.absolute().name})
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


def print_export(result: "ExportResult") -> None:
    """Print what a bundle was written with, and how near its graphs came to the modules."""
    from rpl_runtime.console import Console
    from rpl_train.export.export import result_table

    Console(markup=False, highlight=False).print(result_table(result))
