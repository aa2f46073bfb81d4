"""The noise that samples both levels: counter-based, so that any step of any run is drawn alone, wherever it runs."""

import hashlib
from typing import Literal

import numpy as np


class NoiseSource:
    """Standard normal noise that depends on nothing but the arguments it is asked with.

    Philox is counter-based (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), so any step of
    any run is drawn without drawing the ones before it, wherever it is computed.
    """

    def __init__(self) -> None:
        # Moving one generator's counter takes a quarter of the time of making a generator, which asks the
        # system for entropy even where a key is given.
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def draw(
        self, seed: int, robot_key: int, level: Literal["high", "low", "veto"], step: int, size: int
    ) -> np.ndarray:
        self._state["state"]["key"][:] = seed, robot_key
        self._state["state"]["counter"][:] = 0, step, _LEVELS[level], 0
        self._bits.state = self._state
        return self._generator.standard_normal(size, dtype=np.float32)


_LEVELS = {"high": 0, "low": 1, "veto": 2}  # the last is the high level after a veto


def noise(seed: int, robot_key: int, level: Literal["high", "low", "veto"], step: int, size: int) -> np.ndarray:
    """The standard normal noise (size,) float32 of one step, as a loop draws it; for calling a level by hand."""
    return NoiseSource().draw(seed, robot_key, level, step, size)


def robot_key(robot: str) -> int:
    """A robot's 64-bit key in the noise generator, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(robot.encode(), digest_size=8).digest(), "little")
