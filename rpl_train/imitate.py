"""Relay imitation learning: both levels maximise the likelihood of the demonstrations (Gupta et al., CoRL 2019).

The high level learns subgoals: from a state and a goal, the state that the demonstration reaches a window of steps
later. The low level learns actions: from a state and a subgoal, what the demonstrator did. relabel.py says which tuples
these are, and augment.py draws batches of them.

Batches depend on the seed and the step only, so an interrupted run ends in the same weights as an uninterrupted one.
The levels share nothing and are trained side by side. Losses leave out the constant d/2 log(2 pi) of a Gaussian.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from rpl_runtime.errors import InvalidInput, TrainingError
from rpl_runtime.files import JsonDict, alone_in
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.process import CONTEXT, end_with_parent, end_workers
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.tasks.task import Task
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory
from rpl_train.networks import CPU, CommandedGoal, NetworkConfig, TargetStatistics, tensors, torch_device
from rpl_train.runs import (
    LEVELS,
    LevelName,
    RunRecord,
    TrainedRun,
    build_level,
    load_progress,
    load_run,
    load_weights,
    noted,
    open_run,
    save_progress,
    save_weights,
    weights_digest,
)

_PACKAGES = ("relay-policy", "torch", "numpy")
_WARM_UP = 200  # [steps]

Progress = Callable[[LevelName, int, float | None], None]  # level, steps done, recent loss; None: trained before
Loss = Callable[[np.random.Generator], Tensor]  # of a batch that the generator draws


@dataclass(frozen=True, kw_only=True)
class DescentConfig:
    """How both levels descend their loss.

    Raises:
        InvalidInput: a number is out of its range.
    """

    steps: int = 20_000  # optimiser steps of each level
    batch: int = 512
    learning_rate: float = 1e-3  # peak, after a linear warm-up; then a cosine to zero
    seed: int = 0
    checkpoint_every: int = 1_000  # [steps]
    report_every: int = 100  # [steps]
    jobs: int = 2  # processes; with two or more the levels are trained side by side
    device: str = CPU  # of torch; another may change the last bits of the weights

    def __post_init__(self) -> None:
        most = 2**31 - 1
        ranges = {"steps": (1, most), "batch": (1, 2**20), "seed": (0, most), "checkpoint_every": (1, most)}
        ranges |= {"report_every": (1, most), "jobs": (1, 1024)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise InvalidInput(f"{name} of the training is {getattr(self, name)}; must be {least} to {most}")
        if not 0 <= self.learning_rate < math.inf:
            got = f"learning_rate of the training is {self.learning_rate}"
            raise InvalidInput(f"{got}; must be a finite number from 0 on")

    def settings(self) -> JsonDict:
        """Those with an effect on the weights, as provenance records them."""
        return noted(self)


@dataclass(frozen=True, kw_only=True)
class ImitateConfig(DescentConfig):
    """Settings of imitation, the same for both levels."""

    networks: NetworkConfig = field(default_factory=NetworkConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)


def imitate(
    demonstrations: Demonstrations,
    task: Task,
    run: Path,
    config: ImitateConfig,
    progress: Progress,
    initial: Path | None = None,
) -> TrainedRun:
    """Train both levels of a policy for a task into the folder `run`, or go on where an earlier call was interrupted.

    Args:
        initial: the folder of a finished run with the same networks, whose weights are the first ones.

    Raises:
        DemonstrationError: the demonstrations do not fit the task.
        InvalidInput: another command trains in the folder, torch's device is not there, or relative networks are asked
            for where actions are not position targets.
        TrainingError: the folder holds another run, `initial` holds none that fits, a loss is not finite, or a level's
            process was killed.
    """
    torch_device(config.device)
    spec = config.networks.sized(task.spec)
    pool = Pool(demonstrations.trajectories, spec, config.pool)
    first = None if initial is None else weights_digest(load_run(initial).policy)
    record = RunRecord(
        spec=spec,
        networks=config.networks,
        statistics=pool.statistics,
        targets=_target_statistics(pool, config.networks),
        provenance=Provenance(
            command=command(),
            commit=commit(),
            seeds=(config.seed,),
            data=tuple(demonstrations.sources),
            settings=config.settings() | {"task": task.reference or task.name, "initial": first},
            packages=versions(_PACKAGES),
        ),
        task=task.reference or task.name,
        subgoal_dims=task.subgoal_dims,
    )
    with alone_in(run):
        open_run(run, record)
        train = partial(_imitate_level, demonstrations.trajectories, record, run, config, initial)
        train_levels(train, config.jobs, progress)
        return load_run(run)


def _target_statistics(pool: Pool, networks: NetworkConfig) -> TargetStatistics:
    targets, commanded = pool.timeline.targets, list(pool.spec.commanded)
    if networks.relative:
        if not commanded:
            raise InvalidInput(
                "networks.relative is true for actions that are not position targets; must be false, or each action "
                "dimension must have the name of a state dimension"
            )
        targets = targets - pool.timeline.states[:, commanded]
    return TargetStatistics(*(tuple(map(float, f(targets, axis=0))) for f in (np.mean, np.std)))


def train_levels(train: Callable[[LevelName, Progress], None], jobs: int, progress: Progress) -> None:
    """Train both levels; with several jobs each in its own process, whose reports are passed on by this one.

    Raises:
        TrainingError: a level's process was killed.
    """
    if jobs == 1:
        for level in LEVELS:
            train(level, progress)
        return
    manager = SyncManager(ctx=CONTEXT)
    manager.start(end_with_parent)
    with manager, ProcessPoolExecutor(len(LEVELS), CONTEXT, end_with_parent) as executor:
        reports = manager.Queue()
        try:
            running: set[Future[None]] = {executor.submit(train, level, _Report(reports)) for level in LEVELS}
            while running:
                finished, running = wait(running, timeout=0.2)
                while not reports.empty():
                    progress(*reports.get())
                for future in finished:
                    future.result()
        except BrokenProcessPool as error:
            raise TrainingError("a level's process was killed; run the same command again to go on") from error
        except KeyboardInterrupt:
            end_workers()
            raise


@dataclass(frozen=True)
class _Report:
    """The progress of a level in a process of its own, put into the queue that the first process reads."""

    reports: Any

    def __call__(self, level: LevelName, step: int, loss: float | None) -> None:
        self.reports.put((level, step, loss))


def _imitate_level(
    demonstrations: Sequence[Trajectory],
    record: RunRecord,
    run: Path,
    config: ImitateConfig,
    initial: Path | None,
    level: LevelName,
    progress: Progress,
) -> None:
    """Train a level to give the demonstrations' subgoals (high) or actions (low) the largest likelihood."""

    def prepare() -> tuple[nn.Module, Loss]:
        pool = Pool(demonstrations, record.spec, config.pool)
        draw = pool.high_batch if level == "high" else pool.low_batch
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            module = build_level(level, record).to(config.device)
        if initial is not None:
            load_weights(initial / f"{level}.safetensors", module)

        def loss(rng: np.random.Generator) -> Tensor:
            return -module.log_prob(*tensors(module, *draw(rng, config.batch))).mean()  # type: ignore[operator]

        return module, loss

    train_level(level, run, config, prepare, progress)


