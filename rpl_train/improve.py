"""Improve a policy by what robots did with it: relabel their runs, and train both levels on from its weights.

A run is split by who decided its steps. Relay relabelling takes each part as a demonstration of what it reached
(Algorithms 2 and 3), whatever was asked for. Windows end where the author changes: what a hand reached is not where the
policy's last action led.

The runs are weighed as IRIL weighs its own episodes (rl/finetune.py): a fixed share of the tuples comes from them, and
own tuples that are less likely than the least likely 5 % of the others get no gradient. The parts by hand start in the
states into which the policy got itself, so their tuples are unlikely and must be learned: they have a share of their
own, and keep their gradient.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.files import alone_in
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.tasks.task import Task
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations, merged
from rpl_train.data.trajectory import Trajectory, digest
from rpl_train.imitate import DescentConfig, Loss, Progress, train_level, train_levels
from rpl_train.networks import Level, tensors
from rpl_train.play import PlayConfig, play, with_settings
from rpl_train.runs import (
    DEMONSTRATIONS,
    LEVELS,
    LevelName,
    RunRecord,
    TrainedRun,
    build_level,
    load_run,
    load_weights,
    open_run,
    save_weights,
)

_PACKAGES = ("relay-policy", "torch", "numpy")
_START = "{}.start.safetensors"  # the weights from which a level goes on
_WIDENED = 20  # batches by which a level's spread is widened
_OUTER = 0.05  # own tuples below this quantile of the others' likelihood get no gradient


@dataclass(frozen=True, kw_only=True)
class ImproveConfig(DescentConfig):
    """Settings of improvement. A share whose part the runs lack goes to the others."""

    steps: int = 6_000
    hand: float = 0.4  # share of the tuples from steps that a pilot decided
    own: float = 0.1  # share of the tuples from steps that the policy decided
    pool: PoolConfig = field(default_factory=PoolConfig)


class Parts(NamedTuple):
    """What is learned from: demonstrations, and the parts of runs by their author."""

    demonstrations: list[Trajectory]
    hand: list[Trajectory]
    own: list[Trajectory]


def split(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Parts:
    """Split robots' runs where their author changes; demonstrations have none. A part of one step is left out.

    A part that ends before the elements asked for are done is cut: nobody came to rest there. A hand went to them.
    """
    parts = Parts([], [], [])
    for whole in trajectories:
        if not whole.authors:
            parts.demonstrations.append(whole)
            continue
        changes = [at for at, (one, other) in enumerate(itertools.pairwise(whole.authors), 1) if one != other]
        done = bool(whole.elements) and set(whole.elements) <= spec.done(whole.states[-1])
        for first, end in itertools.pairwise([0, *changes, len(whole)]):
            if end - first < 2:
                continue
            steps = slice(first, end)
            piece = replace(
                whole,
                states=whole.states[steps],
                targets=whole.targets[steps],
                authors=whole.authors[steps],
                cut=not (done and end == len(whole)),
            )
            if whole.authors[first] == POLICY:
                parts.own.append(piece)
            else:
                goal = spec.resolve(whole.elements, piece.states[0]).state if whole.elements else None
                parts.hand.append(replace(piece, goal=goal))
    return parts


def improve(
    task: Task,
    base: TrainedRun,
    bundle: str,
    demonstrations: Demonstrations,
    logs: Demonstrations,
    run: Path,
    config: ImproveConfig,
    progress: Progress,
) -> TrainedRun:
    """Train both levels of a bundle, named by its digest, on into the folder `run`, or go on there.

    Raises:
        DemonstrationError: nothing but the policy itself decided any step.
        InvalidInput: another command trains in the folder.
        TrainingError: the folder holds another run, a loss is not finite, or a level's process was killed.
    """
    spec, old = base.record.spec, base.record.provenance
    parts = split([*demonstrations.trajectories, *logs.trajectories], spec)
    if not (parts.demonstrations or parts.hand):
        raise DemonstrationError("the policy decided every step; needs demonstrations, or steps that a pilot decided")
    settings = config.settings() | {"task": task.reference or task.name, "improved": old.settings}
    settings |= {DEMONSTRATIONS: digest(demonstrations.trajectories), "logs": digest(logs.trajectories)}
    provenance = Provenance(
        command=command(),
        commit=commit(),
        seeds=(config.seed,),
        data=merged(old.data, demonstrations.sources, logs.sources),
        settings=settings,
        packages=versions(_PACKAGES),
        parents=(bundle,),
    )
    # The networks keep the scales in their weights; the statistics are those of all that was learned from.
    statistics = Pool(list(itertools.chain(*parts)), spec, config.pool).statistics
    record = base.record.model_copy(update={"provenance": provenance, "statistics": statistics})
    with alone_in(run):
        open_run(run, record)
        for level, module in zip(LEVELS, (base.policy.high, base.policy.low), strict=True):
            save_weights(run / _START.format(level), module)
        train_levels(partial(_improve_level, parts, record, run, config), config.jobs, progress)
        for level in LEVELS:
            (run / _START.format(level)).unlink()
        return load_run(run)


def _improve_level(
    parts: Parts, record: RunRecord, run: Path, config: ImproveConfig, level: LevelName, progress: Progress
) -> None:
    def prepare() -> tuple[nn.Module, Loss]:
        pool = Pool(list(itertools.chain(*parts)), record.spec, config.pool)
        draw: Callable[..., Sequence[np.ndarray]] = pool.high_batch if level == "high" else pool.low_batch
        module = build_level(level, record)
        load_weights(run / _START.format(level), module)
        module.to(config.device)
        drawn = _drawn(parts, config, lambda among: pool.count(level, among) > 0)
        own = drawn["own"][0] if "own" in drawn else 0

        def batch(rng: np.random.Generator) -> list[Tensor]:
            batches = [draw(rng, count, among) for count, among in drawn.values()]
            return tensors(module, *(np.concatenate(columns) for columns in zip(*batches, strict=True)))

        rng = np.random.default_rng(config.seed)
        noise = record.spec.high_noise if level == "high" else record.spec.low_noise
        if isinstance(module, Level):
            _widen(module, [batch(rng) for _ in range(_WIDENED)], noise)

        def loss(rng: np.random.Generator) -> Tensor:
            likelihood = module.log_prob(*batch(rng))  # type: ignore[operator]
            others = likelihood[: len(likelihood) - own]
            plausible = others.detach().quantile(_OUTER)
            return -torch.cat([others, likelihood[len(others) :].clamp(min=plausible)]).mean()

        return module, loss

    train_level(level, run, config, prepare, progress)


@torch.no_grad()
def _widen(module: Level, batches: Sequence[list[Tensor]], noise: int) -> None:
    """Widen a level's spread to that of what it is to learn about its modes.

    Where nothing that it learned from moves a dimension, a level is so sure of it that a single kettle that tips over
    would outweigh all else.
    """
    *given, wanted = (torch.cat(columns) for columns in zip(*batches, strict=True))
    away = (wanted - module(*given, wanted.new_zeros(len(wanted), noise))) / module.scale
    module.log_std.copy_(torch.maximum(module.log_std, away.square().mean(0).sqrt().log()))


def _drawn(parts: Parts, config: ImproveConfig, holds: Callable[[slice], bool]) -> dict[str, tuple[int, slice]]:
    """How many tuples of a batch are drawn from each part that holds some, and which demonstrations those are.

    Raises:
        DemonstrationError: only the policy's own part holds any.
    """
    shares = {"demonstrations": 1 - config.hand - config.own, "hand": config.hand, "own": config.own}
    there, end = dict[str, slice](), 0
    for name, part in parts._asdict().items():
        among = slice(end, end := end + len(part))
        if part and holds(among):
            there[name] = among
    if not there.keys() - {"own"}:
        raise DemonstrationError("what a pilot decided is too short; needs demonstrations, or more steps of a pilot")
    whole = sum(shares[name] for name in there)
    return {name: (max(1, round(config.batch * shares[name] / whole)), among) for name, among in there.items()}


def played_again(bundle: Bundle, task: Task, folder: Path, jobs: int, report: Callable[[int, int], None]) -> list[Path]:
    """The demonstrations that a bundle learned from, played again by the task's demonstrator into a folder each.

    They may come out otherwise: on another processor, or since the demonstrator was changed.

    Raises:
        DemonstrationError: they were not played, or worked in shifts, in which a policy may have driven.
    """
    provenance, paths = bundle.manifest.provenance, []
    for source in provenance.data:
        # Bundles of earlier versions do not record how the demonstrator was set.
        settings = source.get("play") or ({"seed": provenance.seeds[0]} if source.get("name") == "play" else None)
        if settings is None or "shifts" in settings or task.demonstrator is None:
            raise DemonstrationError(
                f"{bundle.path} learned from {source.get('name')}, which {task.name} cannot play again; "
                "name all that it learned from with --demos"
            )
        player = replace(task, demonstrator=with_settings(task.demonstrator, settings))
        config = PlayConfig(sequences=source["episodes"], seed=settings["seed"], jobs=jobs)
        paths.append(play(player, config, folder / source["digest"][:12], report).folder)
    return paths
