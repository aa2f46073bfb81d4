"""The simulated kitchen as a robot: states with the environment's noise, done elements without it."""

import numpy as np

from rpl_runtime.estimation.body import Ages
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, Kitchen, StartNoise


class KitchenRobot:
    """The Franka of one simulated kitchen (the `Robot` protocol).

    Args:
        start_noise: how far starts are from the nominal one; can be changed between runs.

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    waits = True
    ages = Ages(0.0, 0.0)

    def __init__(self, start_noise: StartNoise = NOMINAL) -> None:
        self.start_noise = start_noise
        self.start_from: np.ndarray | None = None  # (30,) [rad, m] a configuration to start in instead
        self.simulator = Kitchen()  # public for rendering

    def reset(self, seed: int) -> None:
        """Start an episode; the same seed and start noise give the same one."""
        if self.start_from is None:
            self.simulator.reset(seed, self.start_noise)
        else:
            self.simulator.restore(self.start_from, seed)

    def observe(self) -> np.ndarray:
        """The state (30,) [rad, m, quaternion wxyz] with the environment's noise."""
        return self.simulator.state

    def apply(self, target: np.ndarray) -> None:
        """Hold a position target (9,) [rad, m] for one control period of 0.08 s simulated time.

        Raises:
            InvalidInput: the target is not 9 finite numbers.
        """
        self.simulator.step(target)

    def done(self) -> frozenset[str]:
        """The names of the elements at their goal now, read without noise."""
        return self.simulator.done()

    def stop(self) -> None:
        """Nothing to do: the kitchen stands still between steps."""

    def close(self) -> None:
        """Release the simulator."""
        self.simulator.close()
