"""Robots: the protocols of what a policy can drive, and one module for each kind."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from rpl_runtime.estimation.body import Ages
from rpl_runtime.safety.limits import Profile

__all__ = ["LiveRobot", "Robot"]


class Robot(Protocol):
    """A robot, simulated or real, that a run loop drives.

    A run is reset, observe, then apply, done and observe for each step, and at the end stop and close. Simulators pause
    between steps; real robots do not: their run loop makes one step each control period, by its own clock.
    """

    @property
    def waits(self) -> bool:
        """Whether the world stands still between steps, as a simulator's does."""
        ...

    def reset(self, seed: int) -> None:
        """Go to the start of a run, and return when there; a simulator draws the start with the seed."""
        ...

    def observe(self) -> np.ndarray:
        """The state (n,) measured now, float32, in the units of the policy's spec. Once a control period.

        Raises:
            RobotStopped: the robot stopped by itself, or cannot be reached.
        """
        ...

    @property
    def ages(self) -> Ages:
        """How old the last observation was when it was returned, by the sensors' timestamps."""
        ...

    def apply(self, target: np.ndarray) -> None:
        """Follow a target (m,), in the units of the policy's spec, until the next one.

        If the world waits, one control period passes during the call; if not, the call returns at once.

        Raises:
            InvalidInput: the target is not m finite numbers; nothing has moved.
            RobotStopped: the robot stopped by itself, or the target leads outside its limits.
        """
        ...

    def done(self) -> frozenset[str]:
        """The names of the elements at their goal, as the robot last saw them."""
        ...

    def stop(self) -> None:
        """Come to rest and stay there. Can be called at any time, and more than once."""
        ...

    def close(self) -> None:
        """Stop and release the robot, which cannot be used afterwards."""
        ...


class LiveRobot(Robot, Protocol):
    """A robot whose world does not wait, for `drive`. It keeps its limits, whatever the targets.

    Every target passes its safety filter. Without a target for a control period it comes to rest by itself, and the
    next one moves it on from there. Its state begins with the m joints that its targets move, in their order.
    """

    @property
    def profile(self) -> Profile:
        """The limits that it keeps, in the joint angles of the policy's spec."""
        ...

    @property
    def limit_violations(self) -> Mapping[str, int]:
        """How many limits the targets so far would have violated, by kind."""
        ...
