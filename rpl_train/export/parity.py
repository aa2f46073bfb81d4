"""The parity gate: exported graphs must command the same actions as the modules they were made from.

Both sides run the relay loop over the same states, each with the subgoals of its own high level, so that an error of
the high level shows in the actions as it would on the robot. With a task the states come from its worlds, from the
starts of training, driven by the graphs; without one they are random walks in the accepted range. Every episode is run
alone and in a batch of 64, some with sampled noise, some with the modes. If a plan takes long, fewer episodes and
smaller batches are compared.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from rpl_runtime.errors import ParityError
from rpl_runtime.policy.graphs import CPU
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.loop import Levels, RelayLoop
from rpl_runtime.tasks.task import Task
from rpl_train.rl.rollout import TRAINING_SEEDS, Start, open_worlds, rollout

_BATCH = 64
_WORLDS = 2  # stepped in parallel
_PLANS_S = 60.0  # [s] for all plans, about; what would take longer is sampled
_STEPS = 280  # of an episode without a task
_WALK = 0.02  # a random walk's step, as a share of each dimension's accepted range


@dataclass(frozen=True, kw_only=True)
class ParityConfig:
    """How much is compared, and the tolerance."""

    tolerance: float = 1e-5  # [rad], or the action's unit
    episodes: int = 10  # at least; each goal of the library has one
    steps: int | None = None  # of each episode; None: an episode of the task, or 280
    seed: int = TRAINING_SEEDS
    providers: str = CPU  # ONNX Runtime's execution providers that compute the graphs, as of `rpl serve`


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The largest differences between both sides."""

    max_abs_target_difference: float  # in the action's units
    max_abs_subgoal_difference: float  # in the state's units
    episodes: int
    steps: int  # compared decisions
    tolerance: float


class _Track(NamedTuple):
    """The states of one episode, shown to both sides."""

    goal: ResolvedGoal
    states: np.ndarray  # (T, n)


class _Gap(NamedTuple):
    """The difference at one step of a batch."""

    target: float
    subgoal: float
    where: str


def check_parity(
    modules: Levels,
    graphs: Levels,
    spec: PolicySpec,
    config: ParityConfig,
    task: Task | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Parity:
    """Compare both sides over whole episodes, in the worlds of the task if there is one.

    `on_batch` is told how many batches of episodes were compared, of how many.

    Raises:
        ParityError: their position targets differ by more than the tolerance.
    """
    count, batch, steps = _sizes(modules, graphs, spec, config, task)
    total = count + -(-count // batch)
    on_batch(0, total)
    tracks = (
        _world_tracks(graphs, spec, task, config.seed, count, steps)
        if task
        else _random_tracks(spec, config.seed, count, steps)
    )
    among = list(itertools.islice(itertools.cycle(tracks), -(-len(tracks) // batch) * batch))
    batches = [[track] for track in tracks] + [among[at : at + batch] for at in range(0, len(among), batch)]
    gaps: list[_Gap] = []
    for first, together in enumerate(batches):
        gaps += _replay(modules, graphs, spec, together, first)
        on_batch(first + 1, total)
    worst = max(gaps, key=lambda gap: gap.target)
    if worst.target > config.tolerance:
        raise ParityError(
            f"the exported graphs differ from their modules by {worst.target:.3g} in {worst.where}; "
            f"must be {config.tolerance:g} or less; nothing was written"
        )
    return Parity(
        max_abs_target_difference=worst.target,
        max_abs_subgoal_difference=max(gap.subgoal for gap in gaps),
        episodes=len(tracks),
        steps=sum(len(batch) * len(batch[0].states) for batch in batches),
        tolerance=config.tolerance,
    )


def _sizes(
    modules: Levels, graphs: Levels, spec: PolicySpec, config: ParityConfig, task: Task | None
) -> tuple[int, int, int]:
    """The number of episodes, of those in a batch, and of the steps of each: fewer if a plan takes long."""
    state = np.clip(np.zeros((1, spec.state.dim), dtype=np.float32), *spec.state.bounds)
    noise = np.zeros((1, spec.high_noise), dtype=np.float32)
    row_s = 0.0
    for levels in (modules, graphs):
        levels.plan(state, state, np.ones_like(state), noise)  # the first takes longer
        began = perf_counter()
        levels.plan(state, state, np.ones_like(state), noise)
        row_s += perf_counter() - began
    steps = config.steps or (task.episode_steps if task else _STEPS)
    goals = spec.library or (next(iter(task.groups.values())) if task else spec.elements)
    episodes, batch = max(config.episodes, len(goals)), _BATCH

    def share() -> float:
        # Alone, in the worlds, and in batches.
        rows = (2 * episodes + -(-episodes // batch) * batch) * -(-steps // spec.horizon)
        return min(1.0, _PLANS_S / (rows * row_s))

    kept = share()
    episodes, batch = max(1, int(kept * episodes)), max(2, int(kept * batch))
    return episodes, batch, max(spec.horizon + 1, int(share() * steps)) if share() < 1 else steps


def _replay(
    modules: Levels, graphs: Levels, spec: PolicySpec, batch: Sequence[_Track], first_seed: int
) -> Iterator[_Gap]:
    """Run both sides over the same states, all episodes of a batch in step."""
    loops = RelayLoop(modules, spec), RelayLoop(graphs, spec)
    robots = [f"episode {row}" for row in range(len(batch))]
    for row, (robot, track) in enumerate(zip(robots, batch, strict=True)):
        seed = first_seed + row
        for loop in loops:
            loop.start(robot, track.goal, None if seed % 3 == 0 else seed)
    for step, states in enumerate(np.stack([track.states for track in batch], axis=1)):
        ours, theirs = (loop.step(robots, [step] * len(robots), states) for loop in loops)
        difference = np.abs(ours.action - theirs.action)  # (B, m)
        dim = int(difference.max(axis=0).argmax())
        where = f"{spec.action.names[dim]} [{spec.action.units[dim]}] at step {step} of a batch of {len(batch)}"
        yield _Gap(float(difference.max()), float(np.abs(ours.subgoal - theirs.subgoal).max()), where)


def _world_tracks(graphs: Levels, spec: PolicySpec, task: Task, seed: int, count: int, steps: int) -> list[_Track]:
    goals = list(spec.library.values()) or [task.goals[name] for name in next(iter(task.groups.values()))]
    starts = [Start(goals[index % len(goals)], seed + index, None if index % 2 else index) for index in range(count)]
    with open_worlds(task, _WORLDS) as worlds:
        episodes = rollout(graphs, spec, task, starts, worlds, steps=steps)
    return [_Track(episode.goal, episode.states) for episode in episodes]


def _random_tracks(spec: PolicySpec, seed: int, count: int, steps: int) -> list[_Track]:
    rng = np.random.default_rng(seed)
    low, high = spec.state.bounds
    goals = list(spec.library.values()) or [(name,) for name in spec.elements]
    tracks = []
    for index in range(count):
        states = np.empty((steps, spec.state.dim), dtype=np.float32)
        state = rng.uniform(low, high)
        for step in range(steps):
            states[step] = np.clip(state, low, high)
            state = np.clip(state + _WALK * (high - low) * rng.standard_normal(spec.state.dim), low, high)
        if goals:
            goal = spec.resolve(goals[index % len(goals)], states[0])
        else:
            goal = spec.resolve_state(rng.uniform(low, high).astype(np.float32).clip(low, high))
        tracks.append(_Track(goal, states))
    return tracks
