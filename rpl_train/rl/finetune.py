"""Relay reinforcement fine-tuning: one compound goal, natural policy gradient, either level or both.

Relay Policy Learning (Gupta et al., CoRL 2019) has three variants. npg follows the policy gradient alone. dapg adds the
likelihood of the relabelled demonstrations (after Rajeswaran et al., RSS 2018). iril adds that of every episode so far,
relabelled, as well. Each level has its own rewards, baseline and step.

In iteration k = 0, 1, ... a level climbs, over its N decisions with whitened advantages A_i and N tuples of the pool,

    1/N sum_i A_i log pi(a_i | s_i, g_i)  +  1/N sum_j lambda_0 lambda_1^k log pi(a_j | s_j, g_j)

so a tuple weighs as much as a decision whose advantage is lambda_0 lambda_1^k standard deviations, independent of the
number of demonstrations. Rajeswaran et al. sum over all M of their steps instead: their lambda_0 times M / N is ours.
The second sum is estimated from `likelihood_batch` tuples. The learning curve records its share of each step.

The pool of iril is D_l and D_h with D_l^i and D_h^i of every iteration i so far, at each level that learns. A fixed
share of its tuples, `own`, comes from its own episodes; by size they would soon be four fifths. If an object was
knocked away, relabelled tuples lie hundreds of standard deviations off, and a few of them would dominate the gradient.
So own tuples that are less likely than the least likely 5 % of the demonstrated ones get no gradient.

Episodes depend on the seed, the iteration and the weights only, so an interrupted run ends in the same weights.
"""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from rpl_runtime.errors import DemonstrationError, InvalidInput, TrainingError
from rpl_runtime.files import alone_in, staged
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.tasks.task import Task, World
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations, merged
from rpl_train.data.trajectory import Trajectory, digest, load_folder, save
from rpl_train.networks import CPU, HighLevel, LowLevel, RelayPolicy, tensors, torch_device
from rpl_train.rl.baseline import Baseline, advantages, informative
from rpl_train.rl.experience import Experience, Explorer, experience, feature_count
from rpl_train.rl.npg import NpgConfig, NpgStep, Samples, natural_step, require_learnable
from rpl_train.rl.rewards import RewardName, reward_for
from rpl_train.rl.rollout import TRAINING_SEEDS, Episode, Start, open_worlds, rollout
from rpl_train.runs import (
    DEMONSTRATIONS,
    LEVELS,
    LevelName,
    RunRecord,
    TrainedRun,
    build_level,
    load_modules,
    load_run,
    noted,
    open_run,
    round_to_half,
    save_modules,
    save_weights,
)

