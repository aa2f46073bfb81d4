"""A server in a process of its own, for as long as a block runs.

A client that shares no interpreter with its server measures what a robot would, and simulators beside it do not take
turns with it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rpl_runtime.auth.client import plain_text
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.process import own_process


@contextmanager
def serve_in_process(bundle: Path) -> Iterator[str]:
    """Serve a bundle; the value of the block is the address, which clients in the block reach in plain text.

    Raises:
        BundleError: the bundle cannot be used.
        ServerUnavailable: the server did not start.
    """
    load_bundle(bundle)  # what is wrong with it is said here, not by a process that is about to end
    with plain_text(), own_process(_serve, str(bundle)) as address:
        yield address


def _serve(on_ready: Callable[[str], None], bundle: str) -> None:
    from rpl_runtime.server.server import ServerConfig, serve

    serve(load_bundle(Path(bundle)), ServerConfig(address="127.0.0.1:0"), on_ready)
