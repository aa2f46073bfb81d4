"""A task's simulated world as a robot."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages
from rpl_runtime.relay.messages import Goal
from rpl_runtime.tasks.task import Task


class SimulatedRobot:
    """The robot of one simulated world (the `Robot` protocol).

    Args:
        task: the task.
        start: the name of its start; can be changed between runs. None: the task's first.

    Raises:
        InvalidInput: the world disagrees with the task's spec, or shows a state that is not finite.
        MissingExtra: its simulator is not installed.
    """

    waits = True
    ages = Ages(0.0, 0.0)

    def __init__(self, task: Task, start: str | None = None) -> None:
        self.task = task
        self.start = start or next(iter(task.starts))
        self.start_from: np.ndarray | None = None  # (n,) a configuration of the world to start in instead
        self.world: Any = task.open()  # public for rendering

    def reset(self, seed: int) -> None:
        """Start an episode; the same seed and start give the same one."""
        if self.start_from is None:
            self.task.reset(self.world, seed, self.start)
        else:
            self.world.restore(self.start_from, seed)

    def goal(self, elements: Sequence[str], seed: int) -> Goal:
        """The goal of a run with a seed, to ask a server for: the elements, or the state (n,) that the world draws."""
        if self.world.goal is None:
            return tuple(elements)
        self.reset(seed)
        return self.world.goal

    def observe(self) -> np.ndarray:
        """The state (n,) with the noise of the world's sensors."""
        return self.task.seen(self.world)

    def apply(self, target: np.ndarray) -> None:
        """Hold an action (m,) for one control period of simulated time.

        Raises:
            InvalidInput: the action is not m finite numbers.
        """
        dim, action = self.task.spec.action.dim, np.asarray(target)
        if action.shape != (dim,) or not np.isfinite(action).all():
            got = np.array2string(action, precision=3)
            raise InvalidInput(f"an action of {self.task.name} must be {dim} finite numbers; got {got}")
        self.world.step(target)

    def done(self) -> frozenset[str]:
        """The names of the elements at their goal now, read without noise."""
        return self.world.done()

    def stop(self) -> None:
        """Nothing to do: the world stands still between steps."""

    def close(self) -> None:
        """Release the simulator."""
        self.world.close()
