"""The whole of `rpl train`: demonstrations -> imitate -> fine-tune and distil, or aggregate -> export.

Every stage saves its result in the folder of the run, so a recipe that was interrupted goes on where it stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rpl_runtime.jobs import Executor
from rpl_runtime.tasks.task import Task
from rpl_train.data.recordings import load_demonstrations
from rpl_train.distill import DistillConfig, distill
from rpl_train.export.export import ExportResult, export
from rpl_train.export.parity import ParityConfig
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.play import PlayConfig, play
from rpl_train.rl.finetune import FinetuneConfig
from rpl_train.runs import TrainedRun
from rpl_train.shifts.aggregate import AggregateConfig, aggregate
from rpl_train.specialists import specialise

Report = Callable[[str, int, int, str], None]  # what, how many are finished, of how many, a remark


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What to train, and how each stage works."""

    task: Task
    run: Path
    bundle: Path
    name: str  # what a server calls the policy
    demonstrations: tuple[Path, ...] = ()  # without any, the task's demonstrator plays first
    play: PlayConfig = field(default_factory=PlayConfig)
    imitate: ImitateConfig = field(default_factory=ImitateConfig)
    finetune: Mapping[str, FinetuneConfig] = field(default_factory=dict)  # by the goal's name; none: imitate only
    jobs: int = 2  # goals that are fine-tuned side by side
    executor: Executor = "local"
    distill: DistillConfig = field(default_factory=DistillConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    aggregate: AggregateConfig | None = None  # in place of fine-tuning

    @property
    def last_run(self) -> Path:
        """The folder of the run that is exported."""
        if self.aggregate:
            return self.run / f"round-{self.aggregate.rounds}"
        return self.run / "distilled" if self.finetune else self.run


def train(config: RecipeConfig, report: Report) -> ExportResult:
    """Train a policy of the task and write its bundle, in place of one that is there already.

    Raises:
        DemonstrationError: a recording cannot be read, or is of another task.
        InvalidInput: another command trains in the folder, or the task has no demonstrator and nothing is named.
        TrainingError: a folder holds another run, or a stage failed.
        JobsFailed: sequences or goals failed; the others were run to their end.
        ParityError: the exported graphs differ from the trained modules.
    """
    task, goals, rounds = config.task, len(config.finetune), config.distill.rounds

    paths = config.demonstrations
    if not paths:
        paths = (
            play(task, config.play, config.run / "play", lambda n, total: report("sequences", n, total, "")).folder,
        )
    demonstrations = load_demonstrations(paths, task)

    def losses(level: str, step: int, loss: float | None) -> None:
        report(f"{level} level", step, config.imitate.steps, "trained before" if loss is None else f"loss {loss:.3f}")

    trained = imitate(demonstrations, task, config.run, config.imitate, losses)

    if config.aggregate:
        trained = aggregate(
            *(task, paths, config.run, config.play, config.aggregate, config.run),
            lambda round_, what, n, total: report(f"round {round_}, {what}", n, total, ""),
        )
        return _exported(config, trained, report)

    if config.finetune:
        report("goals", 0, goals, "")
        specialists = specialise(
            *(task, config.run, paths, config.run / "specialists", config.finetune, config.jobs, config.executor),
            lambda done, goal: report("goals", done, goals, goal),
        )
        trained = distill(
            *(task, trained, demonstrations, specialists, config.last_run, config.distill),
            lambda done, what: report("rounds", done, rounds, what),
        )

    return _exported(config, trained, report)


def _exported(config: RecipeConfig, trained: TrainedRun, report: Report) -> ExportResult:
    policy, record = trained
    spec = record.spec.model_copy(update={"name": config.name})
    return export(
        *(policy, spec, record.provenance, config.bundle, record.statistics, config.parity, config.task),
        on_batch=lambda done, total: report("compared batches", done, total, ""),
    )
