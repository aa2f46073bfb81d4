"""The drawers as a world to act in: it stands in for the kitchen where a test needs hundreds of episodes.

`open_drawers` and `play` take the places of `open_kitchens` and `rollout`; the relay loop is the same. The drawers bear
the names of two of the kitchen's elements, so that the letters of a compound goal name them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from demonstrations import STEPS, drawer_demonstrations, drawer_spec
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.relay.loop import Levels
from rpl_train.augment import PoolConfig
from rpl_train.data.sources import Demonstrations
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.rl.rollout import Episode, Start, rollout
from rpl_train.runs import TrainedRun

FIRST, SECOND = "microwave", "kettle"
GOAL = (FIRST, SECOND)
POOL = PoolConfig(low_window=4, high_window=STEPS)


@cache
def spec() -> PolicySpec:
    drawers = drawer_spec()
    elements = dict(zip(GOAL, drawers.elements.values(), strict=True))
    return drawers.model_copy(update={"elements": elements, "library": {"mk": GOAL}})


def imitated(
    run: Path, steps: int, networks: NetworkConfig | None = None, demonstrations: Demonstrations | None = None
) -> TrainedRun:
    """A policy that has imitated the drawers' demonstrations for so many steps."""
    networks = networks or NetworkConfig((32,), (32,))
    sized = spec().model_copy(update={"high_noise": networks.high_noise(3)})
    config = ImitateConfig(steps=steps, batch=64, jobs=1, networks=networks, pool=POOL)
    return imitate(demonstrations or drawer_demonstrations(12), sized, run, config, lambda level, step, loss: None)


class Drawers:
    """What `rollout` asks of a kitchen: a hand that goes to its target, and on its way pulls the drawers."""

    def __init__(self) -> None:
        self.state = np.zeros(3, dtype=np.float32)

    def reset(self, seed: int, noise: object = None) -> np.ndarray:
        self.state = np.zeros(3, dtype=np.float32)
        self.state[0] = np.random.default_rng(seed).uniform(-0.2, 0.2)
        return self.state

    def step(self, target: np.ndarray) -> np.ndarray:
        """At most 0.25 toward the target; going to 1 opens the first drawer, going on to 2 the second."""
        hand = self.state[0] + np.clip(target[0] - self.state[0], -0.25, 0.25)
        opened = np.maximum(self.state[1:], np.clip([hand, hand - 1], 0, 1))
        self.state = np.array([hand, *opened], dtype=np.float32)
        return self.state

    def done(self) -> frozenset[str]:
        return spec().done(self.state)


@contextlib.contextmanager
def open_drawers(count: int, kind: object = None) -> Iterator[list[Drawers]]:
    yield [Drawers() for _ in range(count)]


def play(levels: Levels, spec: PolicySpec, starts: Sequence[Start], *others: Any, **options: Any) -> list[Episode]:
    """Episodes as long as the demonstrations, by one thread."""
    return rollout(levels, spec, starts, *others, **{**options, "threads": 1, "steps": STEPS})
