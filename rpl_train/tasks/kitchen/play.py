"""Scripted play of the kitchen: the demonstrator works on sequences of elements, with noise, pauses and detours.

The stored targets are the demonstrator's own. The executed ones are disturbed, so that the recordings show the way back
from a policy's errors.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_runtime.tasks.task import Driver, Performance, Shift, Task
from rpl_train.tasks.kitchen.demonstrator import Demonstrator, Style
from rpl_train.tasks.kitchen.shift import REOPENED, ShiftSettings, Worker
from rpl_train.tasks.kitchen.skills import Work

Order = Literal["human", "random"]
_ARM = slice(0, 7)


@dataclass(frozen=True, kw_only=True)
class KitchenPlay:
    """The kitchen's demonstrator and its settings.

    Raises:
        InvalidInput: a setting is out of its range.
    """

    length: int = 4  # elements in a sequence
    order: Order = "human"
    start: str = "perturbed"  # of the kitchen's, by name
    noise: float = 0.01  # [rad] standard deviation of the noise on an executed arm target
    noise_steps: float = 4.0  # [steps] correlation time of that noise
    pause: float = 0.01  # probability per step that the arm rests for two to six steps
    detour: float = 0.01  # probability per step of a detour of three to six steps
    detour_size: float = 0.06  # [rad] largest offset of each joint in a detour
    speed: float = 0.068  # [rad] of the fastest joint in a control step
    speed_spread: float = 0.1  # share by which the speed varies between sequences
    offset: float = 0.01  # [m] by which the approach and the hold on a handle vary between sequences
    settle: int = 4  # [steps] after the last element
    limit: int = 360  # [steps] largest length of a sequence
    shift: ShiftSettings = field(default_factory=ShiftSettings)

    def __post_init__(self) -> None:
        ranges = {
            "length": (1, len(ELEMENTS)),
            "noise": (0, 0.1),
            "noise_steps": (0.1, 100),
            "pause": (0, 0.5),
            "detour": (0, 0.5),
            "detour_size": (0, 0.16),
            "speed": (0.01, 0.08),
            "speed_spread": (0, 0.5),
            "offset": (0, 0.03),
            "settle": (0, 100),
            "limit": (2, 10_000),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidInput(f"{name} of scripted play is {value}; must be {low} to {high}")
        if self.order not in get_args(Order):
            raise InvalidInput(f"order of scripted play is {self.order!r}; must be one of {', '.join(get_args(Order))}")

    def sequence(self, seed: int, index: int) -> tuple[str, ...]:
        """The elements of the sequence with this index: all sets of `length` in turn, shuffled each round."""
        sets = tuple(itertools.combinations(ELEMENTS, self.length))  # each in human order
        round_, place = divmod(index, len(sets))
        shuffled = np.random.default_rng([seed, 1, round_]).permutation(len(sets))
        elements = sets[shuffled[place]]
        if self.order == "random":
            order = np.random.default_rng([seed, 2, index]).permutation(len(elements))
            elements = tuple(elements[i] for i in order)
        return elements

    def perform(self, task: Task, world: Any, seed: int, index: int) -> Performance:
        """Play one sequence in a kitchen."""
        kitchen: Kitchen = world
        rng = np.random.default_rng([seed, 0, index])
        elements = self.sequence(seed, index)
        demonstrator = Demonstrator(kitchen.model, _style(self, rng))
        disturbance = _Disturbance(self, rng)
        state = task.reset(kitchen, int(rng.integers(2**31)), self.start)
        states, targets = [], []
        finished: set[str] = set()
        settled, target = 0, state[:ROBOT_DIM]
        while len(states) < self.limit and settled <= self.settle:
            for name in elements:
                if demonstrator.finished(state, Work(name)):
                    finished.add(name)
                elif ELEMENTS[name].distance(state) >= REOPENED:
                    finished.discard(name)
            left = [name for name in elements if name not in finished]
            settled = 0 if left else settled + 1
            if left:  # otherwise hold on: a hand that backs out drags a door with it
                target = demonstrator.act(state, Work(left[0]))
            states.append(state)
            targets.append(target)
            state = kitchen.step(disturbance(target))
        return Performance(np.array(states, dtype=np.float32), np.array(targets, dtype=np.float32), elements)

    def work_shift(self, task: Task, world: Any, seed: int, index: int, driver: Driver | None = None) -> Shift:
        """Work one shift in a kitchen (shift.py)."""
        rng = np.random.default_rng([seed, 3, index])
        demonstrator, execute = Demonstrator(world.model, _style(self, rng)), _Disturbance(self, rng)
        random_order = self.order == "random"
        worker = Worker(
            *(self.shift, task, world, rng, demonstrator, execute),
            settle=self.settle,
            random_order=random_order,
            driver=driver,
        )
        return worker.work()


class _Disturbance:
    """Turns the demonstrator's target into the executed one: correlated noise, sometimes a pause or a detour."""

    def __init__(self, config: KitchenPlay, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        self._keep = math.exp(-1 / config.noise_steps)
        self._drift = np.zeros(7)  # [rad]
        self._push = np.zeros(7)  # [rad]
        self._pausing = 0  # [steps] left
        self._straying = 0  # [steps] left
        self._executed: np.ndarray | None = None  # (9,) [rad, m]

    def __call__(self, target: np.ndarray) -> np.ndarray:
        config, rng = self._config, self._rng
        spread = config.noise * math.sqrt(1 - self._keep**2)
        self._drift = self._keep * self._drift + spread * rng.standard_normal(7)
        if self._pausing == 0 and rng.random() < config.pause:
            self._pausing = int(rng.integers(2, 7))
        if self._straying == 0 and rng.random() < config.detour:
            self._straying = int(rng.integers(3, 7))
            self._push = rng.uniform(-config.detour_size, config.detour_size, 7)
        if self._pausing > 0 and self._executed is not None:
            self._pausing -= 1
            return self._executed
        executed = np.array(target, dtype=np.float64)  # (9,)
        executed[_ARM] += self._drift
        if self._straying > 0:
            self._straying -= 1
            executed[_ARM] += self._push
        self._executed = executed
        return executed


def _style(config: KitchenPlay, rng: np.random.Generator) -> Style:
    return Style(
        speed=config.speed * (1 + config.speed_spread * rng.uniform(-1, 1)),
        standoff=0.10 + config.offset * rng.uniform(-1, 1),
        rise=config.offset * rng.uniform(-1, 1),
    )
