"""The commands of an operator: serve, models, top, subgoal, tokens, health; and how any command shows who it is.

Like cli.py, which takes them in, they import what they need when they run.
"""

import json
import os
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rpl_runtime.auth.tokens import Right
from rpl_runtime.telemetry.log_format import LogFormat, write_log

if TYPE_CHECKING:
    from rpl_runtime.client.admin import ServedModel

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


def serve_command(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Folders; the first is the default of calls without model."),
    ],
    address: Annotated[
        str,
        typer.Option(help="HOST:PORT to listen on, port 0 for a free one, or unix:PATH; see --tls-cert, --insecure."),
    ] = ADDRESS,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_CERT", help="Speak TLS with this chain of certificates, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_KEY", help="Its key, PEM; mode 640 or less.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(envvar="RPL_SERVE_CLIENT_CA", help="Turn away who has no certificate of these authorities, PEM."),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TOKENS", help="Who may do what, as `rpl tokens new` writes it.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text for other machines, where the network itself is trusted.")
    ] = False,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for which runs may go on after SIGTERM; a second signal ends them.")
    ] = 5.0,
    max_models: Annotated[
        int, typer.Option(min=1, help="Models held at once, those with them that runs began on before a swap.")
    ] = 8,
    max_robots: Annotated[int, typer.Option(min=1, help="Robots that run at once.")] = 1024,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds of silence after which a robot is free again.")] = 300.0,
    streams: Annotated[int, typer.Option(min=1, help="Control streams that one caller has at once.")] = 256,
    calls: Annotated[float, typer.Option(min=0.1, help="Calls a second of one caller, in bursts of 5 s.")] = 200.0,
    messages: Annotated[
        float, typer.Option(min=0.1, help="Messages a second of one caller, in bursts of 5 s; a robot sends 12.5.")
    ] = 20_000.0,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve a page for Prometheus here, in plain text to all.")
    ] = None,
    traces: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry spans to the collector at http://HOST:PORT.")
    ] = None,
    log: Annotated[LogFormat, typer.Option(help="How runs, refusals and errors are logged, on standard error.")] = (
        LogFormat.TEXT
    ),
    reflection: Annotated[
        bool | None,
        typer.Option(help="Describe the service to grpcurl and its like; by default on this machine alone."),
    ] = None,
) -> None:
    """Serve bundles over gRPC until Ctrl-C or SIGTERM.

    On this machine alone, unless --address says otherwise; other machines are served over TLS, or with --insecure.
    Certificates and tokens are read again when their files change. docs/serving.md takes an operator through it.
    """
    # gRPC's own lines about a port that is taken would stand beside our sentence about it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from rpl_runtime.auth.quotas import QuotaConfig
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.cli.report import print_serving
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.server.server import ServerConfig, serve

    config = ServerConfig(
        address=address,
        drain_s=drain,
        security=SecurityConfig(tls_cert, tls_key, client_ca, tokens, insecure),
        quotas=QuotaConfig(streams, calls, messages),
        max_models=max_models,
        max_robots=max_robots,
        idle_s=idle,
        metrics=metrics,
        traces=traces,
        reflection=reflection,
    )
    loaded = [load_bundle(bundle) for bundle in bundles]
    write_log(log, sys.stderr)
    serve(loaded, config, on_ready=lambda bound: print_serving(loaded, bound, config.security))


# ------------------------------------------------------------------------------------------------ models

models_app = typer.Typer(help="What a running server serves; needs the right to administer.", no_args_is_help=True)


@models_app.command("list")
def list_models(address: Address = ADDRESS, as_json: Json = False) -> None:
    """The models that a server holds, the default first."""
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        _print_models(admin.models(), as_json)


