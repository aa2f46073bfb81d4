"""The command `rpl`. It stands outside of the packages so that Ctrl-C is heard before one of them is imported."""

import os
import signal


def main() -> None:
    """Run the command line; until its own handlers are there, Ctrl-C ends the process with one word."""
    signal.signal(signal.SIGINT, _end)
    from rpl_runtime.cli import main as run

    run()


def _end(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)  # nothing has begun
