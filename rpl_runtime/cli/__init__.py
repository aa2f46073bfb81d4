"""The command `rpl`."""

from rpl_runtime.cli.app import main

__all__ = ["main"]
