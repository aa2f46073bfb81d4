"""What a page shows of a task: its model, and how a state poses it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Scenery(NamedTuple):
    """A task that can be drawn."""

    model: Any  # of MuJoCo
    qpos: Callable[[np.ndarray], np.ndarray]  # state (n,) -> (nq,) configuration of the model
    rest: np.ndarray  # (n,) a state in which no element is done
    robot: frozenset[int]  # bodies of the robot
    flange: int  # body whose way is drawn
    elements: Mapping[int, str]  # body -> the element that moves it
    eye: tuple[float, float, float]  # [m] where one looks from
    look_at: tuple[float, float, float]  # [m]
