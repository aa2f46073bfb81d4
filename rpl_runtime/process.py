"""Processes: how one ends at Ctrl-C, and child processes that end with a block and with their parent."""

import _thread
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from types import FrameType

from rpl_runtime.errors import RelayError, ServerUnavailable, lacks_memory

_EXIT_S = 10.0  # [s] for a process to end before it is killed
_GRACE_S = 1.0  # [s] from a second signal to the end of the process
_AGAIN_S = 0.005  # [s] until an interrupt that came at a wrong moment is tried again
AGAIN = signal.SIGUSR2  # which tries it again
_LATER = b"\0"  # beside the numbers of signals
INTERRUPTED_EXIT = 130


class Interrupts:
    """From now on the first Ctrl-C or SIGTERM raises KeyboardInterrupt, and the second ends the process a second later.

    During an import the first one waits for its end, since some libraries take it for a missing module, and likewise
    while a child process begins. One that was raised where nobody can catch it, such as in a destructor, is raised
    again. Made in the main thread, at most one at a time.
    """

    active = False  # whether there is one

    def __init__(self) -> None:
        self.heard = False  # whether one came
        self._ignored = False  # whether none is raised any more
        self._over = threading.Event()
        self._hears, self._tells = socket.socketpair()
        self._tells.setblocking(False)
        self._watcher = threading.Thread(target=self._end_at_second, name="second-signal", daemon=True)
        Interrupts.active = True
        handlers = {signal.SIGINT: self._first, signal.SIGTERM: self._first, AGAIN: self._raise}
        self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._raised
        # The interpreter's own handler writes here, also while the main thread is inside a call that does not return.
        self._fd = signal.set_wakeup_fd(self._tells.fileno(), warn_on_full_buffer=False)
        self._watcher.start()

    def ignore(self) -> None:
        """Raise none from now on; a second one still ends the process."""
        self._ignored = True

    def close(self) -> None:
        """Handle signals as before."""
        self.ignore()
        self._over.set()
        signal.set_wakeup_fd(self._fd)
        sys.unraisablehook = self._unraisable
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._tells.close()
        self._watcher.join()
        self._hears.close()
        Interrupts.active = False

    def _first(self, number: int, frame: FrameType | None) -> None:
        if not self.heard:
            self.heard = True
            self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._ignored:
            return
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code is _Process.start.__code__:
                self._tells.send(_LATER)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    def _raised(self, error: "sys.UnraisableHookArgs") -> None:
        if issubclass(error.exc_type, KeyboardInterrupt):
            self._tells.send(_LATER)
        else:
            self._unraisable(error)

    def _end_at_second(self) -> None:
        signals = 0
        while signals < 2:
            received = self._hears.recv(1)
            if not received:
                return
            if received == _LATER:
                time.sleep(_AGAIN_S)
                _thread.interrupt_main(AGAIN)
            signals += received[0] in (signal.SIGINT, signal.SIGTERM)
        if not self._over.wait(_GRACE_S):
            os.write(2, b"interrupted again: the process ends here; an arm under way is left to its own stop\n")
            os._exit(INTERRUPTED_EXIT)


@contextmanager
def interruptible() -> Iterator[None]:
    """A block with `Interrupts`, unless there are some; none outside of the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread() or Interrupts.active:
        yield
        return
    interrupts = Interrupts()
    try:
        yield
    finally:
        interrupts.close()


class _Process(SpawnProcess):
    def start(self) -> None:
        """Begin deaf to Ctrl-C, which a terminal sends to every process: the parent hears it and ends its children."""
        resource_tracker.ensure_running()  # to start it would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(SpawnContext):
    Process = _Process  # type: ignore[assignment]


CONTEXT = _Context()  # of every child: a fork would copy gRPC's threads in an unknown state


def end_workers() -> None:
    """Terminate the workers of this process's pools, which would otherwise finish their jobs after Ctrl-C."""
    for child in multiprocessing.active_children():
        if not child.daemon:
            child.terminate()


@contextmanager
def own_process(serve: Callable[..., None], *arguments: object) -> Iterator[str]:
    """Run a module's function `serve(on_ready, *arguments)` in a new process; the block's value is on_ready's argument.

    Raises:
        RelayError, MemoryError: what the function raised before it was ready.
        ServerUnavailable: the process ended before it was ready.
    """
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_child, args=(serve, there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        try:
            said = here.recv()
        except EOFError:
            process.join()
            raise ServerUnavailable(
                f"the server ended with exit code {process.exitcode} before it was ready; its own output says why"
            ) from None
        if isinstance(said, Exception):
            raise said
        yield said
    finally:
        process.terminate()
        process.join(_EXIT_S)
        process.kill()
        process.join()
        process.close()
        here.close()


def give_way() -> None:
    """Let every other process of the machine run before this one, for good.

    A nice value, all that other systems than Linux have, finishes its time slice first, some milliseconds.
    """
    if sys.platform != "linux":
        os.nice(19)
        return
    for thread in os.listdir("/proc/self/task"):  # those that begin later are as the thread that begins them
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def end_with_parent() -> None:
    """End this process when its parent does: a parent that is killed cannot end its children."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _child(serve: Callable[..., None], ready: Connection, *arguments: object) -> None:
    end_with_parent()
    began = False

    def on_ready(value: object) -> None:
        nonlocal began
        began = True
        ready.send(value)

    try:
        serve(on_ready, *arguments)
    except Exception as error:
        if began or not (isinstance(error, RelayError) or lacks_memory(error)):
            raise
        ready.send(MemoryError() if lacks_memory(error) else error)
