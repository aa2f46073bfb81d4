"""`rpl tokens`: who may do what on a server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rpl_runtime.auth.tokens import Right

tokens_app = typer.Typer(help="Who may act, fetch or administer, in a server's file.", no_args_is_help=True)

TokensFile = Annotated[Path, typer.Argument(metavar="FILE", help="What `rpl serve --tokens` names.")]


@tokens_app.command("new")
def new_token_command(
    file: TokensFile,
    name: Annotated[str, typer.Argument(help="Whose it is, as the server's log will say.")],
    right: Annotated[
        list[Right], typer.Option(help="act: drive robots; fetch: copy bundles; administer. Repeat it for several.")
    ],
    days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500.0, help="Days until it expires; without, never.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the token to this new file, mode 600, instead of printing it.")
    ] = None,
) -> None:
    """Grant a new token. It is shown this once: the server's file keeps nothing from which it could be found."""
    from rpl_runtime.auth.tokens import add_grant, grant, new_token, write_private
    from rpl_runtime.errors import InvalidInput

    if output is not None and output.exists():
        raise InvalidInput(f"{output} exists; choose a new file for the token")
    token = new_token()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    held = grant(token, name, right, expires)
    if output is not None:
        write_private(output, token + "\n")
    add_grant(file, held)
    if output is None:
        typer.echo(token)


@tokens_app.command("list")
def list_tokens(file: TokensFile) -> None:
    """The tokens of a server's file: whose, with what rights, until when."""
    from rpl_runtime.auth.tokens import read_grants

    table = Table("name", "rights", "expires")
    for held in read_grants(file):
        expired = held.expires is not None and held.expires <= datetime.now(UTC)
        until = "never" if held.expires is None else f"{held.expires:%Y-%m-%d %H:%M %Z}"
        table.add_row(held.name, ", ".join(sorted(held.rights)), f"[red]{until}[/]" if expired else until)
    Console().print(table)
