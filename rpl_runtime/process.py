"""Child processes that end with a block, and with their parent."""

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
    """Run a module's function `serve(on_ready, *arguments)` in a new process; the block's value is on_ready's argument.

    Raises:
        ServerUnavailable: the process ended before it was ready.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy gRPC's threads in an unknown state
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
    """End this process when its parent does: a parent that is killed cannot end its children."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _child(serve: Callable[..., None], ready: Connection, *arguments: str) -> None:
    end_with_parent()
    serve(ready.send, *arguments)
