"""A server in a process of its own, for as long as a block runs.

In: what to serve. Out: the address where it answers. A client that shares no interpreter with its server measures
what a robot would, and simulators beside it do not take turns with it.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from rpl_runtime.auth.client import plain_text
from rpl_runtime.errors import ServerUnavailable
from rpl_runtime.policy.bundle import load_bundle

_EXIT_S = 10.0  # [s] for a server to drain before it is killed


@contextmanager
def hosting(bundle: Path) -> Iterator[str]:
    """Serve a bundle; the value of the block is the address, which clients in the block reach in plain text.

    Raises:
        BundleError: the bundle cannot be used.
        ServerUnavailable: the server did not start.
    """
    load_bundle(bundle)  # what is wrong with it is said here, not by a process that is about to end
    with plain_text(), own_process(_serve, str(bundle)) as address:
        yield address


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


def _serve(on_ready: Callable[[str], None], bundle: str) -> None:
    from rpl_runtime.server.server import ServerConfig, serve

    serve(load_bundle(Path(bundle)), ServerConfig(address="127.0.0.1:0"), on_ready)
