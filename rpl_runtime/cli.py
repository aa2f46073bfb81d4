"""The command `rpl`: one typer app. Commands import what they need when they run, so `rpl --help` is instant.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 an unusable bundle, 4 no server or no free port,
130 interrupted.
"""

import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console

from rpl_runtime.errors import RelayError

app = typer.Typer(
    help="Train, export, serve and run relay policies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; every foreseen error ends as one sentence on stderr and an exit code."""
    for entry_point in entry_points(group="rpl.commands"):
        entry_point.load()(app)
    try:
        app()
    except RelayError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    Console(stderr=True).print("[bold red]error:[/]", message, highlight=False, soft_wrap=True, markup=True)
    sys.exit(code)


@app.callback()
def _root() -> None:
    """Keeps `rpl` a group of commands."""
