"""The options that several commands share, and the options before the command: how to reach a server."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rpl_runtime.auth.client import Access

ADDRESS = "127.0.0.1:50051"  # a server's, by default

Start = Literal["nominal", "perturbed"]  # of the kitchen
TaskName = Annotated[
    str, typer.Option("--task", metavar="TASK", help="module:factory of a task, or the name of an installed one.")
]
Address = Annotated[str, typer.Option(help="HOST:PORT or unix:PATH of the server.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
BundleToServe = Annotated[Path | None, typer.Option("--bundle", help="Serve this bundle meanwhile, and use it.")]
BundleFolder = Annotated[Path, typer.Argument(help="The bundle's folder.")]
Providers = Annotated[
    str,
    typer.Option(help="ONNX Runtime's execution providers that compute the policy, preferred first, such as CUDA,CPU."),
]
ExecutorName = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(
        "--executor",
        help="local, the default: processes of this machine. ray: jobs on the Ray cluster that RAY_ADDRESS names, "
        "whose machines see the same folders; without an address, Ray on this machine.",
    ),
]
PlanLead = Annotated[int, typer.Option(min=0, help="Control steps between the request of a plan and its effect.")]


def access_options(
    context: typer.Context,
    tls: Annotated[bool, typer.Option("--tls", envvar="RPL_TLS", help="Reach servers over TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar="RPL_CA", help="Use TLS and trust only the authorities in this PEM file.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="RPL_CERT", help="Your certificate, PEM, for a server that requires one.")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar="RPL_KEY", help="The key of your certificate, PEM.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="RPL_TOKEN_FILE", help="File with your token; or put the token in RPL_TOKEN.")
    ] = None,
) -> None:
    """Train, export, serve and run relay policies.

    Example: rpl --ca ca.pem --token-file me.token health --address robots:50051
    """
    given = {"RPL_TLS": tls or None, "RPL_CA": ca, "RPL_CERT": cert, "RPL_KEY": key, "RPL_TOKEN_FILE": token_file}
    context.obj = {name: str(value) for name, value in given.items() if value is not None}


def show(as_json: bool, facts: object, show_table: Callable[[], object]) -> None:
    """Print the result of a command: as JSON, or as `show_table` prints it."""
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        show_table()


def access_of(context: typer.Context) -> "Access":
    """How a command reaches servers: from the options before it and the environment, which commands read only here."""
    from rpl_runtime.auth.client import Access

    return Access.from_environment(os.environ | context.obj)
