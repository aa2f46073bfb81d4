"""The Franka hand, which takes one command at a time, while a policy gives two finger targets every step.

The real hand is slow: a command takes about a second even to start, nothing interrupts it (libfranka issues 28 and
226), and its state comes ten times a second (franky issue 35). So a command is sent only when the targets ask for a
clearly different width and the last command is over, and the width is read in a thread. A policy of the kitchen also
uses widths between open and closed: with a hand that only opened and closed, a third of the compound goals were done
over the mirrored kitchen.
"""

import logging
import threading
import time
from dataclasses import dataclass

import numpy as np

from rpl_runtime.errors import RobotStopped
from rpl_runtime.robots.franka.fci import Calls, Command, Gripper, franky, leave, translated

_LOG = logging.getLogger(__name__)
_DEADLINE_S = 10.0  # for a command; a grasp of a real hand takes about a second
_LOOK_S = 0.02  # [s] between two looks at a command that is waited for
_SILENT_S = 2.0  # [s] without a reading, from which on the hand no longer answers
_READ_PAUSE_S = 0.02  # [s] between two readings of the width; the hand itself sends it every 0.1 s
MAX_WIDTH = 0.08  # [m] between the fingers


@dataclass(frozen=True)
class HandConfig:
    grasp_below: float = 0.02  # [m] a smaller width closes the hand on whatever is there
    step: float = 0.01  # [m] hysteresis: smaller changes from the last commanded width are not commanded
    speed: float = 0.1  # [m/s] of the width
    force: float = 30.0  # [N] of a grasp; the hand can hold up to 70 N for long


def wanted_width(commanded: float, width: float, config: HandConfig) -> float:
    """The width [m] to command, given the last one and the one asked for [m]; 0 is a grasp."""
    width = min(max(width, 0.0), MAX_WIDTH)
    width = 0.0 if width < config.grasp_below else width
    # Fully open and a grasp are always commanded, however small the change.
    at_an_end = width in (0.0, MAX_WIDTH) and width != commanded
    return width if at_an_end or abs(width - commanded) > config.step else commanded


class Hand:
    """One Franka hand.

    Args:
        gripper: the connected hand.
        call: makes the calls to it, and ends with it.
        config: how it moves and grasps.

    Raises (every method):
        RobotStopped: the hand no longer answers.
    """

    def __init__(self, gripper: Gripper, call: Calls, config: HandConfig) -> None:
        self.commanded = self._width = float(call("width", lambda: gripper.width))  # [m] last; 0 was a grasp
        self._read_s = time.monotonic()
        self._gripper, self._call = gripper, call
        self._config = config
        self._pending = None  # the franky.BoolFuture of the command under way
        self._lost: Exception | None = None
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, name="franka-hand", daemon=True)
        self._reader.start()

    @property
    def width(self) -> float:
        """[m] between the fingers, measured last."""
        if self._lost is not None:
            raise RobotStopped(f"the hand no longer answers: {self._lost}")
        if time.monotonic() - self._read_s > _SILENT_S:
            raise RobotStopped(f"the hand has not told its width for {_SILENT_S:g} s; must tell it ten times a second")
        return self._width

    @property
    def version(self) -> int:
        """Of the interface of the hand's firmware."""
        with translated("the hand does not answer"):
            return int(self._call("server_version", lambda: self._gripper.server_version))

    def open(self) -> None:
        """Open fully, and return when open."""
        self._settle(wait=True)
        with translated("the hand does not open"):
            opening = self._call("open_async", lambda: self._gripper.open_async(self._config.speed))
            _wait(opening)
            opening.get()
        self.commanded = MAX_WIDTH

    def follow(self, fingers: np.ndarray) -> None:
        """Command a new width if the finger targets (2,) [m] ask for one and the hand is free; returns at once."""
        if not self._settle(wait=False):
            return
        wanted = wanted_width(self.commanded, float(np.sum(fingers)), self._config)
        if wanted == self.commanded:
            return
        speed, force = self._config.speed, self._config.force
        with translated("the hand does not answer"):
            hand, width = self._gripper, MAX_WIDTH
            self._pending = (
                self._call("move_async", lambda: hand.move_async(wanted, speed))
                if wanted
                # Any width between the fingers counts as a grasp: the policy sees it.
                else self._call(
                    "grasp_async", lambda: hand.grasp_async(0.0, speed, force, epsilon_inner=width, epsilon_outer=width)
                )
            )
        self.commanded = wanted

    def close(self) -> None:
        """Disconnect once the command under way is over; the hand keeps holding what it holds."""
        self._closing.set()
        self._reader.join(_DEADLINE_S)
        try:
            self._settle(wait=True)
        finally:
            del self._gripper  # disconnects
            self._call.close()

    def _settle(self, wait: bool) -> bool:
        """Whether no command is under way; logs the last one if it failed."""
        if self._pending is not None:
            if wait:
                _wait(self._pending)
            elif not self._pending.wait(0):
                return False
            command, self._pending = self._pending, None
            with translated("the hand no longer answers"):
                try:
                    command.get()
                except franky().CommandException as error:
                    # The arm goes on: the policy sees where the fingers are.
                    what = f"move to {self.commanded:.3f} m" if self.commanded else "grasp"
                    _LOG.warning("the hand could not %s: %s", what, error)
        return True

    def _read(self) -> None:
        try:
            while not self._closing.wait(_READ_PAUSE_S):
                self._width, self._read_s = float(self._gripper.width), time.monotonic()
        except Exception as error:  # of any class; `width` raises it in the caller's thread
            self._lost = error


def _wait(command: Command) -> None:
    """Wait for the end of a command.

    Raises:
        RobotStopped: it does not end.
    """
    over = time.monotonic() + _DEADLINE_S
    while not command.wait(_LOOK_S):  # in short waits, between which signals are handled
        if time.monotonic() > over:
            leave(command)
            raise RobotStopped(f"the hand was at the same command for {_DEADLINE_S:g} s; must be at most that")
