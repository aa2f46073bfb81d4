"""The options that several commands share, and those before any command: how a server is reached."""

import os
from pathlib import Path
from typing import Annotated

import typer

ADDRESS = "127.0.0.1:50051"  # of a server, unless told otherwise

Address = Annotated[str, typer.Option(help="HOST:PORT or unix:PATH of the server.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def access_options(
    tls: Annotated[bool, typer.Option("--tls", envvar="RPL_TLS", help="Reach servers over TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar="RPL_CA", help="Over TLS, trusting the authorities in this PEM file alone.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="RPL_CERT", help="The client's own certificate, PEM, where a server asks.")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar="RPL_KEY", help="Its key, PEM.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="RPL_TOKEN_FILE", help="File of the token; or the token itself in RPL_TOKEN.")
    ] = None,
) -> None:
    """Train, export, serve and run relay policies."""
    # The environment is the one home of these: what a command starts, as evaluations do, inherits them.
    given = {"RPL_TLS": tls or None, "RPL_CA": ca, "RPL_CERT": cert, "RPL_KEY": key, "RPL_TOKEN_FILE": token_file}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
