"""The same over a Unix domain socket."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from rpl_runtime.peers import control
from rpl_runtime.peers.load import main


def serve(path: Path, on_ready: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        control.serve(path, on_ready, f"unix:{folder}/rpl.sock")


if __name__ == "__main__":
    main(serve, control.connect)
