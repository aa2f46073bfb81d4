"""This project as a peer over a Unix domain socket."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from rpl_runtime.bench.load import main
from rpl_runtime.bench.peers import control


def serve(path: Path, on_ready: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        control.serve(path, on_ready, f"unix:{folder}/rpl.sock")


if __name__ == "__main__":
    main(serve, control.connect)
