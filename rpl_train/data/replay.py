"""Replay demonstrations through the physics of a task: the same targets with new states, and the completed elements.

So a recording from another version of the physics, or one without the objects after its first state, agrees with the
world in which policies are trained and run. Only its first state and its targets are used.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.tasks.task import Task, World
from rpl_train.data.trajectory import Trajectory, check_sizes


class Replayed(NamedTuple):
    """One demonstration after its replay."""

    trajectory: Trajectory
    ever_done: frozenset[str]
    done_at_end: frozenset[str]

    @property
    def completes(self) -> bool:
        """Whether every element it names was at its goal at some step."""
        return self.ever_done.issuperset(self.trajectory.elements)


class ReplayResult(NamedTuple):
    """Replayed demonstrations, in the order they were given."""

    episodes: list[Replayed]

    @property
    def trajectories(self) -> list[Trajectory]:
        """The demonstrations with the observed states of the replay."""
        return [episode.trajectory for episode in self.episodes]

    @property
    def complete(self) -> int:
        """The number of episodes that complete all the elements they name."""
        return sum(episode.completes for episode in self.episodes)


def replay(
    task: Task,
    trajectories: Sequence[Trajectory],
    seed: int = 0,
    jobs: int = 1,
    on_episode: Callable[[], None] = lambda: None,
) -> ReplayResult:
    """Play every demonstration's targets from its first state, with `jobs` threads; the result is the same for any.

    Args:
        seed: draws the observation noise.
        on_episode: called after each episode, by its thread.

    Raises:
        DemonstrationError: a demonstration is of another task.
        InvalidInput: the task's world cannot start from a given state.
        MissingExtra: its simulator is not installed.
    """
    for trajectory in trajectories:
        check_sizes(trajectory, task.spec)
    jobs = max(1, min(jobs, len(trajectories)))

    def play_share(world: World, first: int) -> list[Replayed]:
        played = []
        for index in range(first, len(trajectories), jobs):
            played.append(_play(world, trajectories[index], seed + index))
            on_episode()
        return played

    with ExitStack() as stack:
        # Not in the threads: opening a world may redirect the process's stderr for a moment.
        worlds = [stack.enter_context(closing(task.open())) for _ in range(jobs)]
        if not all(hasattr(world, "restore") for world in worlds):
            raise InvalidInput(f"{task.name} cannot start from a recorded state; its world needs a method restore")
        shares = list(stack.enter_context(ThreadPoolExecutor(jobs)).map(play_share, worlds, range(jobs)))
    return ReplayResult([shares[index % jobs][index // jobs] for index in range(len(trajectories))])


def replay_table(result: ReplayResult, spec: PolicySpec) -> Table:
    """A row for each element: how many demonstrations work on it, and in how many it gets done."""
    episodes = result.episodes
    title = f"Replay: {result.complete} of {len(episodes)} demonstrations complete all their elements"
    table = Table("element", title=title, title_justify="left")
    for heading in ("demonstrations", "ever done", "done at the end"):
        table.add_column(heading, justify="right")
    for name in spec.elements:
        asked = [episode for episode in episodes if name in episode.trajectory.elements]
        ever = sum(name in episode.ever_done for episode in asked)
        end = sum(name in episode.done_at_end for episode in asked)
        table.add_row(name, str(len(asked)), str(ever), str(end))
    return table


def _play(world: Any, trajectory: Trajectory, seed: int) -> Replayed:
    states = [world.restore(trajectory.states[0], seed)]
    ever: set[str] = set()
    for target in trajectory.targets:
        states.append(world.step(target))
        ever |= world.done()
    played = replace(trajectory, states=np.array(states[:-1], dtype=np.float32))
    return Replayed(played, frozenset(ever), world.done())
