"""Processes of our own: one that lives as long as a block, and none that outlives its parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from rpl_runtime.errors import ServerUnavailable

_EXIT_S = 10.0  # [s] for a process to end before it is killed


@contextmanager
def own_process(serve: Callable[..., None], *arguments: str) -> Iterator[str]:
    """Run `serve(on_ready, *arguments)`, a module's function, in a new process; the value is what on_ready got.

    Raises:
        ServerUnavailable: the process ended before it was ready.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy gRPC's threads in whatever state they are
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(serve, there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        try:
            address = here.recv()
        except EOFError:
            process.join()
            raise ServerUnavailable(
                f"the server ended with exit code {process.exitcode} before it was ready; its own output says why"
            ) from None
        yield address
    finally:
        process.terminate()
        process.join(_EXIT_S)
        process.kill()
        process.join()
        process.close()
        here.close()


def end_with_parent() -> None:
    """Let this process end when its parent does: one that is killed cannot end its children."""
    threading.Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _child(serve: Callable[..., None], ready: Connection, *arguments: str) -> None:
    end_with_parent()
    serve(ready.send, *arguments)
