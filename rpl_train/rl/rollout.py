"""Whole episodes in the worlds of a task, by the same relay loop and simulator that serve."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.loop import Levels, RelayLoop
from rpl_runtime.tasks.task import Task, World

# Training draws the seeds of its episodes below this. The parity gate's start here, those of evaluation at 1,000,000.
TRAINING_SEEDS = 500_000


@dataclass(frozen=True)
class Start:
    """How an episode begins. The starts of one rollout must differ from each other."""

    elements: tuple[str, ...]  # the goal
    seed: int  # of the simulator: perturbation of the start, and sensor noise
    sampling: int | None = None  # seed of the policy's noise; None: modes


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode of T steps; row t of each array belongs to step t."""

    start: Start
    goal: ResolvedGoal
    states: np.ndarray  # (T, n) as observed before the step
    subgoals: np.ndarray  # (T, n)
    targets: np.ndarray  # (T, m)
    done: tuple[frozenset[str], ...]  # (T,) the elements at their goal after the step
    final_state: np.ndarray  # (n,) as observed after the last step


@contextlib.contextmanager
def open_worlds(task: Task, count: int) -> Iterator[list[World]]:
    """Open worlds to step in parallel, of the kind for training, and close them at the end of the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(task.open(fast=True))) for _ in range(count)]


def rollout(
    levels: Levels,
    spec: PolicySpec,
    task: Task,
    starts: Sequence[Start],
    worlds: Sequence[World],
    *,
    start: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
) -> list[Episode]:
    """Play one episode of the policy's spec for each start, as many at a time as there are worlds of the task.

    The levels are called once a step for the whole batch. `threads` threads step the worlds, by default one for each
    core of this process. Episodes begin at the task's start of that name, by default its last, and have the task's
    length. An episode depends on its start only, with one exception: another batch size may change the last bit of a
    matrix product, and so of an action.

    States are clipped to the range that the spec accepts. A server would end the run there, but here one knob pushed
    too far must not end the other episodes of the batch.

    Raises:
        InvalidInput: a world shows a state of another size, or one that is not finite.
    """
    episodes: list[Episode] = []
    start, steps = start or list(task.starts)[-1], steps or task.episode_steps
    with _Hands(threads or len(os.sched_getaffinity(0))) as hands:
        for first in range(0, len(starts), len(worlds)):
            wave = starts[first : first + len(worlds)]
            episodes += _play(levels, spec, task, wave, worlds[: len(wave)], start=start, steps=steps, hands=hands)
    return episodes


def _play(
    levels: Levels,
    spec: PolicySpec,
    task: Task,
    starts: Sequence[Start],
    worlds: Sequence[World],
    *,
    start: str,
    steps: int,
    hands: "_Hands",
) -> list[Episode]:
    hands.each(lambda row: task.reset(worlds[row], starts[row].seed, start), len(starts))
    state = _seen(task, worlds, spec)
    goals = [task.resolve(start.elements, world, row) for start, world, row in zip(starts, worlds, state, strict=True)]
    loop = RelayLoop(levels, spec)
    robots = [str(start) for start in starts]  # names the noise: an episode's depends on its start only
    for robot, begun, goal in zip(robots, starts, goals, strict=True):
        loop.start(robot, goal, begun.sampling)

    states, subgoals, targets = [], [], []
    done: list[list[frozenset[str]]] = [[] for _ in starts]

    def advance(row: int) -> None:
        worlds[row].step(targets[-1][row])
        done[row].append(worlds[row].done())

    for step in range(steps):
        decision = loop.step(robots, [step] * len(robots), state)
        states.append(state)
        subgoals.append(decision.subgoal)
        targets.append(decision.action)
        hands.each(advance, len(starts))
        state = _seen(task, worlds, spec)
    columns = (np.stack(rows, axis=1) for rows in (states, subgoals, targets))  # (B, T, .) each
    return [Episode(*row) for row in zip(starts, goals, *columns, map(tuple, done), state, strict=True)]


def _seen(task: Task, worlds: Sequence[World], spec: PolicySpec) -> np.ndarray:
    """The worlds' states (B, n), clipped to the range that the spec accepts."""
    return np.clip(np.stack([task.seen(world) for world in worlds]), *spec.state.bounds)


class _Hands:
    """A pool of threads that includes the caller's; each takes the next piece of work when it has finished one."""

    def __init__(self, count: int) -> None:
        self._helpers = count - 1
        self._pool = ThreadPoolExecutor(count - 1) if count > 1 else None

    def __enter__(self) -> "_Hands":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def each(self, work: Callable[[int], object], count: int) -> None:
        """Call work(0) to work(count - 1), in any order."""
        waiting = iter(range(count))  # yields each number to one thread only

        def take() -> None:
            for index in waiting:
                work(index)

        helping = [self._pool.submit(take) for _ in range(min(self._helpers, count - 1))] if self._pool else []
        take()
        for helper in helping:
            helper.result()
