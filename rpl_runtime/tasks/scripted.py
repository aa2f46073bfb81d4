"""A demonstrator from a script, which says what to do at each step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpl_runtime.tasks.task import Performance, Task, World


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """Demonstrates by a script: a generator of the action (m,) of each step, which ends when the work is done.

    What is executed has noise added, so that demonstrations show the way back from a policy's errors.
    """

    script: Callable[[Any, np.random.Generator], Iterator[np.ndarray]]  # takes a world that was reset
    noise: float = 0.0  # standard deviation, as a share of half an action's range
    noise_steps: float = 0.0  # [control steps] its correlation time; 0: each step has noise of its own
    start: str | None = None  # of the task's; None: its last
    elements: tuple[str, ...] = ()  # that the script works on, in their order

    def perform(self, task: Task, world: World, seed: int, index: int) -> Performance:
        """Demonstrate once, for an episode at most; the seed and the index of the demonstration determine it."""
        rng = np.random.default_rng([seed, index])
        low, high = task.spec.action.bounds
        state = task.reset(world, int(rng.integers(2**31)), self.start or list(task.starts)[-1])
        keep = math.exp(-1 / self.noise_steps) if self.noise_steps > 0 else 0.0
        drift = np.zeros(len(low))
        states, actions = [], []
        for _, action in zip(range(task.episode_steps), self.script(world, rng), strict=False):
            states.append(state)
            actions.append(np.clip(action, low, high))
            drift = keep * drift + math.sqrt(1 - keep**2) * rng.standard_normal(len(low))
            world.step(np.clip(actions[-1] + self.noise * (high - low) / 2 * drift, low, high))
            state = task.seen(world)
        if actions:  # what the last action came to; it is repeated there
            states.append(state)
            actions.append(actions[-1])
        return Performance(np.array(states, np.float32), np.array(actions, np.float32), self.elements)