Objective = Literal["npg", "dapg", "iril"]
_PACKAGES = ("relay-policy", "torch", "numpy")
_EPISODES = "episodes"
_OUTER = 0.05  # own tuples below this quantile of the demonstrated ones' likelihood get no gradient
_NOTHING_TO_LEARN = "all episodes earned the same"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of fine-tuning.

    Raises:
        InvalidInput: a setting is invalid.
    """

    goal: tuple[str, ...]  # element names
    objective: Objective = "iril"
    levels: tuple[LevelName, ...] = ("low",)  # the levels that learn; another takes its modes
    scratch: tuple[LevelName, ...] = ()  # the levels that start from random weights
    reward: RewardName = "completion"
    high_reward: RewardName | None = None  # of the high level; None: the same
    env_steps: int = 120_000  # at least; rounded up to whole iterations
    episodes: int = 24  # in an iteration; at least two, since advantages compare them
    worlds: int = 12  # side by side; another number may change the last bit of a result
    threads: int = 1  # that step the worlds
    device: str = CPU  # of torch; another may change the last bits of the weights
    start: str | None = None  # by name; None: the last of the task's
    seed: int = 0
    gamma: float = 0.995
    smoothing: float = 0.97  # lambda of generalised advantage estimation
    likelihood: float = 0.3  # lambda_0 of dapg and iril: the initial weight of a pool tuple, in advantages
    likelihood_decay: float = 0.95  # lambda_1, a factor for each iteration
    likelihood_batch: int = 2048
    own: float = (
        0.5  # of iril: the share of these tuples that come from its own episodes, the last as much as the first
    )
    npg: NpgConfig = field(default_factory=NpgConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        if not self.goal or not self.levels:
            raise InvalidInput("fine-tuning needs a goal and a level that learns")
        ranges = {"env_steps": (1, 2**40), "episodes": (2, 10_000), "worlds": (1, 10_000), "threads": (1, 1024)}
        ranges |= {"seed": (0, 2**31 - 1), "likelihood_batch": (1, 2**20)}
        shares = dict.fromkeys(("gamma", "smoothing", "likelihood_decay", "own"), (0, 1))
        for name, (least, most) in (ranges | shares).items():
            if not least <= getattr(self, name) <= most:  # nor NaN
                raise InvalidInput(f"{name} of fine-tuning is {getattr(self, name)}; must be {least} to {most}")

    def iterations(self, task: Task) -> int:
        """The number of iterations in a task."""
        return ceil(self.env_steps / (self.episodes * task.episode_steps))

    def reward_of(self, level: LevelName) -> RewardName:
        """The reward of a level."""
        return self.reward if level == "low" else self.high_reward or self.reward


class Point(NamedTuple):
    """One iteration of the learning curve."""

    iteration: int
    env_steps: int  # so far, these episodes included
    steps_done: float  # named elements ever done, mean over the iteration's episodes, which explore
    success: float  # share of them with every element ever done
    success_at_end: float
    returns: dict[LevelName, float]  # mean sum of rewards of an episode
    kl: dict[LevelName, float]  # [nat] of the step taken
    share: dict[LevelName, float] | None = None  # of the likelihood in the step (npg.py); None for npg
    cosine: dict[LevelName, float] | None = None  # of the step and the one that rewards alone would take
    skipped: dict[LevelName, str] | None = None  # why a level took no step; None where each took one

    @property
    def earned(self) -> float:
        """The return of the low level, or of the high one where that alone learns."""
        return self.returns["low"] if "low" in self.returns else self.returns["high"]


class Specialist(NamedTuple):
    trained: TrainedRun
    curve: tuple[Point, ...]


def finetune(
    task: Task,
    base: TrainedRun,
    demonstrations: Demonstrations,
    run: Path,
    config: FinetuneConfig,
    progress: Callable[[Point], None] = lambda point: None,
    on_begin: Callable[[int], None] = lambda finished: None,
) -> Specialist:
    """Fine-tune one goal of a task into the folder `run`, or go on where an earlier call was interrupted.

    npg ignores the demonstrations; `progress` is called with the point of every iteration, and `on_begin` before the
    first, when all is checked, with the number of those that are finished.

    Raises:
        InvalidInput: another command trains in the folder, a reward does not suit the task, torch's device is not
            there, or its world shows a state that is not finite.
        TrainingError: the folder holds another run, a level that learns has no weights, or a gradient is not finite.
        DemonstrationError: the objective needs demonstrations and there are none, or none reaches the goal.
    """
    torch_device(config.device)
    if config.objective != "npg":
        _check_reached(demonstrations.trajectories, base.record.spec, config.goal)
    torch.set_num_threads(1)  # the order of a sum, and so the last bit of a weight, depends on it
    base = _prepared(base, config)
    for level in config.levels:
        require_learnable(level, getattr(base.policy, level))
        reward_for(config.reward_of(level), base.record.spec)
    with alone_in(run):
        open_run(run, _record(task, base.record, demonstrations, config))
        curve = read_curve(run)
        if not (run / "low.safetensors").exists():
            learner = _Learner(task, base, demonstrations.trajectories, run, config)
            with ExitStack() as stack:
                worlds = stack.enter_context(open_worlds(task, min(config.worlds, config.episodes)))
                board = stack.enter_context(SummaryWriter(str(run / "tensorboard")))
                curve = curve[: learner.iteration]
                on_begin(learner.iteration)
                while learner.iteration < config.iterations(task):
                    curve.append(learner.advance(worlds))
                    _write_curve(run, curve)
                    learner.save()
                    _plot(board, curve[-1])
                    progress(curve[-1])
            learner.finish()
    return Specialist(load_run(run), tuple(curve))


def read_curve(run: Path) -> list[Point]:
    """The learning curve of a run so far.

    Raises:
        TrainingError: it is damaged.
    """
    path = run / "curve.json"
    try:
        return [Point(**point) for point in json.loads(path.read_text())] if path.exists() else []
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{path} is damaged: {error}; remove the folder to start this run again") from error


def _write_curve(run: Path, curve: Sequence[Point]) -> None:
    with staged(run / "curve.json") as staging:
        staging.write_text(json.dumps([point._asdict() for point in curve], indent=1) + "\n")


def _plot(board: SummaryWriter, point: Point) -> None:
    for name in ("steps_done", "success", "success_at_end"):
        board.add_scalar(name.replace("_", " "), getattr(point, name), point.env_steps)
    for name in ("returns", "kl", "share", "cosine"):
        for level, value in (getattr(point, name) or {}).items():
            board.add_scalar(f"{level} level/{name}", value, point.env_steps)


def _record(task: Task, base: RunRecord, demonstrations: Demonstrations, config: FinetuneConfig) -> RunRecord:
    settings, data = noted(config), base.provenance.data
    if config.objective != "npg":
        settings[DEMONSTRATIONS] = digest(demonstrations.trajectories)
        data = merged(data, demonstrations.sources)
    provenance = Provenance(
        command=command(),
        commit=commit(),
        seeds=(config.seed,),
        data=data,
        settings=settings | {"imitation": base.provenance.settings},
        packages=versions([*_PACKAGES, *task.packages]),
    )
    return base.model_copy(update={"provenance": provenance})


class _Learner:
    """The state of a run: the levels, their baselines, and the number of finished iterations."""

    def __init__(
        self, task: Task, base: TrainedRun, demonstrations: Sequence[Trajectory], run: Path, config: FinetuneConfig
    ) -> None:
        self._task = task
        self._config, self._run, self._record = config, run, base.record
        policy = copy.deepcopy(base.policy)  # the base stays as it was
        self._levels: dict[LevelName, nn.Module] = {
            "high": policy.high.to(config.device),
            "low": policy.low.to(config.device),
        }
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self._baselines = {
                level: Baseline(feature_count(level, base.record.spec.state.dim)).to(config.device)
                for level in config.levels
            }
        self._demonstrated = None if config.objective == "npg" else Pool(demonstrations, base.record.spec, config.pool)
        self.iteration = load_modules(self._resume, self._modules())

    @property
    def _resume(self) -> Path:
        return self._run / "resume.safetensors"

    def _modules(self) -> dict[str, nn.Module]:
        return dict(self._levels) | {f"{level} baseline": module for level, module in self._baselines.items()}

    def save(self) -> None:
        """Save the state from which an interrupted run goes on."""
        save_modules(self._resume, self._modules(), self.iteration)

    def finish(self) -> None:
        """Write the weights of the finished run, and remove the saved state.

        Levels that learned are rounded to half precision, so a specialist takes half the space without loss.
        """
        for level in self._config.levels:
            round_to_half(self._levels[level])
        for level in LEVELS:
            save_weights(self._run / f"{level}.safetensors", self._levels[level])
        self._resume.unlink()
        shutil.rmtree(self._run / _EPISODES, ignore_errors=True)

    def advance(self, worlds: Sequence[World]) -> Point:
        """Play an iteration's episodes and learn from them."""
        config, record = self._config, self._record
        explorer = Explorer(RelayPolicy(self._levels["high"], self._levels["low"]), config.levels)
        rng = np.random.default_rng([config.seed, self.iteration])
        seeds = rng.choice(TRAINING_SEEDS, config.episodes, replace=False)
        starts = [Start(config.goal, int(seed), sampling=int(seed)) for seed in seeds]
        episodes = rollout(
            *(explorer, record.spec, self._task, starts, worlds), start=config.start, threads=config.threads
        )
        drawn = explorer.targets(episodes)
        own = self._relabelled(episodes, drawn) if config.objective == "iril" else None
        steps: dict[LevelName, NpgStep | None] = {}
        returns: dict[LevelName, float] = {}
        for level in config.levels:
            reward = reward_for(config.reward_of(level), record.spec)
            seen = experience(level, episodes, drawn, reward, record.spec, record.statistics)
            steps[level] = self._learn(level, seen, own)
            returns[level] = float(seen.rewards.sum(1).mean())
        self.iteration += 1
        return _point(self.iteration, episodes, returns, steps)

    def _relabelled(self, episodes: Sequence[Episode], drawn: np.ndarray) -> Pool:
        """A pool of every episode so far, with the targets as drawn; the commanded ones are clipped."""
        for index, (episode, targets) in enumerate(zip(episodes, drawn, strict=True)):
            path = self._run / _EPISODES / f"{self.iteration:04d}-{index:04d}.npz"
            save(Trajectory(episode.states, targets, episode.start.elements, path.stem), path)
        return Pool(load_folder(self._run / _EPISODES), self._record.spec, replace(self._config.pool, hold=0))

    def _learn(self, level: LevelName, seen: Experience, own: Pool | None) -> NpgStep | None:
        """Take one natural step of a level, or None if its rewards are not informative; then fit its baseline."""
        config, baseline = self._config, self._baselines[level]
        values = baseline.values(seen.features).reshape(seen.rewards.shape)
        estimates = advantages(seen.rewards, values, seen.last, config.gamma, config.smoothing)
        step = self._step(level, seen, estimates, own) if informative(seen.rewards) else None
        baseline.fit(seen.features, (estimates + values).ravel(), config.seed + self.iteration)
        return step

    def _step(self, level: LevelName, seen: Experience, estimates: np.ndarray, own: Pool | None) -> NpgStep:
        """One natural step of a level; estimates (E, T) are its advantages."""
        module = require_learnable(level, self._levels[level])
        whitened = (estimates - estimates.mean()) / (estimates.std() + 1e-8)
        *inputs, outputs, gains = tensors(module, *seen.inputs, seen.outputs, whitened.astype(np.float32).ravel())
        samples = Samples(tuple(inputs), outputs, gains)
        try:
            demonstrated = self._demonstrated
            bonus = partial(self._likelihood, level, demonstrated, own) if demonstrated else None
            return natural_step(module, samples, self._config.npg, bonus)
        except TrainingError as error:
            raise TrainingError(
                f"iteration {self.iteration + 1} of {self._run}, {level} level: {error}; the weights after iteration "
                f"{self.iteration} are the last good ones"
            ) from error

    def _likelihood(self, level: LevelName, demonstrated: Pool, own: Pool | None) -> Tensor:
        """The weighted log-likelihood of relabelled tuples, a share of them from `own` if it is given."""
        config, module = self._config, self._levels[level]
        rng = np.random.default_rng([config.seed, self.iteration, LEVELS.index(level)])
        count = round(config.likelihood_batch * config.own) if own else 0

        def likelihood(pool: Pool, size: int) -> Tensor:
            batch = pool.high_batch(rng, size) if level == "high" else pool.low_batch(rng, size)
            return module.log_prob(*tensors(module, *batch))  # type: ignore[operator]

        tuples = likelihood(demonstrated, config.likelihood_batch - count)
        if own:
            plausible = tuples.detach().quantile(_OUTER)
            tuples = torch.cat([tuples, likelihood(own, count).clamp(min=plausible)])
        return config.likelihood * config.likelihood_decay**self.iteration * tuples.mean()


