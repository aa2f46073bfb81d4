"""`rpl tokens`: the tokens of a server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rpl_runtime.auth.tokens import Right
from rpl_runtime.console import Console

tokens_app = typer.Typer(
    help="Who may act, fetch, watch or administer, in a server's file of tokens.\n\n"
    "Example: rpl tokens new tokens.json arm --right act",
    no_args_is_help=True,
)

TokensFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file for `rpl serve --tokens`.")]


@tokens_app.command("new")
def new_token_command(
    file: TokensFile,
    name: Annotated[str, typer.Argument(help="The holder's name in the server's log.")],
    right: Annotated[
        list[Right],
        typer.Option(
            help="act: run robots; fetch: copy bundles; watch: see robots; administer: change models, goals, subgoals."
        ),
    ],
    days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500.0, help="Days until the token expires; default: never.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the token to this new file, mode 600, instead of printing it.")
    ] = None,
) -> None:
    """Grant a new token. It is shown only once: the server's file holds a hash of it.

    Example: rpl tokens new tokens.json arm --right act --days 90
    """
    from rpl_runtime.auth.tokens import add_grant, grant, new_token, write_private
    from rpl_runtime.errors import InvalidInput

    token = new_token()
    held = grant(token, name, right, None if days is None else datetime.now(UTC) + timedelta(days=days))
    if output is None:
        add_grant(file, held)
        typer.echo(token)
        return
    try:
        output.touch(mode=0o600, exist_ok=False)  # no other command takes the name meanwhile
    except FileExistsError:
        raise InvalidInput(f"{output} exists; choose a new file for the token") from None
    try:
        write_private(output, token + "\n")
        add_grant(file, held)
    except BaseException:
        output.unlink()
        raise


@tokens_app.command("revoke")
def revoke_token(file: TokensFile, name: Annotated[str, typer.Argument(help="The holder's name.")]) -> None:
    """Take a token back; a running server notices within seconds.

    Example: rpl tokens revoke tokens.json arm
    """
    from rpl_runtime.auth.tokens import remove_grant

    remove_grant(file, name)
    typer.echo(f"{name} has no token in {file} any more")


@tokens_app.command("list")
def list_tokens(file: TokensFile) -> None:
    """List the tokens of a server's file: holder, rights and expiry.

    Example: rpl tokens list tokens.json
    """
    from rpl_runtime.auth.tokens import read_grants

    table = Table("name", "rights", "expires")
    for held in read_grants(file):
        expired = held.expires is not None and held.expires <= datetime.now(UTC)
        until = "never" if held.expires is None else f"{held.expires:%Y-%m-%d %H:%M %Z}"
        table.add_row(held.name, ", ".join(sorted(held.rights)), f"[red]{until}[/]" if expired else until)
    Console().print(table)
