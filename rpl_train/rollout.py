"""Whole episodes in the kitchen: the relay loop that serves, driving the simulator that serves.

In: any two levels, open kitchens, and the starts to play. Out: an `Episode` for each start. It does not know how
the levels are computed, and gives no rewards.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rpl_runtime.kitchen.elements import EPISODE_STEPS
from rpl_runtime.kitchen.simulator import PERTURBED, Kitchen, StartNoise, open_kitchen
from rpl_runtime.relay import Levels, RelayLoop
from rpl_runtime.spec import PolicySpec, ResolvedGoal


@dataclass(frozen=True)
class Start:
    """What an episode begins with. The starts of one rollout differ from each other."""

    elements: tuple[str, ...]  # the goal
    seed: int  # of the simulator: where the start lies, and its sensor noise
    sampling: int | None = None  # seed of the policy's own noise; None takes the modes


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened: T steps, each array's row t belonging to step t."""

    start: Start
    goal: ResolvedGoal
    states: np.ndarray  # (T, n) as observed before the step
    subgoals: np.ndarray  # (T, n)
    targets: np.ndarray  # (T, m)
    done: tuple[frozenset[str], ...]  # (T,) the elements at their goal after the step


@contextlib.contextmanager
def open_kitchens(count: int) -> Iterator[list[Kitchen]]:
    """Kitchens to step in parallel, closed at the end of the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_kitchen()) for _ in range(count)]


def rollout(
    levels: Levels,
    spec: PolicySpec,
    starts: Sequence[Start],
    kitchens: Sequence[Kitchen],
    noise: StartNoise = PERTURBED,
    steps: int = EPISODE_STEPS,
) -> list[Episode]:
    """Play one episode for each start, as many at a time as there are kitchens, each in a thread of its own."""
    episodes: list[Episode] = []
    with ThreadPoolExecutor(len(kitchens)) as threads:
        for first in range(0, len(starts), len(kitchens)):
            wave = starts[first : first + len(kitchens)]
            episodes += _play(levels, spec, wave, kitchens[: len(wave)], noise, steps, threads)
    return episodes


def _play(
    levels: Levels,
    spec: PolicySpec,
    starts: Sequence[Start],
    kitchens: Sequence[Kitchen],
    noise: StartNoise,
    steps: int,
    threads: ThreadPoolExecutor,
) -> list[Episode]:
    state = np.stack(list(threads.map(lambda kitchen, start: kitchen.reset(start.seed, noise), kitchens, starts)))
    goals = [spec.resolve(start.elements, row) for start, row in zip(starts, state, strict=True)]
    loop = RelayLoop(levels, spec)
    robots = [str(start) for start in starts]  # an episode's noise is its start's own, whatever plays beside it
    for robot, start, goal in zip(robots, starts, goals, strict=True):
        loop.start(robot, goal, start.sampling)

    states, subgoals, targets, done = [], [], [], []
    for step in range(steps):
        decision = loop.step(robots, [step] * len(robots), state)
        states.append(state)
        subgoals.append(decision.subgoal)
        targets.append(decision.action)
        state = np.stack(list(threads.map(Kitchen.step, kitchens, decision.action)))
        done.append([kitchen.done() for kitchen in kitchens])
    columns = (np.stack(rows, axis=1) for rows in (states, subgoals, targets))  # (B, T, .) each
    return [Episode(*row) for row in zip(starts, goals, *columns, zip(*done, strict=True), strict=True)]
