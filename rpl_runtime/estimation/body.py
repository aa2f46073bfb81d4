"""A task's robot and objects as the estimator needs them: what moves together in a state, and how the arm moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Ages(NamedTuple):
    """How old a reading is by its timestamps; None: it has none."""

    arm_s: float | None = None  # [s]
    objects_s: float | None = None  # [s]


class Servo(Protocol):
    """How an arm of k joints moves while it holds a target."""

    def __call__(self, position: np.ndarray, target: np.ndarray, load: np.ndarray, duration_s: float) -> np.ndarray:
        """The position (k,) after a duration [s], from a position (k,), with a target (k,) and a load (k,).

        The load is whatever pulls the arm from where the target alone would lead it, such as its weight. The result
        must be linear in it, joint by joint, except at the ends of a range.
        """
        ...


@dataclass(frozen=True)
class Hand:
    """A hand that can be opened and closed by targets for its fingers."""

    dims: tuple[int, ...]  # of the state
    targets: tuple[int, ...]  # of the action
    opened: float  # [m] target of each finger of the open hand; 0 closes it
    close_below: float  # [m] a slow hand closes if its targets together ask for less
    open_above: float  # [m] and opens if they ask for more


@dataclass(frozen=True)
class Body:
    """A task's robot and objects, as dimensions of its state (n,) and of its action (m,)."""

    objects: tuple[tuple[int, ...], ...]  # state dimensions that rest together and move together
    rotations: tuple[tuple[int, ...], ...] = ()  # quaternions among them
    arm: tuple[int, ...] = ()  # state dimensions of the joints that `servo` moves
    arm_targets: tuple[int, ...] = ()  # action dimensions, in the same order
    servo: Servo | None = None  # None: an arm that is seen late is not predicted
    hand: Hand | None = None

    @classmethod
    def plain(cls, state_names: Sequence[str], action_names: Sequence[str]) -> "Body":
        """Of a task that says nothing: each state dimension without a target of its name is an object by itself."""
        return cls(tuple((dim,) for dim, name in enumerate(state_names) if name not in action_names))
