"""The commands that look at a running server or change it: models, top, subgoal and health."""

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rpl_runtime.cli.options import ADDRESS, LONGEST_S, Address, Json, access_of, reaching, show
from rpl_runtime.console import Console
from rpl_runtime.errors import BundleCorrupt, InvalidInput, hint, printable

if TYPE_CHECKING:
    from rpl_runtime.client.admin import Admin

models_app = typer.Typer(
    help="The models of a running server, which needs the right to administer; and copies of bundles.\n\n"
    "Example: rpl models list",
    no_args_is_help=True,
)


@models_app.command("list")
@reaching
def list_models(context: typer.Context, address: Address = ADDRESS, as_json: Json = False) -> None:
    """List the models of a server, the default first.

    Example: rpl models list --address robots:50051
    """
    with _admin(context, address) as admin:
        models = admin.models()
    table = Table("model", "bundle", "robots", "", "folder")
    for model in models:
        note = "default" if model.is_default else "retired" if model.retired else ""
        name, digest, path = (escape(printable(text)) for text in (model.name, model.digest[:12], model.path))
        table.add_row(name, digest, str(model.robots), note, path)
    show(as_json, [model._asdict() for model in models], lambda: Console().print(table))


@models_app.command("load")
@reaching
def load_model(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="FOLDER", help="A bundle's folder on the server's machine.")],
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Serve another bundle, which replaces a model of the same name at once.

    Runs that started before keep the bundle they started with. A bundle that cannot be used changes nothing.

    Example: rpl models load models/kitchen
    """
    with _admin(context, address) as admin:
        model, replaced = admin.load(str(Path(path).absolute()))  # the server's working folder may be another
    place = f", replacing {printable(replaced[:12])}" if replaced else ""
    facts = {"model": model._asdict(), "replaced": replaced or None}
    show(as_json, facts, lambda: typer.echo(f"{printable(model.name)} is {printable(model.digest[:12])}{place}"))


@models_app.command("pull")
@reaching
def pull_model(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(help="A bundle's folder, HOST:PORT of a server, or kitchen, which comes with the project."),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Where to put it, a new folder; default: models/ and the policy's name.")
    ] = None,
    digest: Annotated[str | None, typer.Option(help="The digest it must have, or the beginning of it.")] = None,
) -> None:
    """Copy a bundle from a folder or a server, whole and checked; a server asks for the right to fetch.

    Example: rpl models pull kitchen
    """
    from rpl_runtime.client.client import Client
    from rpl_runtime.policy.bundle import load_bundle, standing_at, store_files
    from rpl_runtime.shipped import shipped

    with TemporaryDirectory() as scratch:
        if Path(source).is_dir():
            bundle = load_bundle(Path(source))
        elif ":" in source:
            waiting = Console(stderr=True).status(f"fetching the bundle of {escape(printable(source))}")
            with waiting, Client(source, access=access_of(context)) as client:
                bundle = client.fetch(Path(scratch) / "bundle")
        else:
            known = [path.parent.name for path in shipped("models").glob("*/manifest.json")]
            if source not in known:
                near, names = hint(source, known), ", ".join(known)
                raise InvalidInput(f"{source} is not there{near}; must be a folder, HOST:PORT, or one of {names}")
            bundle = load_bundle(shipped("models") / source)
    if digest is not None and not (digest and bundle.digest.startswith(digest.lower())):
        raise BundleCorrupt(f"{source} has bundle {bundle.digest}; must be {digest}")
    place = folder or Path("models") / bundle.spec.name
    standing = standing_at(place)
    if standing is not None:
        raise InvalidInput(f"{place} already holds {standing}; choose another folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    store_files(place, dict(bundle.files))
    typer.echo(f"{place} is bundle {bundle.digest[:12]}, every digest matches; next: rpl serve {place}")


@models_app.command("unload")
@reaching
def unload_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Its name or its digest.")],
    address: Address = ADDRESS,
) -> None:
    """Stop starting runs on a model; its current runs continue to their end.

    Example: rpl models unload kitchen
    """
    with _admin(context, address) as admin:
        gone = admin.unload(model)
    runs = f"; robots still running on it: {gone.robots}" if gone.robots else ""
    typer.echo(f"{printable(gone.name)} {printable(gone.digest[:12])} starts no more runs{runs}")


def top_command(
    context: typer.Context,
    address: Address = ADDRESS,
    every: Annotated[float, typer.Option(min=0.05, max=LONGEST_S, help="Seconds between updates.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, once, instead of a live table.")] = False,
) -> None:
    """Show the robots of a server, live: goals, control steps, ages of subgoals, latencies; needs the right to watch.

    Elements of the goal that are done are marked. Latencies are those of the last message of a robot's stream, inside
    the server; --json has them stage by stage. A novelty above 1 marks a state far from the training data. The key q
    ends it.

    Example: rpl top --every 0.5
    """
    from rpl_runtime.cli.top import robots_table, watch
    from rpl_runtime.client.admin import Specs

    with _admin(context, address) as admin:
        admin.robots()  # raises here if there is no server, or no right to watch
        if as_json:
            typer.echo(json.dumps([robot._asdict() | {"times": robot.times._asdict()} for robot in admin.robots()]))
        elif Console().is_terminal:
            with suppress(KeyboardInterrupt):
                watch(admin, Specs(address, access_of(context)), every)
        else:
            robots = admin.robots()
            Console().print(robots_table(robots, Specs(address, access_of(context)).of(robots), address))


subgoal_app = typer.Typer(
    help="The subgoal of a running robot; needs the right to administer.\n\nExample: rpl subgoal show kitchen",
    no_args_is_help=True,
)

RobotId = Annotated[str, typer.Argument(metavar="ROBOT", help="The robot's id, as in `rpl top`.")]


@subgoal_app.command("show")
@reaching
def show_subgoal(context: typer.Context, robot: RobotId, address: Address = ADDRESS, as_json: Json = False) -> None:
    """Show the subgoal that a robot follows, dimension by dimension.

    Example: rpl subgoal show kitchen
    """
    with _admin(context, address) as admin:
        status = admin.robot(robot)
    named = dict(zip(_state_names(context, address, status.digest), status.subgoal, strict=False))
    facts = {"robot": robot, "age": status.age, "pinned": status.pinned, "claimed": status.claimed, "subgoal": named}
    standing = "pinned" if status.pinned else f"age {status.age}"
    if status.claimed:
        standing = "pinned before, as its client says; not by an operator of this server"
    table = Table("dimension", "subgoal", title=f"{escape(printable(robot))}, {standing}")
    for name, value in named.items():
        table.add_row(escape(printable(name)), f"{value:.4f}")
    show(as_json, facts, lambda: Console().print(table))


@subgoal_app.command("pin")
@reaching
def pin_subgoal(
    context: typer.Context,
    robot: RobotId,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Dimensions to change, and their values.")
    ] = None,
    address: Address = ADDRESS,
) -> None:
    """Keep a robot on its current subgoal, with your changes, until you release it.

    Example: rpl subgoal pin kitchen microwave_door=-0.4
    """
    with _admin(context, address) as admin:
        status = admin.robot(robot)
        values = dict(zip(_state_names(context, address, status.digest), status.subgoal, strict=False))
        if not values:
            raise InvalidInput("the robot follows no subgoal yet; it has one after its first control step")
        for change in changes or []:
            name, _, text = change.partition("=")
            if name not in values:
                near = hint(name, values)
                raise InvalidInput(f"the state has no dimension {name!r}{near}; must be one of {', '.join(values)}")
            try:
                values[name] = float(text)
            except ValueError:
                raise InvalidInput(f"{change!r} sets nothing; must be NAME=VALUE with a number") from None
        admin.pin(robot, list(values.values()))
    typer.echo(f"{robot} is pinned; `rpl subgoal release {robot}` ends it")


@subgoal_app.command("veto")
@reaching
def veto_subgoal(context: typer.Context, robot: RobotId, address: Address = ADDRESS) -> None:
    """Discard a robot's subgoal: its next control step plans another, with new noise.

    Example: rpl subgoal veto kitchen
    """
    with _admin(context, address) as admin:
        admin.veto(robot)
    typer.echo(f"{robot} plans a new subgoal")


@subgoal_app.command("release")
@reaching
def release_subgoal(context: typer.Context, robot: RobotId, address: Address = ADDRESS) -> None:
    """End a pin: the robot's next control step plans a subgoal.

    Example: rpl subgoal release kitchen
    """
    with _admin(context, address) as admin:
        admin.release(robot)
    typer.echo(f"{robot} follows the policy's plans")


def _admin(context: typer.Context, address: str) -> "Admin":
    from rpl_runtime.client.admin import Admin

    return Admin(address, access=access_of(context))


def _state_names(context: typer.Context, address: str, digest: str) -> tuple[str, ...]:
    from rpl_runtime.client.client import Client

    with Client(address, digest=digest, access=access_of(context)) as client:
        return client.describe().spec.state.names


def health_command(
    context: typer.Context,
    address: Address = ADDRESS,
    service: Annotated[str | None, typer.Option(help="Model to probe; omit for readiness, '' for liveness.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=LONGEST_S, help="Seconds to wait for the answer.")] = 2.0,
) -> None:
    """Probe a server. Exits with 0 if it serves, with 1 if not, with 4 if no server answers.

    Example: rpl health --address robots:50051 --service kitchen
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from rpl_runtime.auth.client import Connection
    from rpl_runtime.wire.control import SERVICE

    statuses = health_pb2.HealthCheckResponse.ServingStatus
    request = health_pb2.HealthCheckRequest(service=SERVICE if service is None else service)
    with Connection(address, access_of(context)) as connection, connection.translated(timeout):
        try:
            check = health_pb2_grpc.HealthStub(connection.channel).Check  # type: ignore[attr-defined]
            status = check(request, timeout=timeout).status
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
                raise
            status = statuses.Value("SERVICE_UNKNOWN")
    said = {number: name for name, number in statuses.items()}.get(status, f"status {status}")
    typer.echo(said)
    raise typer.Exit(0 if said == "SERVING" else 1)
