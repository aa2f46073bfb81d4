"""Robots that a policy can drive: one small protocol, one module for each kind."""

from typing import Protocol

import numpy as np


class Robot(Protocol):
    """What `run` needs of a robot, simulated or real.

    A run is reset, observe, and then for each step apply, observe, done; last of all stop and close. Some worlds
    wait for their robot and some do not. In one that does not, whoever runs the robot keeps the time: one step each
    control period, against a clock of his own. No robot keeps time itself.
    """

    @property
    def waits(self) -> bool:
        """Whether the world stands still between two steps, as a simulator's does."""
        ...

    def reset(self, seed: int) -> None:
        """Go to where a run starts, and return when there; a simulator draws the start with the seed."""
        ...

    def observe(self) -> np.ndarray:
        """The state (n,) measured now, float32, in the units of the policy's spec. Once a control period.

        Raises:
            RobotStopped: the robot stopped by itself, or is out of reach.
        """
        ...

    def apply(self, target: np.ndarray) -> None:
        """Go for a target (m,), in the units of the policy's spec, until the next one comes.

        Where the world waits, this is what moves it: a control period is over when it returns. Where it does not,
        it returns at once.

        Raises:
            InvalidInput: the target is not m finite numbers; nothing has moved.
            RobotStopped: the robot stopped by itself, or the target leads where it may not go.
        """
        ...

    def done(self) -> frozenset[str]:
        """The names of the elements that stand at their goal, as well as the robot could tell last."""
        ...

    def stop(self) -> None:
        """Come to rest and stay there. Allowed at any time, and more than once."""
        ...

    def close(self) -> None:
        """Stop, and let go of the robot; nothing is allowed afterwards."""
        ...