@models_app.command("load")
def load_model(
    path: Annotated[str, typer.Argument(metavar="FOLDER", help="A bundle's folder on the server's machine.")],
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Serve one more bundle, or the next version of one: it takes its name's place at once.

    Runs that began before stay on the pair they began with. A bundle that cannot be used changes nothing.
    """
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        # A folder is named as it is seen from here, which is where the server is too unless it says otherwise.
        model, replaced = admin.load(str(Path(path).absolute()))
    if as_json:
        typer.echo(json.dumps({"model": model._asdict(), "replaced": replaced or None}, indent=1))
    else:
        place = f", in the place of {replaced[:12]}" if replaced else ""
        typer.echo(f"{model.name} is {model.digest[:12]}{place}")


@models_app.command("unload")
def unload_model(
    model: Annotated[str, typer.Argument(help="Its name or its digest.")], address: Address = ADDRESS
) -> None:
    """Take a model out of service; runs on it go on to their end."""
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        gone = admin.unload(model)
    runs = f"; {gone.robots} robots still run on it" if gone.robots else ""
    typer.echo(f"{gone.name} {gone.digest[:12]} takes no more runs{runs}")


def _print_models(models: "list[ServedModel]", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([model._asdict() for model in models], indent=1))
        return
    table = Table("model", "bundle", "robots", "", "folder")
    for model in models:
        note = "default" if model.is_default else "retired" if model.retired else ""
        table.add_row(escape(model.name), model.digest[:12], str(model.robots), note, escape(model.path))
    Console().print(table)


# ------------------------------------------------------------------------------------------------ robots


def top_command(
    address: Address = ADDRESS,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, once, instead of a live table.")] = False,
) -> None:
    """Show the robots of a server, live: steps, ages of subgoals, latencies; needs the right to administer.

    Times are those of the last message of a robot's stream, in the server alone. A novelty above 1 is that of a state
    far from the training data.
    """
    from rpl_runtime.cli.top import robots_table, watch
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        if as_json:
            typer.echo(json.dumps([robot._asdict() | {"times": robot.times._asdict()} for robot in admin.robots()]))
        elif Console().is_terminal:
            with suppress(KeyboardInterrupt):
                watch(admin, every)
        else:
            Console().print(robots_table(admin.robots()))


subgoal_app = typer.Typer(help="What a running robot is led to; needs the right to administer.", no_args_is_help=True)

RobotId = Annotated[str, typer.Argument(metavar="ROBOT", help="Its id, as `rpl top` shows it.")]


@subgoal_app.command("show")
def show_subgoal(robot: RobotId, address: Address = ADDRESS, as_json: Json = False) -> None:
    """The subgoal that a robot follows, dimension by dimension."""
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        status = admin.robot(robot)
    named = dict(zip(_state_names(address, status.digest), status.subgoal, strict=False))
    if as_json:
        facts = {"robot": robot, "age": status.age, "pinned": status.pinned, "subgoal": named}
        typer.echo(json.dumps(facts, indent=1))
        return
    standing = "pinned" if status.pinned else f"age {status.age}"
    table = Table("dimension", "subgoal", title=f"{escape(robot)}, {standing}")
    for name, value in named.items():
        table.add_row(escape(name), f"{value:.4f}")
    Console().print(table)


@subgoal_app.command("pin")
def pin_subgoal(
    robot: RobotId,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Dimensions in which it is to be another.")
    ] = None,
    address: Address = ADDRESS,
) -> None:
    """Have a robot keep the subgoal it follows now, changed as you say, whatever is planned, until it is released."""
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        status = admin.robot(robot)
        admin.pin(robot, _changed(status.subgoal, _state_names(address, status.digest), changes or []))
    typer.echo(f"{robot} is pinned; `rpl subgoal release {robot}` ends it")


@subgoal_app.command("veto")
def veto_subgoal(robot: RobotId, address: Address = ADDRESS) -> None:
    """Have a robot give up its subgoal: its next step plans another, with noise of its own."""
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        admin.veto(robot)
    typer.echo(f"{robot} plans anew")


@subgoal_app.command("release")
def release_subgoal(robot: RobotId, address: Address = ADDRESS) -> None:
    """End a pin: the robot's next step plans."""
    from rpl_runtime.client.admin import Admin

    with Admin(address) as admin:
        admin.release(robot)
    typer.echo(f"{robot} follows what is planned")


def _state_names(address: str, digest: str) -> tuple[str, ...]:
    from rpl_runtime.client.client import Client

    with Client(address, digest=digest) as client:
        return client.describe().spec.state.names


def _changed(subgoal: tuple[float, ...], names: tuple[str, ...], changes: list[str]) -> list[float]:
    """A subgoal with some dimensions set."""
    from rpl_runtime.errors import InvalidInput

    values = dict(zip(names, subgoal, strict=False))
    if not values:
        raise InvalidInput("the robot follows no subgoal yet; it has one after its first step")
    for change in changes:
        name, _, text = change.partition("=")
        try:
            number = float(text)
        except ValueError:
            raise InvalidInput(f"{change!r} sets nothing; must be NAME=VALUE with a number") from None
        if name not in values:
            raise InvalidInput(f"{name!r} is no dimension of the state; must be one of {', '.join(names)}")
        values[name] = number
    return list(values.values())


# ------------------------------------------------------------------------------------------------ tokens

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


# ------------------------------------------------------------------------------------------------ health


def health_command(
    address: Address = ADDRESS,
    service: Annotated[
        str | None, typer.Option(help="A model's name; without: whether the server is ready at all; '': it lives.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 2.0,
) -> None:
    """Ask a server how it is, for probes. Exits with 0 if it serves, with 1 if not, with 4 if nobody answers."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from rpl_runtime.auth.client import Connection
    from rpl_runtime.wire.control import SERVICE

    request = health_pb2.HealthCheckRequest(service=SERVICE if service is None else service)
    with closing(Connection(address)) as connection, connection.translated(timeout):
        try:
            check = health_pb2_grpc.HealthStub(connection.channel).Check  # type: ignore[attr-defined]
            status = check(request, timeout=timeout).status
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
                raise
            status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    said = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    typer.echo(said)
    raise typer.Exit(0 if said == "SERVING" else 1)
