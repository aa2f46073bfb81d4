"""Policy distillation: the specialists of many goals become one goal-conditioned policy.

Each level minimises KL(teacher || student) (Rusu et al., Policy Distillation, ICLR 2016; here between Gaussians or
mixtures, formula in rl/npg.py) over the states of whole episodes. The teachers play the first round, the student the
others; the teacher of its goal labels every episode (DAgger, Ross et al., AISTATS 2011). The likelihood of the
relabelled demonstrations is added, so that goals without a teacher are not forgotten. Components of mixtures are
compared one to one, since teachers and student all start from those of the imitated policy.

A level in which no specialist differs from the imitated policy keeps its weights. Each round's episodes and its result
are saved, so an interrupted run goes on with the same round.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rpl_runtime.errors import TrainingError
from rpl_runtime.files import alone_in
from rpl_runtime.jobs import Executor, Job, run_jobs
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.tasks.task import Task, World
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations, merged
from rpl_train.data.trajectory import digest
from rpl_train.networks import CPU, HighLevel, LowLevel, Mixture, RelayPolicy, divergence, tensors, torch_device
from rpl_train.rl.experience import Explorer
from rpl_train.rl.rollout import TRAINING_SEEDS, Episode, Start, open_worlds, rollout
from rpl_train.runs import (
    DEMONSTRATIONS,
    LEVELS,
    LevelName,
    RunRecord,
    TrainedRun,
    build_policy,
    differences,
    load_modules,
    load_run,
    load_tensors,
    noted,
    open_run,
    save_modules,
    save_tensors,
    save_weights,
    weights_digest,
)
from rpl_train.tasks import load_task

_PACKAGES = ("relay-policy", "torch", "numpy")
_ROUND = "round.safetensors"  # the student after its last finished round
_DATA = "episodes-{}.safetensors"  # the lessons of a round

Lessons = dict[str, Tensor]  # of one level: its inputs (N, .) by name, and the teacher's mixture for each
Arrays = dict[str, np.ndarray]  # tensors on their way to another process, where torch would share their memory


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Settings of distillation."""

    rounds: int = 3  # the teachers play the first, the student the others
    episodes: int = 16  # of each goal in a round; half take the modes, half sample the low level
    steps: int = 6_000  # optimiser steps a round
    batch: int = 1024
    demonstrated: float = 1.0  # weight of the demonstrations' likelihood beside the divergence
    learning_rate: float = 3e-4  # at the beginning of a round; then a cosine to zero
    worlds: int = 16  # side by side; another number may change the last bit of a result
    start: str | None = None  # by name; None: the last of the task's
    jobs: int = 1  # goals that are played side by side
    executor: Executor = "local"
    device: str = CPU  # of torch, for the student; another may change the last bits of its weights
    seed: int = 0
    pool: PoolConfig = field(default_factory=PoolConfig)


def distill(
    task: Task,
    base: TrainedRun,
    demonstrations: Demonstrations,
    specialists: Mapping[str, TrainedRun],
    run: Path,
    config: DistillConfig,
    progress: Callable[[int, str], None] = lambda round_, what: None,
) -> TrainedRun:
    """Distil the specialists, by the names of their goals, into the folder `run`, or go on there.

    `progress` is called as progress(round, "playing" or "learning") when a round begins to do so, from round 0 on.

    Raises:
        InvalidInput: another command trains in the folder, torch's device is not there, or a world shows a state that
            is not finite.
        InvalidGoal: a specialist's goal is not the task's.
        TrainingError: the folder holds another run, a specialist comes from another base, or a loss is not
            finite.
    """
    device = torch_device(config.device)
    torch.set_num_threads(1)  # the order of a sum, and so the last bit of a weight, depends on it
    for goal, trained in specialists.items():
        if different := differences(trained.record, base.record):
            raise TrainingError(
                f"the specialist of {goal} comes from another policy ({', '.join(different)} differ); it must be "
                "fine-tuned from the base"
            )
    levels: list[LevelName] = [
        level for level in LEVELS if any(_differ(level, base, trained) for trained in specialists.values())
    ]
    with alone_in(run):
        open_run(run, _record(task, base.record, demonstrations, specialists, config))
        if (run / "low.safetensors").exists():
            return load_run(run)
        student = copy.deepcopy(base.policy)  # the base stays as it was
        modules = {"high": student.high.to(device), "low": student.low.to(device)}
        pool = Pool(demonstrations.trajectories, base.record.spec, config.pool)
        first = load_modules(run / _ROUND, modules)
        lessons = [load_lessons(run, index) for index in range(first)]
        for index in range(first, config.rounds):
            progress(index, "playing")
            lessons.append(_play(task, index, student, specialists, levels, base.record, run, config))
            progress(index, "learning")
            for level in levels:
                _learn(index, level, modules[level], [lesson[level] for lesson in lessons], pool, config)
            save_modules(run / _ROUND, modules, index + 1)
        for level in LEVELS:
            save_weights(run / f"{level}.safetensors", modules[level])
        for path in (run / _ROUND, *run.glob(_DATA.format("*"))):
            path.unlink()
        return load_run(run)


