"""Improve a policy by what hands did where it failed: train both levels on from its weights.

A run is split by who decided its steps. Relay relabelling takes each part as a demonstration of what it reached
(Algorithms 2 and 3), whatever was asked for. Windows end where the author changes: what a hand reached is not where the
policy's last action led.

Steps by hand have a fixed share of each batch, as IRIL gives its own episodes (rl/finetune.py), and are learned by
their likelihood. In all other tuples, of the demonstrations and of what the policy did, the policy is its own teacher:
the new one answers as the old one did, by policy distillation (Rusu et al., ICLR 2016). To imitate demonstrations would
pull it off what reinforcement, or rounds in which a policy drove, have taught it; hands of another style still may.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rpl_runtime.errors import DemonstrationError, InvalidInput
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
from rpl_train.networks import Level, divergence, tensors
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
_HELD = -3.0  # least log standard deviation in which a change of what the policy answers is measured
_MEASURED = 20  # batches of steps by hand to which a level's spread is widened


@dataclass(frozen=True, kw_only=True)
class ImproveConfig(DescentConfig):
    """Settings of improvement.

    Raises:
        InvalidInput: a number is out of its range.
    """

    steps: int = 8_000
    hand: float = 0.6  # share of the tuples from steps that a pilot decided
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hand < 1:
            raise InvalidInput(f"hand of the training is {self.hand}; must be a share between 0 and 1")


class Parts(NamedTuple):
    """What is learned from: demonstrations, and the parts of runs by their author."""

    demonstrations: list[Trajectory]
    own: list[Trajectory]
    hand: list[Trajectory]


def split(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Parts:
    """Split robots' runs where their author changes; demonstrations have none. A part of one step is left out.

    Advice to a policy that drove is left out too: this policy needs none where it is its own teacher.

    A part that ends before the elements asked for are done is cut: nobody came to rest there. A hand went to them. What
    the policy did before a hand stepped in is left out: it is no teacher there.
    """
    parts = Parts([], [], [])
    for whole in trajectories:
        if whole.subgoals is not None:
            continue
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
                cut=whole.cut or not (done and end == len(whole)),
            )
            if whole.authors[first] != POLICY:
                goal = spec.resolve(whole.elements, piece.states[0]).state if whole.elements else None
                parts.hand.append(replace(piece, goal=goal))
            elif end == len(whole) and not whole.cut:
                parts.own.append(piece)
    return parts


def as_learned(config: ImproveConfig, provenance: Provenance) -> ImproveConfig:
    """The settings with tuples drawn as those of a bundle were, where none but the default are asked for."""
    known = {each.name for each in fields(PoolConfig)}
    drawn = {name: value for name, value in provenance.settings.get("pool", {}).items() if name in known}
    return replace(config, pool=PoolConfig(**drawn)) if config.pool == PoolConfig() else config


def check_hands(parts: Parts) -> None:
    """Check that a hand decided some steps.

    Raises:
        DemonstrationError: no part is by hand.
    """
    if not parts.hand:
        raise DemonstrationError("the policy decided every step of the logs; needs two steps on end by a pilot")


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
        DemonstrationError: no part of the logs is by hand, or all else is too short to keep what the policy can do.
        InvalidInput: another command trains in the folder.
        TrainingError: the folder holds another run, a loss is not finite, or a level's process was killed.
    """
    spec, old = base.record.spec, base.record.provenance
    parts = split([*demonstrations.trajectories, *logs.trajectories], spec)
    check_hands(parts)
    pool = Pool(list(itertools.chain(*parts)), spec, config.pool)
    practised = slice(len(parts.demonstrations) + len(parts.own))
    if not (practised.stop and all(pool.count(level, practised) for level in LEVELS)):
        raise DemonstrationError(
            "demonstrations and what the policy did by itself are too short to keep what it can do; must be longer"
        )
    settings = config.settings() | {"task": task.reference or task.name, "improved": old.settings}
    settings |= {DEMONSTRATIONS: digest(demonstrations.trajectories), "logs": digest(logs.trajectories)}
    given = {source["digest"] for source in (*demonstrations.sources, *logs.sources)}
    named = [source for source in old.data if source["digest"] in given]  # as they are known
    provenance = Provenance(
        command=command(),
        commit=commit(),
        seeds=(config.seed,),
        data=merged(named, demonstrations.sources, logs.sources),
        settings=settings,
        packages=versions(_PACKAGES),
        parents=(bundle,),
    )
    # The networks keep the scales in their weights; the statistics are those of all that was learned from.
    record = base.record.model_copy(update={"provenance": provenance, "statistics": pool.statistics})
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
    first = run / _START.format(level)

    def prepare() -> tuple[nn.Module, Loss]:
        pool = Pool(list(itertools.chain(*parts)), record.spec, config.pool)
        draw: Callable[..., Sequence[np.ndarray]] = pool.high_batch if level == "high" else pool.low_batch
        module = build_level(level, record)
        load_weights(first, module)
        module.to(config.device)
        practised = slice(len(parts.demonstrations) + len(parts.own))
        by_hand = slice(practised.stop, None)
        if not isinstance(module, Level) or not pool.count(level, by_hand):
            # Nothing to learn, or hands too short for this level: it keeps its weights to the bit.
            return module, lambda rng: 0 * next(module.parameters()).sum()
        held, rng = module.log_std.detach().clamp(min=_HELD), np.random.default_rng(config.seed)
        count = max(1, round(config.batch * config.hand))
        noise = record.spec.high_noise if level == "high" else record.spec.low_noise
        _widen(module, [tensors(module, *draw(rng, count, by_hand)) for _ in range(_MEASURED)], noise)
        teacher = copy.deepcopy(module).requires_grad_(False)

        def loss(rng: np.random.Generator) -> Tensor:
            *given, _ = tensors(module, *draw(rng, config.batch - count, practised))
            before, after = (each.distribution(*given)._replace(log_std=held) for each in (teacher, module))
            learned = module.log_prob(*tensors(module, *draw(rng, count, by_hand)))
            return (divergence(before, after).sum() - learned.sum()) / config.batch

        return module, loss

    train_level(level, run, config, prepare, progress)
    module, trained = build_level(level, record), run / f"{level}.safetensors"
    if isinstance(module, Level):
        # It gets back the spread with which it began: the wider one was to learn by, not to explore with.
        load_weights(first, module)
        spread = module.log_std.detach().clone()
        load_weights(trained, module)
        module.log_std.data.copy_(spread)
        save_weights(trained, module)


@torch.no_grad()
def _widen(module: Level, batches: Sequence[list[Tensor]], noise: int) -> None:
    """Widen a level's spread to how far what is to be learned lies about its modes.

    Where nothing that it learned from moves a dimension, a level is so sure of it that a single kettle that tips over
    would outweigh all else.
    """
    *given, wanted = (torch.cat(columns) for columns in zip(*batches, strict=True))
    away = (wanted - module(*given, wanted.new_zeros(len(wanted), noise))) / module.scale
    module.log_std.copy_(torch.maximum(module.log_std, away.square().mean(0).sqrt().log()))


def played_again(bundle: Bundle, task: Task, folder: Path, jobs: int, report: Callable[[int, int], None]) -> list[Path]:
    """The demonstrations that a bundle learned from, played again by the task's demonstrator into a folder each.

    They may come out otherwise: on another processor, or since the demonstrator was changed.

    Raises:
        DemonstrationError: they were not played, or worked in shifts, in which a policy may have driven.
    """
    provenance, plays = bundle.manifest.provenance, list[tuple[Task, PlayConfig, Path]]()
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
        plays.append((player, config, folder / source["digest"][:12]))
    return [play(*each, report).folder for each in plays]
