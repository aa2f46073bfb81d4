"""Dataset aggregation: a policy learns from shifts, then drives in shifts, and learns from where it got to.

In the first round the demonstrator works alone. In each later one the policy of the round before drives at the
beginning of every goal, and the demonstrator shows the way from there (DAgger, Ross et al., AISTATS 2011). Relay
relabelling makes both levels' data from all rounds so far, and training goes on from the weights of the round before.

Every round is kept in the folder of the run:

    shifts-N    what was worked in round N
    round-N     the policy that learned from shifts-0 to shifts-N
    curve.json  how many goals it reached by itself
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.task import Task
from rpl_train.augment import PoolConfig
from rpl_train.data.recordings import load_demonstrations
from rpl_train.imitate import ImitateConfig, Progress, imitate
from rpl_train.play import PlayConfig, write_json
from rpl_train.runs import TrainedRun, read_run
from rpl_train.shifts.work import work_shifts


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """Settings of dataset aggregation.

    Raises:
        InvalidInput: a number is out of its range.
    """

    rounds: int = 3  # in which the policy drives, after the first
    first: int = 60  # shifts that the demonstrator works alone
    shifts: int = 45  # of each later round
    last: int = 30_000  # optimiser steps of each level in the last round, whose policy is the one that is kept
    imitate: ImitateConfig = field(  # of each round; its networks are those of the first weights
        default_factory=lambda: ImitateConfig(
            steps=5_000, pool=PoolConfig(low_noise=0.02, named_goals=0.7, end_goals=0.15, counterfactual=0.3)
        )
    )

    def __post_init__(self) -> None:
        for name, low in (("rounds", 0), ("first", 1), ("shifts", 1), ("last", 1)):
            if not low <= (value := getattr(self, name)) <= 1_000_000:
                raise InvalidInput(f"{name} of aggregation is {value}; must be {low} to 1000000")


def aggregate(
    task: Task,
    paths: Sequence[Path],
    run: Path,
    play: PlayConfig,
    config: AggregateConfig,
    initial: Path,
    progress: Callable[[int, str, int, int], None] = lambda round_, what, finished, total: None,
) -> TrainedRun:
    """Train a policy of the task in rounds into the folder `run`, or go on where an earlier call was interrupted.

    Args:
        paths: demonstrations that every round learns from as well.
        play: seed and processes of the shifts; round N has the seed N further.
        initial: the run whose weights are the first ones, such as the imitation of sequences of play.
        progress: called as progress(round, what, finished, total).

    Raises:
        InvalidInput: the task's demonstrator works no shifts, or another command works in a folder of the run.
        DemonstrationError: a demonstration cannot be read, or a shift cannot be written.
        TrainingError: a folder holds another run, or a loss is not finite.
    """
    trained, before, worked, curve = None, initial, list[Path](), []
    imitation = replace(config.imitate, networks=read_run(initial).networks)
    for round_ in range(config.rounds + 1):
        shifts = replace(play, seed=play.seed + round_, shifts=config.shifts if round_ else config.first)
        worked.append(run / f"shifts-{round_}")
        result = work_shifts(task, shifts, worked[-1], before if round_ else None, partial(progress, round_, "shifts"))
        facts = result.facts()
        curve.append(
            {"round": round_, "reached alone": result.alone, "works": facts["works"], "finished": facts["finished"]}
        )
        write_json(run / "curve.json", curve)
        demonstrations = load_demonstrations([*paths, *worked], task)
        folder = run / f"round-{round_}"
        learning = replace(imitation, steps=config.last) if round_ == config.rounds else imitation
        losses = _losses(progress, round_, learning.steps)
        trained = imitate(demonstrations, task, folder, learning, losses, before)
        before = folder
    assert trained is not None
    return trained


def _losses(progress: Callable[[int, str, int, int], None], round_: int, steps: int) -> Progress:
    return lambda level, step, loss: progress(round_, f"{level} level", step, steps)