def _record(
    task: Task,
    base: RunRecord,
    demonstrations: Demonstrations,
    specialists: Mapping[str, TrainedRun],
    config: DistillConfig,
) -> RunRecord:
    settings = noted(config) | {DEMONSTRATIONS: digest(demonstrations.trajectories)}
    taught = [trained.record.provenance.data for trained in specialists.values()]
    teachers = {
        goal: {
            "weights": weights_digest(trained.policy),
            "fine-tuning": trained.record.provenance.settings,
            "commit": trained.record.provenance.commit,
        }
        for goal, trained in specialists.items()
    }
    provenance = Provenance(
        command=command(),
        commit=commit(),
        seeds=(config.seed,),
        data=merged(base.provenance.data, demonstrations.sources, *taught),
        settings=settings | {"imitation": base.provenance.settings, "specialists": teachers},
        packages=versions([*_PACKAGES, *task.packages]),
    )
    return base.model_copy(update={"provenance": provenance})


def _play(
    task: Task,
    round_: int,
    student: RelayPolicy,
    specialists: Mapping[str, TrainedRun],
    levels: Sequence[LevelName],
    base: RunRecord,
    run: Path,
    config: DistillConfig,
) -> dict[LevelName, Lessons]:
    """Play a round's episodes and label them. Returns each level's lessons."""
    orders: list[_Order] = []
    for number, (goal, trained) in enumerate(specialists.items()):
        rng = np.random.default_rng([config.seed, round_, number])
        seeds = rng.choice(TRAINING_SEEDS, config.episodes, replace=False).tolist()
        starts = [
            Start(task.parse_goal(goal).elements, seed, sampling=seed if place % 2 else None)
            for place, seed in enumerate(seeds)
        ]
        orders.append(_Order(student if round_ else trained.policy, trained.policy, tuple(starts), tuple(levels)))
    if config.jobs == 1 and config.executor == "local":
        with open_worlds(task, min(config.worlds, config.episodes)) as worlds:
            lessons = [_taught(order, task, base.spec, worlds, config) for order in orders]
    else:
        sent = [(task.reference, base, order.packed(), config) for order in orders]
        work = [Job(goal, _taught_there, arguments) for goal, arguments in zip(specialists, sent, strict=True)]
        lessons = [_unpacked(each) for each in run_jobs(work, config.executor, config.jobs)]
    whole: dict[LevelName, Lessons] = {level: _together([each[level] for each in lessons]) for level in levels}
    flat = {f"{level}/{name}": values for level, lessons in whole.items() for name, values in lessons.items()}
    save_tensors(run / _DATA.format(round_), flat)
    return whole


class _Order(NamedTuple):
    """The episodes of a goal in a round."""

    player: Any  # RelayPolicy, or its weights on the way to another process
    teacher: Any
    starts: tuple[Start, ...]
    levels: tuple[LevelName, ...]

    def packed(self) -> "_Order":
        """The same with weights as arrays."""
        player, teacher = (
            {
                level: {key: value.cpu().numpy() for key, value in getattr(policy, level).state_dict().items()}
                for level in LEVELS
            }
            for policy in (self.player, self.teacher)
        )
        return self._replace(player=player, teacher=teacher)

    def unpacked(self, base: RunRecord) -> "_Order":
        """The same with policies of the base's architecture."""
        player, teacher = build_policy(base), build_policy(base)
        for policy, weights in ((player, self.player), (teacher, self.teacher)):
            for level, state in _unpacked(weights).items():
                getattr(policy, level).load_state_dict(state)
        return self._replace(player=player, teacher=teacher)


def _taught(
    order: _Order, task: Task, spec: PolicySpec, worlds: Sequence[World], config: DistillConfig
) -> dict[LevelName, Lessons]:
    episodes = rollout(Explorer(order.player, ("low",)), spec, task, order.starts, worlds, start=config.start)
    return label(order.teacher, episodes, spec.horizon, order.levels)