def train_level(
    level: LevelName,
    run: Path,
    config: DescentConfig,
    prepare: Callable[[], tuple[nn.Module, Loss]],
    progress: Progress,
) -> None:
    """Train a level into its run, or go on where an earlier call was interrupted.

    `prepare` returns its module and the loss to descend; it is called only if the level is not finished.

    Raises:
        TrainingError: the loss is not finite.
    """
    if (run / f"{level}.safetensors").exists():
        progress(level, config.steps, None)
        return
    torch.set_num_threads(1)  # the order of a sum, and so the last bit of a weight, depends on it
    module, loss = prepare()
    if isinstance(module, CommandedGoal):  # the goal itself is the subgoal, so nothing is learned
        save_weights(run / f"{level}.safetensors", module)
        progress(level, config.steps, None)
        return
    optimiser = torch.optim.Adam(module.parameters(), lr=config.learning_rate)
    resume = run / f"{level}.resume.safetensors"
    first = load_progress(resume, module, optimiser)
    recent = []
    with SummaryWriter(str(run / "tensorboard" / level)) as board:
        for step in range(first, config.steps):
            rng = np.random.default_rng([config.seed, LEVELS.index(level), step])
            recent.append(_descend(loss(rng), optimiser, _learning_rate(config, step)))
            if not math.isfinite(recent[-1]):
                good = step - step % config.checkpoint_every
                raise TrainingError(
                    f"the {level} level's loss is {recent[-1]} at step {step}; "
                    + (f"the checkpoint of step {good} is the last good one" if good else "there is no checkpoint yet")
                )
            if (step + 1) % config.checkpoint_every == 0:
                save_progress(resume, module, optimiser, step + 1)
            if (step + 1) % config.report_every == 0 or step + 1 == config.steps:
                mean = sum(recent) / len(recent)
                board.add_scalar("negative log-likelihood without constant", mean, step + 1)
                progress(level, step + 1, mean)
                recent.clear()
    save_weights(run / f"{level}.safetensors", module)
    resume.unlink(missing_ok=True)


def _descend(loss: Tensor, optimiser: torch.optim.Optimizer, rate: float) -> float:
    """One step of gradient descent on a loss. Returns its value."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def _learning_rate(config: DescentConfig, step: int) -> float:
    """The rate at a step: a short linear warm-up times a cosine to zero."""
    warm_up = min(1.0, (step + 1) / _WARM_UP)
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / config.steps))
