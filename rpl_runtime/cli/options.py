"""The options that several commands share. How to reach a server is said before the command or after it."""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from rpl_runtime.errors import printable
from rpl_runtime.files import in_the_way

if TYPE_CHECKING:
    from rpl_runtime.auth.client import Access

ADDRESS = "127.0.0.1:50051"  # a server's, by default
_ADDRESS_VARIABLE = "RPL_ADDRESS"
LONGEST_S = 1e9  # [s] 30 years, the longest that a command can be told to wait: clocks and locks cannot for ever

TaskName = Annotated[
    str, typer.Option("--task", metavar="TASK", help="module:factory of a task, or the name of an installed one.")
]
Address = Annotated[str, typer.Option(envvar=_ADDRESS_VARIABLE, help="HOST:PORT or unix:PATH of the server.")]
# Of a command that can do without a server, for which an address in the environment decides nothing.
OtherAddress = Annotated[
    str | None,
    typer.Option("--address", help=f"HOST:PORT or unix:PATH of a server; default: {_ADDRESS_VARIABLE}, or {ADDRESS}."),
]
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


def to_write(folder: Path | None) -> Path | None:
    """A folder that a command writes into, there or not; the callback of such options."""
    if folder is not None and (there := in_the_way(folder)) is not None:
        raise typer.BadParameter(f"{there} is not a folder; must be a folder, or a path where one can be made")
    return folder


@contextmanager
def _values_named() -> Iterator[None]:
    """A block whose refusals of a value say what was got: pydantic's sentences, which typer repeats, leave it out."""
    try:
        yield
    except typer.BadParameter as error:
        from pydantic import ValidationError

        cause = error.__cause__  # not every version of typer checks values by pydantic
        if isinstance(cause, ValidationError):
            first = cause.errors()[0]
            said = first["msg"].removeprefix("Value error, ").partition(", unable")[0]
            got = f"got {printable(repr(first['input']), 100)}; must "
            error.message = said.replace("Input should ", got, 1)
        raise


class Commands(TyperGroup):
    """The commands of `rpl`."""

    make_context = _values_named()(TyperGroup.make_context)
    invoke = _values_named()(TyperGroup.invoke)


_AccessOption = partial(typer.Option, rich_help_panel="How to reach a server")


def _access_options(
    context: typer.Context,
    *,
    tls: Annotated[bool, _AccessOption("--tls", envvar="RPL_TLS", help="Use TLS.")] = False,
    ca: Annotated[
        Path | None, _AccessOption(envvar="RPL_CA", help="Use TLS and trust only the authorities in this PEM file.")
    ] = None,
    cert: Annotated[
        Path | None, _AccessOption(envvar="RPL_CERT", help="Your certificate, PEM, for a server that requires one.")
    ] = None,
    key: Annotated[Path | None, _AccessOption(envvar="RPL_KEY", help="The key of your certificate, PEM.")] = None,
    token_file: Annotated[
        Path | None,
        _AccessOption(envvar="RPL_TOKEN_FILE", help="File with your token; or put the token in RPL_TOKEN."),
    ] = None,
) -> None:
    """Keep what was given in the context. What only the environment says, `access_of` reads there."""
    for name, value in {"tls": tls, "ca": ca, "cert": cert, "key": key, "token_file": token_file}.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            context.obj = (context.obj or {}) | {f"RPL_{name.upper()}": str(value)}


_, *_ACCESS = inspect.signature(_access_options).parameters.values()


def reaching(command: Callable[..., None]) -> Callable[..., None]:
    """A command of a context with the options of access besides, which come before those in front of the command."""
    own = inspect.signature(command, eval_str=True)

    @wraps(command)
    def reached(context: typer.Context, **given: Any) -> None:
        _access_options(context, **{option.name: given.pop(option.name) for option in _ACCESS})
        command(context, **given)

    reached.__signature__ = own.replace(parameters=[*own.parameters.values(), *_ACCESS])  # type: ignore[attr-defined]
    return reached


def access_of(context: typer.Context) -> "Access":
    """How a command reaches servers: from its options and the environment, which commands read only here."""
    from rpl_runtime.auth.client import Access

    return Access.from_environment(os.environ | (context.obj or {}))


def server_of(address: str | None) -> str:
    """The address of the server of a command: the one given, or that of the environment, or the usual one."""
    return address or os.environ.get(_ADDRESS_VARIABLE) or ADDRESS


@dataclass(frozen=True)
class Server:
    """The server that a command uses: one that runs already, or one of its own for a bundle."""

    address: str
    access: "Access"
    bundle: Path | None = None  # served meanwhile, instead of what is at the address
    providers: str = "CPU"  # of ONNX Runtime, that compute the bundle

    @contextmanager
    def reached(self) -> Iterator[str]:
        """Its address, for the length of a block."""
        if self.bundle is None:
            yield self.address
            return
        from rpl_runtime.server.subprocess import serve_in_process

        with serve_in_process(self.bundle, self.providers) as address:
            yield address


def used_server(context: typer.Context, address: str | None, bundle: Path | None, providers: str = "CPU") -> Server:
    """The server of a command that can serve a bundle meanwhile. Its own asks nobody for access."""
    from rpl_runtime.auth.client import Access

    if address is not None and bundle is not None:
        raise typer.BadParameter("give --address or --bundle, not both")
    return Server(server_of(address), Access() if bundle else access_of(context), bundle, providers)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes its options as dataclasses: each field of one is an option, or more of them in a dataclass.

    So the options that belong together are declared, checked and passed on together.
    """
    own = inspect.signature(command, eval_str=True)
    flat = own.replace(parameters=list(_flat(own)))

    @wraps(command)
    def taken_apart(*arguments: object, **named: object) -> None:
        given = flat.bind(*arguments, **named)
        given.apply_defaults()
        command(**_in_groups(own, given.arguments))

    taken_apart.__signature__ = flat  # type: ignore[attr-defined]
    return taken_apart


def _flat(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        if isinstance(kind := parameter.annotation, type) and is_dataclass(kind):
            yield from _flat(inspect.signature(kind))
        else:
            yield parameter


def _in_groups(signature: inspect.Signature, given: Mapping[str, object]) -> dict[str, object]:
    kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return {
        name: kind(**_in_groups(inspect.signature(kind), given))
        if isinstance(kind, type) and is_dataclass(kind)
        else given[name]
        for name, kind in kinds.items()
    }


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"relay-policy {version('relay-policy')}")
        raise typer.Exit


@reaching
def rpl_options(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and end.")
    ] = False,
) -> None:
    """Train, export, serve and run relay policies. Begin with `rpl demo`, and read on with `rpl docs`.

    Example: rpl health --address robots:50051 --ca ca.pem --token-file me.token
    """


def show(as_json: bool, facts: object, show_table: Callable[[], object]) -> None:
    """Print the result of a command: as JSON, or as `show_table` prints it."""
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        show_table()
