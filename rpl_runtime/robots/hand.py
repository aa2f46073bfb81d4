"""The Franka hand, which takes one command at a time where a policy gives two finger targets every step.

In: finger targets. Out: commands to open and to grasp, one after the other, and the width between the fingers. It
does not know the arm or the policy.

The real hand is slow to talk to: a command takes about a second, even to start, nothing interrupts it (libfranka
issues 28 and 226), and its state comes ten times a second (franky issue 35). So a command is sent only where the
targets clearly ask for the other one and the last one is over, and the width is read on a thread of its own.
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpl_runtime.errors import RobotStopped
from rpl_runtime.robots.fci import franky, translated

_LOG = logging.getLogger(__name__)
_READ_PAUSE_S = 0.02  # [s] between two readings of the width; the hand itself sends it every 0.1 s
_MAX_WIDTH = 0.08  # [m] between the fingers


@dataclass(frozen=True)
class HandConfig:
    close_below: float = 0.03  # [m] targets that ask for a smaller width close the hand
    open_above: float = 0.06  # [m] targets that ask for a larger one open it; in between it keeps doing what it does
    speed: float = 0.1  # [m/s] of the width
    force: float = 30.0  # [N] with which it holds what it has grasped; the hand holds up to 70 N for long


def wants_closed(closed: bool, width: float, config: HandConfig) -> bool:
    """Whether the hand is to be closed, given whether it is and the width [m] asked for: with hysteresis."""
    return width < config.open_above if closed else width < config.close_below


class Hand:
    """One Franka hand.

    Args:
        gripper: the `franky.Gripper`.
        config: when it opens and closes, and how.

    Raises (every verb):
        RobotStopped: the hand no longer answers.
    """

    def __init__(self, gripper: Any, config: HandConfig) -> None:
        self.closed = False  # whether the last command was to grasp
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
        self.closed = False

    def follow(self, fingers: np.ndarray) -> None:
        """Open or grasp if the finger targets (2,) [m] ask for it and nothing is under way; returns at once."""
        if not self._settle(wait=False):
            return
        wanted = wants_closed(self.closed, float(np.sum(fingers)), self._config)
        if wanted == self.closed:
            return
        speed, force = self._config.speed, self._config.force
        with translated("the hand does not answer"):
            self._pending = (
                # Whatever width is left between the fingers counts as a grasp: the policy sees it.
                self._gripper.grasp_async(0.0, speed, force, epsilon_inner=_MAX_WIDTH, epsilon_outer=_MAX_WIDTH)
                if wanted
                else self._gripper.open_async(speed)
            )
        self.closed = wanted

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
                    _LOG.warning("the hand could not %s: %s", "grasp" if self.closed else "open", error)
        return True

    def _read(self) -> None:
        try:
            while not self._closing.wait(_READ_PAUSE_S):
                self._width = float(self._gripper.width)
        except Exception as error:  # of whatever kind: `width` raises it where someone can act on it
            self._lost = error
