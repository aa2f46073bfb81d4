"""A specialist for each of many goals, side by side.

In: the run that all start from, the demonstrations it learned from, and the letters of the goals. Out: a run folder for
each goal, and what is in them. It does not know how a goal is fine-tuned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal
from rpl_train.data.sources import load_demonstrations
from rpl_train.jobs import Job, run_jobs
from rpl_train.rl.finetune import FinetuneConfig, finetune
from rpl_train.runs import TrainedRun, load_run


@dataclass(frozen=True)
class SpecialiseConfig:
    """How the goals are fine-tuned: as IRIL-RPL, at the low level, for completion (finetune.py has the settings)."""

    goals: tuple[str, ...] = PAPER_GOALS
    env_steps: int = 120_000  # of each
    seed: int = 0
    jobs: int = 2


def specialise(
    base: Path,
    demonstrations: Sequence[Path],
    folder: Path,
    config: SpecialiseConfig,
    progress: Callable[[int, str], None] = lambda finished, goal: None,
) -> dict[str, TrainedRun]:
    """Fine-tune each goal into FOLDER/GOAL, or go on where it was broken off; calls progress(finished, goal).

    Raises:
        TrainingError: a goal failed; the others were brought to their end.
    """
    finished = count(1)
    jobs = [Job(goal, _one, (base, tuple(demonstrations), folder / goal, goal, config)) for goal in config.goals]
    run_jobs(jobs, workers=config.jobs, progress=lambda job, result: progress(next(finished), job.name))
    return {goal: load_run(folder / goal) for goal in config.goals}


def _one(base: Path, demonstrations: Sequence[Path], run: Path, goal: str, config: SpecialiseConfig) -> None:
    settings = FinetuneConfig(compound_goal(goal), "iril", env_steps=config.env_steps, seed=config.seed)
    finetune(load_run(base), load_demonstrations(list(demonstrations)), run, settings)
