"""The command `rpl`: one typer app. Commands import what they need when they run, so `rpl --help` is instant.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 an unusable bundle, 4 no server, no robot or no free
port, 5 not allowed, 6 a robot stopped, 130 interrupted.
"""

import json
import sys
from contextlib import ExitStack
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rpl_runtime.cli.admin import health_command, models_app, subgoal_app, top_command
from rpl_runtime.cli.measure import bench_command, evaluate_command
from rpl_runtime.cli.options import ADDRESS, access_options
from rpl_runtime.cli.serve import serve_command
from rpl_runtime.cli.tokens import tokens_app
from rpl_runtime.errors import RelayError

app = typer.Typer(
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
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 1)


def _fail(message: str, code: int) -> None:
    # Escaped: units such as [rad] in a message are not markup.
    Console(stderr=True).print("[bold red]error:[/]", escape(message), highlight=False, soft_wrap=True)
    sys.exit(code)


_FRANKA = "A Franka"  # heads its own options in the help

app.callback()(access_options)
app.command("serve")(serve_command)
app.command("health")(health_command)
app.command("top")(top_command)
app.add_typer(models_app, name="models")
app.add_typer(subgoal_app, name="subgoal")
app.add_typer(tokens_app, name="tokens")


@app.command("inspect")
def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Verify a bundle and say what it is: sizes, units, limits, clock, goals, origin, results."""
    from rpl_runtime.cli.inspect import inspect_bundle, print_facts

    facts = inspect_bundle(bundle)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        print_facts(facts)


class RobotKind(StrEnum):
    KITCHEN = "kitchen"
    FRANKA = "franka"


class ProfileKind(StrEnum):
    FR3 = "fr3"
    PANDA = "panda"


class LowLevel(StrEnum):
    REMOTE = "remote"
    LOCAL = "local"


class StartKind(StrEnum):
    NOMINAL = "nominal"
    PERTURBED = "perturbed"


@app.command("run")
def run_command(
    context: typer.Context,
    goal: Annotated[str, typer.Option(help="Elements with commas, or a compound goal of the policy such as mkbs.")],
    robot: Annotated[RobotKind, typer.Option(help="What to drive.")] = RobotKind.KITCHEN,
    address: Annotated[
        str | None,
        typer.Option(help=f"HOST:PORT or unix:PATH of a server, or several with commas; default {ADDRESS}."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle for the run instead.")] = None,
    model: Annotated[str | None, typer.Option(help="One of the server's models, by name; default its first.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**63 - 1, help="Draw the start and sample the policy with it; without: start 0, the mode."
        ),
    ] = None,
    start: Annotated[StartKind, typer.Option(help="Where the kitchen starts.")] = StartKind.NOMINAL,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: an episode, 280 steps of 0.08 s.")] = None,
    robot_id: Annotated[str | None, typer.Option(help="The robot's name on the server, by default what it is.")] = None,
    low_level: Annotated[
        LowLevel, typer.Option(help="local: act beside the robot and ask the server only for plans; same actions.")
    ] = LowLevel.REMOTE,
    plan_lead: Annotated[
        int, typer.Option(min=0, help="Ask for a plan so many steps before it takes effect, to hide the network.")
    ] = 0,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Kitchen: seconds for which a server that is gone is looked for.")
    ] = 30.0,
    host: Annotated[
        str | None, typer.Option(help="Franka: its address; sim simulates one for the run.", rich_help_panel=_FRANKA)
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            help="Where its objects are: mirror (a simulated kitchen around it), fixed (untouched), or HOST:PORT of "
            "an rpl.v1.ObjectStates.",
            rich_help_panel=_FRANKA,
        ),
    ] = None,
    profile: Annotated[ProfileKind, typer.Option(help="The limits it keeps.", rich_help_panel=_FRANKA)] = (
        ProfileKind.FR3
    ),
    speed: Annotated[
        float, typer.Option(help="Share of these limits that is used, up to 1.", rich_help_panel=_FRANKA)
    ] = 0.1,
    workspace: Annotated[
        tuple[float, float, float, float, float, float] | None,
        typer.Option(
            help="Where its flange may be, in metres from its base: lowest x, y, z, then highest x, y, z.",
            rich_help_panel=_FRANKA,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Everything but the command to its motors.", rich_help_panel=_FRANKA)
    ] = False,
    realtime: Annotated[
        bool, typer.Option(help="Insist on a real-time kernel, as its vendor asks.", rich_help_panel=_FRANKA)
    ] = True,
    record_to: Annotated[
        Path | None,
        typer.Option("--record", help="Kitchen: add the run to the Minari data set in this folder, named NAME-vN."),
    ] = None,
    log_to: Annotated[
        Path | None, typer.Option("--log", help="Log every step to this new .mcap file, for Foxglove and `rpl replay`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Drive a robot by a served policy. Exits with 0 if every element of the goal was done, with 1 if not.

    The kitchen waits for its server: one that dies or is cut off is looked for, and the run goes on where it stood. A
    Franka does not wait: after two control periods without an action, at Ctrl-C, or where anything is wrong it comes
    to rest within its limits and the run ends with 6 (130 after Ctrl-C); only another run drives it again. That is a
    software stop: keep the robot's own one in your hand.

    rpl run --robot franka --host sim --objects mirror --speed 1 --bundle models/kitchen --goal microwave,kettle
    """
    from rpl_runtime.cli.run import SIMULATED, FrankaOptions, RunOptions, run_franka, run_kitchen

    if address is not None and bundle is not None:
        raise typer.BadParameter("--address and --bundle exclude each other")
    options = RunOptions(
        goal=goal,
        address=address or ADDRESS,
        bundle=bundle,
        robot_id=robot_id or robot.value,
        model=model,
        seed=seed,
        steps=steps,
        local=low_level is LowLevel.LOCAL,
        plan_lead=plan_lead,
        log_to=log_to,
        as_json=as_json,
    )
    if robot is RobotKind.KITCHEN:
        _refuse_franka_options(context)
        raise typer.Exit(run_kitchen(options, start is StartKind.PERTURBED, patience, record_to))
    if host is None:
        raise typer.BadParameter(f"a Franka needs a --host, its address, or {SIMULATED}")
    if objects is None:
        raise typer.BadParameter("a Franka needs to be told where its --objects are: mirror, fixed or HOST:PORT")
    if record_to is not None:
        raise typer.BadParameter("--record keeps runs of the kitchen; --log keeps those of a Franka")
    franka = FrankaOptions(host, objects, profile.value, speed, workspace, dry_run, realtime)
    raise typer.Exit(run_franka(options, franka))


