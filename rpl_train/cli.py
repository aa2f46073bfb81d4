"""The training commands of `rpl`, added to its app through the entry-point group `rpl.commands`."""

import typer


def register(app: typer.Typer) -> None:
    """Add the training commands; importing torch is left to the commands that need it."""
