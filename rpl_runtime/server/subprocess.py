"""A server in a process of its own for the length of a block.

A client in another interpreter than its server measures the latency that a robot would, and simulators beside it do not
wait for the server's Python code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.process import own_process


@contextmanager
def serve_in_process(bundle: Path) -> Iterator[str]:
    """Serve a bundle at the address that is the block's value; clients reach it with `Access()`.

    Raises:
        BundleError: the bundle cannot be used.
        ServerUnavailable: the server did not start.
    """
    load_bundle(bundle)  # raises its errors here and not in the new process
    with own_process(_serve, str(bundle)) as address:
        yield address


def _serve(on_ready: Callable[[str], None], bundle: str) -> None:
    from rpl_runtime.server.server import ServerConfig, serve

    serve(load_bundle(Path(bundle)), ServerConfig(address="127.0.0.1:0"), on_ready)
