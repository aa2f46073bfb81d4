"""`rpl view`: a page in the browser that shows robots and lets an operator step in."""

from pathlib import Path
from typing import Annotated

import typer

from rpl_runtime.cli.options import OtherAddress, access_of, server_of
from rpl_runtime.console import Console

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the page on this machine; 0 takes a free one.")]


def view_command(
    context: typer.Context,
    log: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="A file of `rpl run --log` to look at, instead of a server."),
    ] = None,
    address: OtherAddress = None,
    port: Port = 8080,
) -> None:
    """Show the robots of a server, or a log, live in a page: robots, their subgoals, what an operator can do.

    Watching needs the right to watch or to administer, acting the right to administer. Only this machine reaches the
    page, and only with the whole address that is printed. Ctrl-C ends it. `rpl docs cockpit` shows it.

    Example: rpl view --address robots:50051
    """
    from rpl_runtime.view.live import view_server
    from rpl_runtime.view.log import view_log

    if log is not None and address is not None:
        raise typer.BadParameter("give a log or --address, not both")
    pages = list[str]()

    def on_ready(page: str) -> None:
        pages.append(page)
        print_page(page)

    try:
        if log is None:
            view_server(on_ready, server_of(address), access_of(context), port)
        else:
            view_log(on_ready, log, port)
    except KeyboardInterrupt:
        if not pages:  # there was nothing to end yet
            raise


def print_page(address: str, console: Console | None = None) -> None:
    """Print where the page is; on stdout by default."""
    console = console or Console()
    console.print(f"[bold]page[/]  {address}\n[bold]stop[/]  Ctrl-C", soft_wrap=True, highlight=False)
