"""What the hard protocol (evaluation/protocol.py) takes from a task: what can happen to its world, and when it does.

Disturbances act on the world's own physics. Whole goals and goals that undo something are states that differ from
another one in some elements only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

_W = TypeVar("_W")  # a world of the task


class Disturbance(Protocol):
    """Something that happens to a world during an episode."""

    name: str  # such as "jolt"
    redrawn: Counter[str]  # why a draw was replaced by another -> how often

    def act(self, step: int, done: frozenset[str]) -> bool:
        """Add the forces of the control period that begins with a step, given the elements done before it.

        Returns whether there are any.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Hazards(Generic[_W]):
    """The hazards of a task whose worlds can start in any configuration (n,), their `truth`, by `restore`."""

    # Settings of the protocol's conditions by name: the fields of `Hardship`, and of `Conditions` under "robot".
    conditions: Mapping[str, Mapping[str, Any]]
    steps_an_element: int  # [control steps] of each element in a goal of a shift
    start: Callable[[float, float], object]  # a start whose joints and objects are off by up to distances [rad], [m]
    # A disturbance of a world, its size, the control steps at which it begins, and what draws it.
    jolt: Callable[[_W, float, Sequence[int], np.random.Generator], Disturbance]
    push: Callable[[_W, float, Sequence[int], np.random.Generator], Disturbance]
    put_back: Callable[[_W, int, Sequence[str]], Disturbance]  # of the first of some elements, [control steps] later
    calm: Callable[[_W], None]  # removes the forces of the last control period from a world
    # A configuration (n,) with elements at their goal, or where they are in another configuration (n,).
    with_elements: Callable[[np.ndarray, Sequence[str], np.ndarray | None], np.ndarray]
    # A whole goal (n,) at which the world can stay; InvalidGoal if it cannot.
    check_reachable: Callable[[_W, np.ndarray], np.ndarray]
    fallen: Callable[[np.ndarray, np.ndarray], bool]  # whether an object is out of reach that was not before, (n,) each
