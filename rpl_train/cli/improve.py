"""The command `rpl improve`. As cli/app.py, it imports what it needs when it runs."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.cli.options import Json, TaskName, grouped, show
from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_train.cli.options import Jobs, Seed, SettingsOptions, Steps, check_place, require_exporter

if TYPE_CHECKING:
    from rpl_runtime.policy.bundle import Bundle
    from rpl_runtime.tasks.task import Task
    from rpl_train.cli.progress import Report
    from rpl_train.cli.settings import Settings
    from rpl_train.data.sources import Demonstrations
    from rpl_train.runs import TrainedRun


@dataclass(frozen=True, kw_only=True)
class ImproveOptions:
    """What `rpl improve` is asked for."""

    bundle: Annotated[Path, typer.Argument(help="The bundle that the robots ran; it is not changed.")]
    new: Annotated[Path, typer.Argument(help="The bundle to write.")]
    logs: Annotated[
        list[Path], typer.Option(help="Log of `rpl run --log`, or a folder of them, of runs of BUNDLE. Repeatable.")
    ]
    demos: Annotated[
        list[Path] | None,
        typer.Option(
            help="What BUNDLE learned from, as for `rpl imitate`, or others in whose states it is to stay as it is; "
            "needed unless its task's demonstrator played it. Repeat for several."
        ),
    ] = None
    base: Annotated[
        Path | None,
        typer.Option("--run", help="The run that BUNDLE was exported from; by default its graphs are read."),
    ] = None
    work: Annotated[
        Path | None, typer.Option(help="Folder of the new run and the episodes; by default runs/ and the new name.")
    ] = None
    task_name: TaskName = "kitchen"
    steps: Steps = None
    seed: Seed = None
    jobs: Jobs = None
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start, by each policy.")] = 20
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that stands at NEW.")] = False
    options: SettingsOptions
    as_json: Json = False

    @property
    def folder(self) -> Path:
        """Where the new run and the episodes are kept."""
        return self.work or Path("runs") / self.new.name

    def settings(self, task: "Task") -> "Settings":
        """The settings of training; prints them and exits if that is asked for."""
        given = {"improve.steps": self.steps, "improve.seed": self.seed, "improve.jobs": self.jobs}
        return self.options.chosen(task, given)

    def check_place(self) -> None:
        """
        Raises:
            BundleError: something that is not a bundle stands at NEW.
            InvalidInput: NEW is BUNDLE, or a bundle stands there that must not be replaced.
        """
        if self.new.resolve() == self.bundle.resolve():
            raise InvalidInput(f"{self.new} is the bundle that is improved; choose another path for the new one")
        check_place(self.new, self.force, self.folder)


@grouped
def improve_command(asked: ImproveOptions) -> None:
    """Train a policy on by what robots did with it, and measure whether it is better.

    Their runs are relabelled, and both levels learn what a pilot did. In the states of BUNDLE's demonstrations and of
    its own runs they answer as before. Then the old and the new policy play the same episodes through the server.
    Nothing is put in the place of BUNDLE: that is up to you.

    Run the same command again after an interruption: it goes on where it stopped.

    Example: rpl improve models/kitchen models/better --logs runs --demos runs/play
    """
    require_exporter()
    from rpl_runtime.console import progress
    from rpl_runtime.evaluation.evaluate import EvaluateConfig, check_policy
    from rpl_runtime.evaluation.paired import play_both, print_comparison
    from rpl_runtime.files import write_json
    from rpl_runtime.policy.bundle import attach_evaluation, load_bundle
    from rpl_train.cli.progress import losses
    from rpl_train.export.export import export
    from rpl_train.export.stall import StallConfig, add_stall
    from rpl_train.improve import as_learned, improve
    from rpl_train.tasks import load_task

    old, task, new, work = load_bundle(asked.bundle), load_task(asked.task_name), asked.new, asked.folder
    settings = asked.settings(task)
    check_policy(old.spec, task)
    asked.check_place()
    seen = _runs_of(old, asked.logs, task, by_hand=not asked.demos)
    trained = _networks(old, asked.base, task)
    tuning = as_learned(settings.improve, old.manifest.provenance)
    with progress(stays=True) as report:
        taught = _taught(old, asked.demos, task, work / "play", tuning.jobs, report)
        policy, record = improve(task, trained, old.digest, taught, seen, work, tuning, losses(report, tuning.steps))
        spec = record.spec.model_copy(update={"name": new.absolute().name})
        export(
            *(policy, spec, record.provenance, new, record.statistics, settings.parity, task),
            on_batch=partial(report, "compared batches"),
        )
        if stall := old.manifest.stall:
            add_stall(load_bundle(new), task, StallConfig(rate=stall.rate))
        protocol = EvaluateConfig(episodes=asked.episodes, jobs=tuning.jobs)
        comparison, evaluation = play_both(asked.bundle, new, task, protocol, work, report)
    attach_evaluation(load_bundle(new), evaluation)
    write_json(work / "comparison.json", comparison)

    def table() -> None:
        typer.echo(f"{new} is written, and {asked.bundle} is as it was")
        print_comparison(comparison)

    show(asked.as_json, comparison, table)


def _runs_of(old: "Bundle", logs: list[Path], task: "Task", by_hand: bool) -> "Demonstrations":
    """The logged runs of a bundle; with `by_hand` they are refused if a pilot decided none of their steps."""
    from rpl_train.data.logs import is_log
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.improve import check_hands, split

    if others := [path for path in logs if not is_log(path)]:
        raise InvalidInput(f"{others[0]} holds no logs; must be a file of `rpl run --log` or a folder of them (*.mcap)")
    seen = load_demonstrations(logs, task, old.digest)
    if by_hand:
        check_hands(split(seen.trajectories, old.spec))
    return seen


def _networks(old: "Bundle", base: Path | None, task: "Task") -> "TrainedRun":
    """The networks of a bundle: of the run that it was exported from, or from its graphs."""
    from rpl_train.export.restore import check_same, restore
    from rpl_train.runs import load_run

    if base is None:
        return restore(old, task.reference)
    trained = load_run(base)
    check_same(old, trained.policy)
    return trained


def _taught(
    old: "Bundle", demos: list[Path] | None, task: "Task", play: Path, jobs: int, report: "Report"
) -> "Demonstrations":
    """What a bundle learned from, or played again into a folder; stderr says if it is something else."""
    from rpl_runtime.console import say
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.export.novelty import check_sources
    from rpl_train.improve import played_again

    paths = demos or played_again(old, task, play, jobs, lambda done, total: report("sequences", done, total))
    taught = load_demonstrations(paths, task)
    try:
        check_sources(old.path, old.manifest.provenance, taught)
    except DemonstrationError as error:
        say(f"note: {error}; it stays as it is in the states of those that are there", err=True)
    return taught