def _taught_there(task_name: str, base: RunRecord, order: _Order, config: DistillConfig) -> dict[LevelName, Arrays]:
    torch.set_num_threads(1)  # as in the process that learns
    task = load_task(task_name)
    with open_worlds(task, min(config.worlds, config.episodes)) as worlds:
        lessons = _taught(order.unpacked(base), task, base.spec, worlds, config)
    return {level: {name: values.numpy() for name, values in each.items()} for level, each in lessons.items()}


def _unpacked(arrays: dict[LevelName, Arrays]) -> dict[LevelName, Lessons]:
    return {level: {name: torch.tensor(array) for name, array in each.items()} for level, each in arrays.items()}


def _together(parts: Sequence[Lessons]) -> Lessons:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load_lessons(run: Path, round_: int) -> dict[LevelName, Lessons]:
    """Each level's lessons of a round that was played."""
    flat = load_tensors(run / _DATA.format(round_))
    return {
        level: {key.removeprefix(f"{level}/"): values for key, values in flat.items() if key.startswith(f"{level}/")}
        for level in LEVELS
    }


@torch.no_grad()
def label(
    teacher: RelayPolicy, episodes: Sequence[Episode], horizon: int, levels: Sequence[LevelName] = LEVELS
) -> dict[LevelName, Lessons]:
    """Label episodes with the teacher's actions in every state, and its plans at every `horizon`-th step."""
    states = torch.from_numpy(np.concatenate([episode.states for episode in episodes]))
    subgoals = torch.from_numpy(np.concatenate([episode.subgoals for episode in episodes]))
    planned = torch.from_numpy(np.concatenate([episode.states[::horizon] for episode in episodes]))
    plans = [len(episode.states[::horizon]) for episode in episodes]
    goals = torch.from_numpy(np.repeat([episode.goal.state for episode in episodes], plans, axis=0))
    masks = torch.from_numpy(np.repeat([episode.goal.mask for episode in episodes], plans, axis=0))
    given: dict[LevelName, tuple[torch.nn.Module, Lessons]] = {
        "low": (teacher.low, {"state": states, "subgoal": subgoals}),
        "high": (teacher.high, {"state": planned, "goal": goals, "mask": masks}),
    }
    lessons: dict[LevelName, Lessons] = {}
    for level in levels:
        module, inputs = given[level]
        logits, mean, log_std = _distribution(module, inputs)
        lessons[level] = inputs | {"logits": logits, "mean": mean, "log_std": log_std.expand(len(mean), -1)}
    return lessons


def _differ(level: LevelName, base: TrainedRun, trained: TrainedRun) -> bool:
    """Whether a specialist's level has other weights than the base's."""
    ours, theirs = (getattr(run.policy, level).state_dict() for run in (base, trained))
    return any(not values.equal(theirs[name]) for name, values in ours.items())


def _distribution(module: torch.nn.Module, inputs: Lessons) -> Mixture:
    """A level's distribution; inputs are given by name, since files lose their order."""
    assert isinstance(module, (HighLevel, LowLevel))
    return module.distribution(**inputs).mixture()


def _learn(
    round_: int,
    level: str,
    module: torch.nn.Module,
    lessons: Sequence[Lessons],
    pool: Pool,
    config: DistillConfig,
) -> None:
    """Train a level on the lessons of every round so far."""
    whole = {name: values.to(config.device) for name, values in _together(lessons).items()}
    taught = Mixture(*(whole.pop(name) for name in Mixture._fields))
    draw = pool.high_batch if level == "high" else pool.low_batch
    optimiser = torch.optim.Adam(module.parameters(), lr=config.learning_rate)
    for step in range(config.steps):
        rng = np.random.default_rng([config.seed, round_, LEVELS.index(level), step])
        rows = torch.from_numpy(rng.integers(len(taught.mean), size=config.batch))
        student = _distribution(module, {name: values[rows] for name, values in whole.items()})
        loss = divergence(Mixture(*(values[rows] for values in taught)), student).mean()
        demonstrated = tensors(module, *draw(rng, config.batch))
        loss = loss - config.demonstrated * module.log_prob(*demonstrated).mean()  # type: ignore[operator]
        if not torch.isfinite(loss):
            raise TrainingError(f"the {level} level's loss is {loss.item()} in round {round_ + 1}, step {step}")
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
