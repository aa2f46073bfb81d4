"""A server in a process of its own for the length of a block.

A client in another interpreter than its server measures the latency that a robot would, and simulators beside it do not
wait for the server's Python code.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rpl_runtime.planning.planning import unplanned
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import CPU, check_providers
from rpl_runtime.policy.trial import passed, tried_by_parent
from rpl_runtime.process import own_process


@contextmanager
def serve_in_process(bundle: Path, providers: str = CPU) -> Iterator[str]:
    """Serve a bundle at the address that is the block's value; clients reach it with `Access()`.

    Raises:
        BundleError: the bundle cannot be used.
        InvalidInput: an execution provider is not installed, or the bundle is a low level alone.
        ServerUnavailable: the server did not start.
    """
    with mortal_server(bundle, providers) as (address, _):
        yield address


@contextmanager
def mortal_server(bundle: Path, providers: str = CPU) -> Iterator[tuple[str, Callable[[], None]]]:
    """The same with a function that kills the server, as a power cut would: for tests of what a robot does then."""
    check_providers(providers)  # these raise their errors here and not in the new process
    loaded = load_bundle(bundle)
    if loaded.manifest.planner is not None:
        raise unplanned(loaded.spec)
    with own_process(_serve, str(bundle), providers, passed()) as served:
        process, _, address = served.partition(" ")
        yield address, lambda: os.kill(int(process), signal.SIGKILL)


def _serve(on_ready: Callable[[str], None], bundle: str, providers: str, digests: list[str]) -> None:
    from rpl_runtime.server.server import ServerConfig, serve

    tried_by_parent(digests)
    config = ServerConfig(address="127.0.0.1:0", providers=providers)
    serve(load_bundle(Path(bundle)), config, lambda bound: on_ready(f"{os.getpid()} {bound}"))
