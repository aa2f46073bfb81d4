"""The drawers as a task, for tests that need hundreds of episodes: a hand that pulls two drawers on its way.

The drawers bear the names of two of the kitchen's elements, so that the letters of a compound goal name them.
"""

from functools import cache
from pathlib import Path

import numpy as np

from demonstrations import STEPS, drawer_demonstrations, drawer_spec
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.tasks import Scripted, Task
from rpl_train.augment import PoolConfig
from rpl_train.data.sources import Demonstrations
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.runs import TrainedRun

FIRST, SECOND = "microwave", "kettle"
GOAL = (FIRST, SECOND)
POOL = PoolConfig(low_window=4, high_window=STEPS, hold=30)


@cache
def spec() -> PolicySpec:
    drawers = drawer_spec()
    elements = dict(zip(GOAL, drawers.elements.values(), strict=True))
    return drawers.model_copy(update={"elements": elements, "library": {"mk": GOAL}})


class Drawers:
    """A hand that goes to its target, and on its way pulls the drawers."""

    goal = None

    def __init__(self) -> None:
        self.state = np.zeros(3, dtype=np.float32)

    @property
    def truth(self) -> np.ndarray:
        return self.state

    def reset(self, seed: int, start: float) -> np.ndarray:
        self.state = np.zeros(3, dtype=np.float32)
        self.state[0] = np.random.default_rng(seed).uniform(-start, start)
        return self.state

    def step(self, target: np.ndarray) -> np.ndarray:
        """At most 0.25 toward the target; going to 1 opens the first drawer, going on to 2 the second."""
        hand = self.state[0] + np.clip(target[0] - self.state[0], -0.25, 0.25)
        opened = np.maximum(self.state[1:], np.clip([hand, hand - 1], 0, 1))
        self.state = np.array([hand, *opened], dtype=np.float32)
        return self.state

    def done(self) -> frozenset[str]:
        return spec().done(self.state)

    def close(self) -> None:
        """Nothing to release."""


def pull(world: Drawers, rng: np.random.Generator):
    """A script: past the first drawer, then past the second."""
    for _ in range(STEPS - 4):
        yield np.array([min(world.state[0] + 0.2, 2.2)])


TASK = Task(
    name="drawers",
    spec=spec(),
    open_world=Drawers,
    episode_steps=STEPS,
    starts={"beside": 0.2},
    demonstrator=Scripted(script=pull, elements=GOAL),
    settings={"imitate.steps": 30},
    reference="drawers:make",
)


def make() -> Task:
    return TASK


def task_of(spec: PolicySpec) -> Task:
    """A task with this spec, for what never opens a world."""
    return Task(name="drawers", spec=spec, open_world=Drawers, episode_steps=STEPS, starts={"beside": 0.2})


def imitated(
    run: Path, steps: int, networks: NetworkConfig | None = None, demonstrations: Demonstrations | None = None
) -> TrainedRun:
    """A policy that has imitated the drawers' demonstrations for so many steps."""
    networks = networks or NetworkConfig((32,), (32,))
    config = ImitateConfig(steps=steps, batch=64, jobs=1, networks=networks, pool=POOL)
    return imitate(demonstrations or drawer_demonstrations(12), TASK, run, config, lambda level, step, loss: None)
