"""The drawers in worlds that can kill their process, for tests of workers that die in the middle of their work."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np

import drawers
from demonstrations import STEPS

DEATH = "death"  # a file of the current folder


class MortalDrawers(drawers.Drawers):
    """Drawers that kill their process once, if it finds a file, in the middle of its second episode."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = 0

    def step(self, target: np.ndarray) -> np.ndarray:
        self._steps += 1
        if self._steps == STEPS + STEPS // 2 and Path(DEATH).exists():
            Path(DEATH).unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(target)


TASK = replace(drawers.TASK, open_world=MortalDrawers, reference="mortal:make")


def make() -> drawers.Task:
    return TASK