def _check_reached(demonstrations: Sequence[Trajectory], spec: PolicySpec, goal: Sequence[str]) -> None:
    """Refuse a goal with an element that none of the demonstrations, if there are any, brings to its goal."""
    for name in goal if demonstrations else ():
        element = spec.elements.get(name)
        if element is not None and not any(
            (np.linalg.norm(shown.states[:, list(element.dims)] - element.goal, axis=1) < element.tolerance).any()
            for shown in demonstrations
        ):
            raise DemonstrationError(
                f"none of {len(demonstrations)} demonstrations reaches {name!r}; fine-tuning needs one that does"
            )


def _prepared(base: TrainedRun, config: FinetuneConfig) -> TrainedRun:
    """The base with new levels in place of those that start from scratch; a new high level is one Gaussian."""
    if not config.scratch:
        return base
    policy, record = base
    if "high" in config.scratch:
        networks = replace(record.networks, high_components=1)
        spec = record.spec.model_copy(update={"high_noise": networks.high_noise(record.spec.state.dim)})
        record = record.model_copy(update={"networks": networks, "spec": spec})
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        new = {level: _from_scratch(level, record) for level in config.scratch}
    return TrainedRun(RelayPolicy(new.get("high", policy.high), new.get("low", policy.low)), record)


def _from_scratch(level: LevelName, record: RunRecord) -> nn.Module:
    """A level with random weights; its last layer is scaled by 1e-2, so that it starts near its mean output."""
    module = build_level(level, record)
    if isinstance(module, (HighLevel, LowLevel)):
        with torch.no_grad():
            for parameter in list(module.body.parameters())[-2:]:
                parameter *= 1e-2
    return module


def _point(
    iteration: int,
    episodes: Sequence[Episode],
    returns: dict[LevelName, float],
    steps: dict[LevelName, NpgStep | None],
) -> Point:
    named = set(episodes[0].start.elements)
    ever = np.array([len(named.intersection(*[frozenset().union(*episode.done)])) for episode in episodes])
    end = np.array([named <= episode.done[-1] for episode in episodes])
    return Point(
        iteration=iteration,
        env_steps=iteration * sum(len(episode.done) for episode in episodes),
        steps_done=float(ever.mean()),
        success=float((ever == len(named)).mean()),
        success_at_end=float(end.mean()),
        returns=returns,
        kl={level: step.kl if step else 0.0 for level, step in steps.items()},
        share={level: step.share for level, step in steps.items() if step and step.share is not None} or None,
        cosine={level: step.cosine for level, step in steps.items() if step and step.cosine is not None} or None,
        skipped={level: _NOTHING_TO_LEARN for level, step in steps.items() if step is None} or None,
    )
