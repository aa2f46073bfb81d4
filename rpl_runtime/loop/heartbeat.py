"""The heartbeat of a run loop, and a process of its own that ends a loop without one.

The watchdog of a run (watchdog.py) works in the loop that it watches, and cannot act while that hangs. This process
interrupts the loop as Ctrl-C does, so that it stops its robot, and kills it a second later if it did not begin to.
It cannot command the robot itself, which takes one client at a time and stops by itself when that is gone.
"""

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Self

from rpl_runtime.process import CONTEXT

_INTERRUPTED_S = 1.0  # [s] for a loop to begin to stop its robot


class Heartbeat:
    """The heartbeat of this process's run loop, watched for the length of a block."""

    def __init__(self) -> None:
        self._due_s: float | None = None  # [s] monotonic
        watched, self._beats = CONTEXT.Pipe(duplex=False)
        os.set_blocking(self._beats.fileno(), False)  # a watcher that hangs must not hold up the loop
        self._watcher = CONTEXT.Process(target=_watch, args=(watched, os.getpid()), name="heartbeat", daemon=True)
        self._watcher.start()
        watched.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._beats.close()  # which ends the watcher
        self._watcher.join()
        self._watcher.close()

    @property
    def late(self) -> bool:
        """Whether the last beat is overdue."""
        return self._due_s is not None and time.monotonic() > self._due_s

    def beat(self, next_s: float | None) -> bool:
        """Say that the loop lives, and when it will say so again: within a time [s], or never.

        Returns whether somebody watches.
        """
        self._due_s = None if next_s is None else time.monotonic() + next_s
        try:
            self._beats.send(next_s)
        except BlockingIOError:  # many beats wait to be heard
            return self._watcher.is_alive()
        except BrokenPipeError:
            return False
        return True


def _watch(beats: Connection, loop: int) -> None:
    next_s: float | None = None
    try:
        while True:
            while beats.poll(next_s):
                next_s = beats.recv()
            _tell(f"the run loop has not told for {next_s:g} s that it lives; it is interrupted")
            os.kill(loop, signal.SIGTERM)
            if not beats.poll(_INTERRUPTED_S):
                break
    except EOFError:
        return
    if os.getppid() == loop:
        _tell("the run loop does not stop its robot; it is killed, and the robot left to its own stop")
        os.kill(loop, signal.SIGKILL)


def _tell(what: str) -> None:
    os.write(2, f"{what}\n".encode())
