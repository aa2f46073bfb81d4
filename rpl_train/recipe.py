"""The whole of `rpl train`: demonstrations -> imitate -> fine-tune -> distil -> export.

Every stage saves its result in the folder of the run, so a recipe that was interrupted goes on where it stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rpl_runtime.tasks.kitchen.elements import STATE_DIM, kitchen_spec
from rpl_train.data.sources import Demonstrations
from rpl_train.distill import DistillConfig, distill
from rpl_train.export.export import ExportResult, export
from rpl_train.export.parity import ParityConfig
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.rl.finetune import FinetuneConfig
from rpl_train.runs import TrainedRun
from rpl_train.specialists import specialise
from rpl_train.tasks.kitchen.play import PlayConfig, play
from rpl_train.tasks.kitchen.recordings import load_demonstrations

Report = Callable[[str, int, int, str], None]  # what, how many are finished, of how many, a remark


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What to train, and how each stage works."""

    run: Path
    bundle: Path
    name: str  # what a server calls the policy
    demonstrations: tuple[Path, ...] = ()  # without any, scripted play is made first
    play: PlayConfig = field(default_factory=PlayConfig)
    imitation: ImitateConfig = field(default_factory=ImitateConfig)
    specialists: Mapping[str, FinetuneConfig] = field(default_factory=dict)  # by the goal's letters; none: imitate only
    jobs: int = 2  # goals that are fine-tuned side by side
    distillation: DistillConfig = field(default_factory=DistillConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)

    @property
    def last_run(self) -> Path:
        """The folder of the run that is exported."""
        return self.run / "distilled" if self.specialists else self.run


def train(config: RecipeConfig, report: Report) -> ExportResult:
    """Train a policy of the kitchen and write its bundle, in place of one that is there already.

    Raises:
        DemonstrationError: a recording cannot be read.
        InvalidInput: another command trains in the folder.
        TrainingError: a folder holds another run, or a stage failed.
        ParityError: the exported graphs differ from the trained modules.
    """
    paths = config.demonstrations
    if not paths:
        played = play(config.play, config.run / "play", lambda done, total: report("sequences", done, total, ""))
        paths = (played.folder,)
    demonstrations = load_demonstrations(paths)

    trained = imitate_kitchen(demonstrations, config.run, config.imitation, report)

    if config.specialists:
        goals, rounds = len(config.specialists), config.distillation.rounds
        report("goals", 0, goals, "")
        specialists = specialise(
            config.run,
            paths,
            config.run / "specialists",
            config.specialists,
            config.jobs,
            lambda done, goal: report("goals", done, goals, goal),
        )
        trained = distill(
            trained,
            demonstrations,
            specialists,
            config.last_run,
            config.distillation,
            lambda done, what: report("rounds", done, rounds, what),
        )

    policy, record = trained
    spec = record.spec.model_copy(update={"name": config.name})
    return export(policy, spec, record.provenance, config.bundle, record.statistics, config.parity)


def imitate_kitchen(demonstrations: Demonstrations, run: Path, config: ImitateConfig, report: Report) -> TrainedRun:
    """The stage of imitation by itself. Raises as `imitate` does."""

    def progress(level: str, step: int, loss: float | None) -> None:
        report(f"{level} level", step, config.steps, "trained before" if loss is None else f"loss {loss:.3f}")

    spec = kitchen_spec("kitchen", high_noise=config.networks.high_noise(STATE_DIM))
    return imitate(demonstrations, spec, run, config, progress)
