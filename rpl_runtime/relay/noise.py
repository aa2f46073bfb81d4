"""The noise that samples both levels."""

import hashlib
from typing import Literal

import numpy as np


class NoiseSource:
    """Standard normal noise that depends only on the arguments of `draw`.

    Philox is counter-based (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011): the noise of any step
    is drawn without drawing that of the steps before it, on whichever server it runs.
    """

    def __init__(self) -> None:
        # Setting the counter of one generator takes a quarter of the time of making a generator, which asks the
        # system for entropy even if a key is given.
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def draw(
        self, seed: int, robot_key: int, level: Literal["high", "low", "veto"], step: int, size: int
    ) -> np.ndarray:
        """The noise (size,) float32 of a step."""
        self._state["state"]["key"][:] = seed, robot_key
        self._state["state"]["counter"][:] = 0, step, _LEVELS[level], 0
        self._bits.state = self._state
        return self._generator.standard_normal(size, dtype=np.float32)


_LEVELS = {"high": 0, "low": 1, "veto": 2}  # "veto": the high level after a veto


def robot_key(robot: str) -> int:
    """A robot's 64-bit key in the noise generator, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(robot.encode(), digest_size=8).digest(), "little")
