"""Replay demonstrations through the kitchen's physics: the same targets with new states, and the completed elements.

So a recording from another version of the physics, or one without the objects after its first state, agrees with the
kitchen in which policies are trained and run. Only its first state and its targets are used.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from rich.table import Table

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, ROBOT_DIM, STATE_DIM
from rpl_runtime.tasks.kitchen.simulator import Kitchen, open_kitchen
from rpl_train.data.trajectory import Trajectory


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
        DemonstrationError: a demonstration is not of the kitchen.
        MissingExtra: the `sim` extra is not installed.
    """
    for trajectory in trajectories:
        sizes = trajectory.states.shape[1], trajectory.targets.shape[1]
        if sizes != (STATE_DIM, ROBOT_DIM):
            raise DemonstrationError(
                f"{trajectory.source or 'a demonstration'} has {sizes[0]} states and {sizes[1]} targets a step; "
                f"the kitchen has {STATE_DIM} and {ROBOT_DIM}"
            )
    jobs = max(1, min(jobs, len(trajectories)))

    def play_share(kitchen: Kitchen, first: int) -> list[Replayed]:
        played = []
        for index in range(first, len(trajectories), jobs):
            played.append(_play(kitchen, trajectories[index], seed + index))
            on_episode()
        return played

    with ExitStack() as stack:
        # Not in the threads: opening a kitchen redirects the process's stderr for a moment.
        kitchens = [stack.enter_context(open_kitchen()) for _ in range(jobs)]
        shares = list(stack.enter_context(ThreadPoolExecutor(jobs)).map(play_share, kitchens, range(jobs)))
    return ReplayResult([shares[index % jobs][index // jobs] for index in range(len(trajectories))])


def replay_table(result: ReplayResult) -> Table:
    """A row for each element: how many demonstrations work on it, and in how many it gets done."""
    episodes = result.episodes
    title = f"Replay: {result.complete} of {len(episodes)} demonstrations complete all their elements"
    table = Table("element", title=title, title_justify="left")
    for heading in ("demonstrations", "ever done", "done at the end"):
        table.add_column(heading, justify="right")
    for name in ELEMENTS:
        asked = [episode for episode in episodes if name in episode.trajectory.elements]
        ever = sum(name in episode.ever_done for episode in asked)
        end = sum(name in episode.done_at_end for episode in asked)
        table.add_row(name, str(len(asked)), str(ever), str(end))
    return table


def _play(kitchen: Kitchen, trajectory: Trajectory, seed: int) -> Replayed:
    states = [kitchen.restore(trajectory.states[0], seed)]
    ever: set[str] = set()
    for target in trajectory.targets:
        states.append(kitchen.step(target))
        ever |= kitchen.done()
    played = replace(trajectory, states=np.array(states[:-1], dtype=np.float32))
    return Replayed(played, frozenset(ever), kitchen.done())
