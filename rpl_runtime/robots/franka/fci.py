"""Franka's control interface, through the vendor's client library franky, on a thread of its own.

Its exceptions become this project's, and each call has a deadline.
"""

import contextlib
import ctypes
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import ModuleType
from typing import Any, TypeVar

from rpl_runtime.errors import RelayError, RobotStopped, require

# franky is optional and untyped; the names of its types.
Arm = Any  # franky.Robot
ArmState = Any  # franky.RobotState, in Franka's zeros
Gripper = Any  # franky.Gripper
Command = Any  # franky.BoolFuture
Motion = Any  # franky.JointWaypointMotion

_DEADLINE_S = 2.0  # [s] for a call to return; libfranka gives a silent robot one second
_FINISH_S = 0.5  # [s] for a call to return after Ctrl-C
_T = TypeVar("_T")
_Call = tuple[Callable[[], Any], Future[Any]]  # to make, and its value


def franky() -> ModuleType:
    """The vendor's client library.

    Raises:
        MissingExtra: the `franka` extra is not installed.
    """
    return require("franky", "franka")


class Calls:
    """A thread that makes calls into franky for others, which give up on a call at its deadline.

    franky puts the thread that connects to an arm at a real-time priority. Its control loop, which it starts later,
    must inherit that, and no other thread may.

    Args:
        name: of the thread.

    After a call that did not return, every other one fails with its message: the thread is still in it.
    """

    def __init__(self, name: str) -> None:
        self._calls = queue.SimpleQueue[_Call | None]()
        self._hung: str | None = None
        self.close = weakref.finalize(self, self._calls.put, None)  # ends the thread
        threading.Thread(target=_make, args=(self._calls,), name=name, daemon=True).start()

    def __call__(self, what: str, call: Callable[[], _T], within_s: float = _DEADLINE_S) -> _T:
        """The value of `call()`, which franky's function `what` is in.

        Raises:
            TimeoutError: it has not returned within a time [s].
        """
        made = Future[_T]()
        if self._hung is None:
            self._calls.put((call, made))
            try:
                wait([made], within_s)
            except KeyboardInterrupt:
                wait([made], _FINISH_S)  # so that the caller knows whether it took place
                raise
            if made.done():
                return made.result()
            self._hung = f"franky's {what} did not return within {within_s:g} s; the arm was left to its own stop"
        raise TimeoutError(self._hung)


def _make(calls: "queue.SimpleQueue[_Call | None]") -> None:
    while (taken := calls.get()) is not None:
        call, made = taken
        try:
            made.set_result(call())
        except Exception as error:  # of any class; the caller gets it
            made.set_exception(error)
        del call, made, taken  # they hold the arm, which ends with its last holder


def leave(held: Arm | Command) -> None:
    """Keep an object of franky's to the end of the process: its own end would wait for the robot without a deadline."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


@contextlib.contextmanager
def translated(what: str, kind: type[RelayError] = RobotStopped) -> Iterator[None]:
    """Raise franky's exceptions and missed deadlines in the block as errors of a kind; `what` begins the message."""
    library = franky()
    try:
        yield
    except (library.Exception, RuntimeError, TimeoutError) as error:  # its motion planner raises a RuntimeError
        why = " ".join(str(error).removeprefix("libfranka: ").split())
        remedy = "; --no-realtime drives without one" if "realtime" in why.lower() else ""
        raise kind(f"{what}: {why}{remedy}") from None
