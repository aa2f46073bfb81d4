"""Robots that a policy can drive: one small protocol, one module for each kind."""

from typing import Protocol

import numpy as np


class Robot(Protocol):
    """What `run` needs of a robot, simulated or real."""

    def reset(self, seed: int) -> None:
        """Go to where a run starts; a simulator draws the start with the seed."""
        ...

    def observe(self) -> np.ndarray:
        """The state (n,) measured now, in the units of the policy's spec."""
        ...

    def apply(self, target: np.ndarray) -> None:
        """Hold a target (m,), in the units of the policy's spec; returns when the control period is over."""
        ...

    def done(self) -> frozenset[str]:
        """The names of the elements that stand at their goal now, as well as the robot can tell."""
        ...

    def stop(self) -> None:
        """Come to rest. Allowed at any time, and more than once."""
        ...
