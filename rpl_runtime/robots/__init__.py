"""Robots that a policy can drive: one small protocol, one module for each kind."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from rpl_runtime.safety.limits import Profile


class Robot(Protocol):
    """What `run` needs of a robot, simulated or real.

    A run is reset, observe, and then for each step apply, observe, done; last of all stop and close. Some worlds
    wait for their robot and some do not. In one that does not, whoever runs the robot keeps the time: one step each
    control period, against a clock of his own.
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


class LiveRobot(Robot, Protocol):
    """A robot whose world does not wait, which `drive` needs. Whatever it is told, it keeps its limits.

    No target gets to its motors but through its safety filter. Where none comes for longer than a control period it
    comes to rest by itself, and goes on from there with the next one. Its state begins with the m joints that its
    targets move, in their order.
    """

    @property
    def profile(self) -> Profile:
        """The limits that it keeps, for targets and joints as they are in the policy's spec."""
        ...

    @property
    def limit_violations(self) -> Mapping[str, int]:
        """How many limits the targets so far would not have kept, by kind."""
        ...
