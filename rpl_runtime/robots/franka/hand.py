"""The Franka hand, which takes one command at a time where a policy gives two finger targets every step.

In: finger targets. Out: commands to take a width or to grasp, one after the other, and the width between the fingers.
It does not know the arm or the policy.

The real hand is slow to talk to: a command takes about a second, even to start, nothing interrupts it (libfranka
issues 28 and 226), and its state comes ten times a second (franky issue 35). So a command is sent only where the
targets ask for clearly another width than the last one did and that one is over, and the width is read on a thread of
its own. A policy of the kitchen does not only open and close its hand: where the hand did, the mirrored kitchen saw a
third of the compound goals done that it sees with widths in between.
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpl_runtime.errors import RobotStopped
from rpl_runtime.robots.franka.fci import franky, translated

_LOG = logging.getLogger(__name__)
_READ_PAUSE_S = 0.02  # [s] between two readings of the width; the hand itself sends it every 0.1 s
MAX_WIDTH = 0.08  # [m] between the fingers


@dataclass(frozen=True)
class HandConfig:
    grasp_below: float = 0.02  # [m] targets that ask for a smaller width close the hand on whatever is there
    step: float = 0.01  # [m] by which a width must differ from the one commanded last to be commanded: the hysteresis
    speed: float = 0.1  # [m/s] of the width
    force: float = 30.0  # [N] with which it holds what it has grasped; the hand holds up to 70 N for long


def wanted_width(commanded: float, width: float, config: HandConfig) -> float:
    """The width [m] to command, given the one commanded last and the one asked for: 0 is a grasp."""
    width = min(max(width, 0.0), MAX_WIDTH)
    width = 0.0 if width < config.grasp_below else width
    # Fully open and a grasp are where hands come from and go to; neither is missed by a step.
    at_an_end = width in (0.0, MAX_WIDTH) and width != commanded
    return width if at_an_end or abs(width - commanded) > config.step else commanded


class Hand:
    """One Franka hand.

    Args:
        gripper: the `franky.Gripper`.
        config: when it opens and closes, and how.

    Raises (every verb):
        RobotStopped: the hand no longer answers.
    """

    def __init__(self, gripper: Any, config: HandConfig) -> None:
        self.commanded = float(gripper.width)  # [m] last; 0 was a grasp
        self._gripper = gripper
        self._config = config
        self._pending: Any = None  # the BoolFuture of the command under way
        self._width = float(gripper.width)
        self._lost: Exception | None = None
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, name="franka-hand", daemon=True)
        self._reader.start()

    @property
    def width(self) -> float:
        """[m] between the fingers, measured last."""
        if self._lost is not None:
            raise RobotStopped(f"the hand no longer answers: {self._lost}")
        return self._width

    def open(self) -> None:
        """Open fully, and return when open."""
        self._settle(wait=True)
        with translated("the hand does not open"):
            self._gripper.open(self._config.speed)
        self.commanded = MAX_WIDTH

    def follow(self, fingers: np.ndarray) -> None:
        """Take another width if the finger targets (2,) [m] ask for it and nothing is under way; returns at once."""
        if not self._settle(wait=False):
            return
        wanted = wanted_width(self.commanded, float(np.sum(fingers)), self._config)
        if wanted == self.commanded:
            return
        speed, force = self._config.speed, self._config.force
        with translated("the hand does not answer"):
            self._pending = (
                self._gripper.move_async(wanted, speed)
                if wanted
                # Whatever width is left between the fingers counts as a grasp: the policy sees it.
                else self._gripper.grasp_async(0.0, speed, force, epsilon_inner=MAX_WIDTH, epsilon_outer=MAX_WIDTH)
            )
        self.commanded = wanted

    def close(self) -> None:
        """Let go of the hand once its command is over; it keeps holding what it holds."""
        self._closing.set()
        self._reader.join()
        try:
            self._settle(wait=True)
        finally:
            del self._gripper  # which disconnects

    def _settle(self, wait: bool) -> bool:
        """Whether no command is under way; what became of the last one is taken note of."""
        if self._pending is not None:
            if not wait and not self._pending.wait(0):
                return False
            command, self._pending = self._pending, None
            with translated("the hand no longer answers"):
                try:
                    command.get()
                except franky().CommandException as error:
                    # The arm can go on, and the policy sees where the fingers are.
                    what = f"move to {self.commanded:.3f} m" if self.commanded else "grasp"
                    _LOG.warning("the hand could not %s: %s", what, error)
        return True

    def _read(self) -> None:
        try:
            while not self._closing.wait(_READ_PAUSE_S):
                self._width = float(self._gripper.width)
        except Exception as error:  # of whatever kind: `width` raises it where someone can act on it
            self._lost = error