def _refuse_franka_options(context: typer.Context) -> None:
    """A --dry-run that the kitchen passes over in silence would be taken for one."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if getattr(option, "rich_help_panel", None) == _FRANKA and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{'/'.join((*option.opts, *option.secondary_opts))} is for --robot franka")


@app.command("replay")
def replay_command(
    log: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file of `rpl run --log`, whole or broken off.")
    ],
    address: Annotated[str | None, typer.Option(help=f"HOST:PORT or unix:PATH of a server; default {ADDRESS}.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle for the replay instead.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference accepted, each dimension in its own unit.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run a log through a policy once more: does it decide the same in the states that were logged?

    Goal, seed, robot id and plan_lead are those of the log. Exits with 0 if no action and no subgoal differs by more
    than the tolerance, with 1 if one does. On the machine that ran it, the same bundle decides the same to the bit.
    """
    from dataclasses import asdict

    from rpl_runtime.client.client import Client
    from rpl_runtime.recording.mcap import read_log
    from rpl_runtime.recording.replay import replay, replay_table
    from rpl_runtime.server.subprocess import serve_in_process

    if address is not None and bundle is not None:
        raise typer.BadParameter("--address and --bundle exclude each other")
    logged = read_log(log)
    with ExitStack() as stack:
        where = stack.enter_context(serve_in_process(bundle)) if bundle else address or ADDRESS
        control = stack.enter_context(stack.enter_context(Client(where)).control())
        with Console(stderr=True).status(f"replaying {len(logged.steps)} steps"):
            result = replay(logged, control)
    within = result.within(tolerance)
    if as_json:
        typer.echo(json.dumps({**asdict(result), "tolerance": tolerance, "within": within}, indent=1))
    else:
        Console().print(replay_table(result, tolerance))
    raise typer.Exit(0 if within else 1)


app.command("evaluate")(evaluate_command)
app.command("bench")(bench_command)
