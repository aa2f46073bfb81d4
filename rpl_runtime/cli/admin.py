"""The commands that look at a running server or change it: models, top, subgoal and health."""

import json
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rpl_runtime.cli.options import ADDRESS, Address, Json

if TYPE_CHECKING:
    from rpl_runtime.client.admin import ServedModel

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
