"""Whole episodes in the kitchen, by the same relay loop and simulator that serve."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.loop import Levels, RelayLoop
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS
from rpl_runtime.tasks.kitchen.simulator import PERTURBED, Kitchen, StartNoise

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
def open_kitchens(count: int, kind: Callable[[], Kitchen] = Kitchen) -> Iterator[list[Kitchen]]:
    """Open kitchens to step in parallel, and close them at the end of the block; training uses `FastKitchen`."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(kind())) for _ in range(count)]


def rollout(
    levels: Levels,
    spec: PolicySpec,
    starts: Sequence[Start],
    kitchens: Sequence[Kitchen],
    *,
    noise: StartNoise = PERTURBED,
    steps: int = EPISODE_STEPS,
    threads: int | None = None,
) -> list[Episode]:
    """Play one episode for each start, as many at a time as there are kitchens.

    The levels are called once a step for the whole batch. `threads` threads step the kitchens, by default one for each
    core of this process. An episode depends on its start only, with one exception: another batch size may change the
    last bit of a matrix product, and so of an action.

    States are clipped to the range that the spec accepts. A server would end the run there, but here one knob pushed
    too far must not end the other episodes of the batch.
    """
    episodes: list[Episode] = []
    with _Hands(threads or len(os.sched_getaffinity(0))) as hands:
        for first in range(0, len(starts), len(kitchens)):
            wave = starts[first : first + len(kitchens)]
            episodes += _play(levels, spec, wave, kitchens, noise=noise, steps=steps, hands=hands)
    return episodes


def _play(
    levels: Levels,
    spec: PolicySpec,
    starts: Sequence[Start],
    kitchens: Sequence[Kitchen],
    *,
    noise: StartNoise,
    steps: int,
    hands: "_Hands",
) -> list[Episode]:
    hands.each(lambda row: kitchens[row].reset(starts[row].seed, noise), len(starts))
    kitchens = kitchens[: len(starts)]
    state = _seen(kitchens, spec)
    goals = [spec.resolve(start.elements, row) for start, row in zip(starts, state, strict=True)]
    loop = RelayLoop(levels, spec)
    robots = [str(start) for start in starts]  # names the noise: an episode's depends on its start only
    for robot, start, goal in zip(robots, starts, goals, strict=True):
        loop.start(robot, goal, start.sampling)

    states, subgoals, targets = [], [], []
    done: list[list[frozenset[str]]] = [[] for _ in starts]

    def advance(row: int) -> None:
        kitchens[row].step(targets[-1][row])
        done[row].append(kitchens[row].done())

    for step in range(steps):
        decision = loop.step(robots, [step] * len(robots), state)
        states.append(state)
        subgoals.append(decision.subgoal)
        targets.append(decision.action)
        hands.each(advance, len(starts))
        state = _seen(kitchens, spec)
    columns = (np.stack(rows, axis=1) for rows in (states, subgoals, targets))  # (B, T, .) each
    return [Episode(*row) for row in zip(starts, goals, *columns, map(tuple, done), state, strict=True)]


def _seen(kitchens: Sequence[Kitchen], spec: PolicySpec) -> np.ndarray:
    """The kitchens' states (B, n), clipped to the range that the spec accepts."""
    return np.clip(np.stack([kitchen.state for kitchen in kitchens]), *spec.state.bounds)


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
