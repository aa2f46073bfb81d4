"""The command `rpl`: one typer app. Commands import what they need when they run, so that `rpl --help` is fast.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 an unusable bundle, 4 no server, no robot or no free port, 5 a
right is missing, 6 a robot stopped, 130 interrupted.
"""

import errno
import os
import sys
from contextlib import ExitStack
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from rpl_runtime.cli.admin import health_command, models_app, subgoal_app, top_command
from rpl_runtime.cli.first.demo import demo_command
from rpl_runtime.cli.first.docs import docs_command
from rpl_runtime.cli.first.doctor import doctor_command
from rpl_runtime.cli.first.new import new_command
from rpl_runtime.cli.franka.accept import accept_command
from rpl_runtime.cli.measure.commands import bench_command, evaluate_command
from rpl_runtime.cli.options import (
    BundleFolder,
    BundleToServe,
    Commands,
    Json,
    OtherAddress,
    PlanLead,
    Providers,
    TaskName,
    access_of,
    reaching,
    rpl_options,
    server_of,
    show,
)
from rpl_runtime.cli.serve import serve_command
from rpl_runtime.cli.tokens import tokens_app
from rpl_runtime.cli.view import view_command
from rpl_runtime.console import Console, count
from rpl_runtime.errors import RelayError, printable
from rpl_runtime.factories import own_code_told

# Markdown: rich's own markup would take a unit such as [m] in a help text for a tag.
app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def main() -> None:
    """Run the command line; every expected error becomes one sentence on stderr and an exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own sentence about a failure is enough
    _add_commands()
    try:
        with own_code_told():
            app(prog_name="rpl")
    except RelayError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(_told(error), 1)


@cache
def _add_commands() -> None:
    """Add the commands of other packages, once in a process."""
    for entry_point in entry_points(group="rpl.commands"):
        entry_point.load()(app)


def _told(error: OSError) -> str:
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if error.errno == errno.ENOSPC:  # files are named (files.staged)
        return f"the standard output cannot be written: {error.strerror}; it must go to a disk that has space"
    return error.strerror or str(error)


def _fail(message: str, code: int) -> None:
    # Escaped, because units such as [rad] in a message are not markup.
    Console(stderr=True).print("[bold red]error:[/]", escape(printable(message)), highlight=False, soft_wrap=True)
    sys.exit(code)


_FRANKA = "A Franka"  # heading of its options in the help
_FrankaOption = partial(typer.Option, rich_help_panel=_FRANKA)

app.callback()(rpl_options)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.command("docs")(docs_command)
app.command("new")(new_command)
app.command("serve")(serve_command)
app.command("health")(reaching(health_command))
app.command("top")(reaching(top_command))
app.command("view")(reaching(view_command))
app.add_typer(models_app, name="models")
app.add_typer(subgoal_app, name="subgoal")
app.add_typer(tokens_app, name="tokens")


@app.command("inspect")
def inspect_command(
    bundle: BundleFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the card.")] = False,
) -> None:
    """Verify a bundle and print its model card: sizes, units, limits, control period, goals, provenance, results.

    Example: rpl inspect models/kitchen
    """
    from rpl_runtime.cli.inspect import bundle_facts, print_bundle
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.policy.trial import open_policy

    verified = load_bundle(bundle)
    open_policy(verified)  # as a server does, which can serve every bundle that passes
    show(as_json, bundle_facts(verified), lambda: print_bundle(verified))


def _robot(name: str) -> str:
    if name not in ("kitchen", "franka") and ":" not in name:
        raise typer.BadParameter(f"there is no robot {name!r}; must be kitchen, franka or MODULE:CLASS")
    return name


@app.command("run")
@reaching
def run_command(
    context: typer.Context,
    goal: Annotated[
        str | None, typer.Option(help="Elements separated by commas, or a goal of the policy such as mkbs.")
    ] = None,
    robot: Annotated[
        str,
        typer.Option(
            metavar="[kitchen|franka|MODULE:CLASS]",
            callback=_robot,
            help="The robot to run; kitchen: the simulated one of --task; or a class of yours (`rpl docs your-robot`).",
        ),
    ] = "kitchen",
    task_name: TaskName = "kitchen",
    address: OtherAddress = None,
    bundle: BundleToServe = None,
    providers: Providers = "CPU",
    model: Annotated[str | None, typer.Option(help="Name of the server's model; default: its first.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the start and of a sampled policy; default: start 0, the modes."),
    ] = None,
    start: Annotated[str | None, typer.Option(help="Start of the task, such as perturbed; default: its first.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Control steps; default: an episode of the task, 280 in the kitchen.")
    ] = None,
    until: Annotated[
        Literal["steps", "done"],
        typer.Option(help="done: end early, at the control step after which every element of the goal was done."),
    ] = "steps",
    robot_id: Annotated[
        str | None, typer.Option(help="The robot's id on the server; default: the task's name, or franka.")
    ] = None,
    low_level: Annotated[
        Literal["remote", "local"],
        typer.Option(help="local: act beside the robot and request only plans; the actions are the same."),
    ] = "remote",
    plan_lead: PlanLead = 0,
    late_plan: Annotated[
        Literal["wait", "keep", "hold", "bundle", "stop"] | None,
        typer.Option(
            help="If the server's planner takes its time: wait for each plan, or what to do without one in time, as in "
            "`rpl serve --planner-fallback`; default: a simulation waits, a Franka does as the server says."
        ),
    ] = None,
    plan_deadline: Annotated[
        float | None,
        typer.Option(min=0.001, max=60.0, help="Seconds that a plan may take; default: as the server says."),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Simulation: seconds to wait for a server; default: 30 for one that stopped, none for one that is "
            "not up yet.",
        ),
    ] = None,
    host: Annotated[str | None, _FrankaOption(help="Address of the Franka, or sim for a simulated one.")] = None,
    objects: Annotated[
        str | None,
        _FrankaOption(
            help="Source of object states: mirror (a simulated kitchen around the arm), fixed (untouched), or "
            "HOST:PORT of an rpl.v1.ObjectStates."
        ),
    ] = None,
    profile: Annotated[Literal["fr3", "panda"], _FrankaOption(help="Limits of the arm.")] = "fr3",
    speed: Annotated[
        float | None,
        _FrankaOption(help="Fraction of the limits to use, up to 1; default: 0.1, and 1 for the small --calibrate."),
    ] = None,
    workspace: Annotated[
        tuple[float, float, float, float, float, float] | None,
        _FrankaOption(
            metavar="X Y Z X Y Z",
            help="Box for the flange, in metres from the base: lowest x, y, z, then highest x, y, z.",
        ),
    ] = None,
    dry_run: Annotated[bool, _FrankaOption("--dry-run", help="Do everything except move the motors.")] = False,
    realtime: Annotated[bool, _FrankaOption(help="Require a real-time kernel, as the vendor does.")] = True,
    record_to: Annotated[
        Path | None,
        typer.Option("--record", help="Kitchen: add the run to the Minari data set in this folder, named NAME-vN."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Estimate states with this file of --calibrate; default: do not."),
    ] = None,
    calibrate_to: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="FILE",
            help="Run no policy: measure noise and delay of the senses and the time of a hand's command, in 17 s, and "
            "write them here. Nothing may move meanwhile but the hand and, by 0.12 rad, the arm's last joints.",
        ),
    ] = None,
    pilot_name: Annotated[
        str | None,
        typer.Option(
            "--pilot",
            metavar="MODULE:FACTORY",
            help="A pilot that may take the robot over from the policy, and hands it back; gamepad or spacemouse: you.",
        ),
    ] = None,
    take_over_at: Annotated[
        int | None, typer.Option(min=0, help="Control step at which the pilot takes over; default: it decides itself.")
    ] = None,
    hand_back_at: Annotated[
        int | None,
        typer.Option(min=1, help="Control step at which it hands back, if it has not yet; needs --take-over-at."),
    ] = None,
    on_help: Annotated[
        Literal["hold", "takeover", "continue"],
        typer.Option(
            help="What happens when the policy asks for help. hold: the robot stays at its last target meanwhile; "
            "takeover: the --pilot takes over; continue: nothing."
        ),
    ] = "continue",
    log_to: Annotated[
        Path | None, typer.Option("--log", help="Log the run to this new .mcap file, for Foxglove and `rpl replay`.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Simulation: film the run here (.mp4), with the subgoal as a translucent robot.")
    ] = None,
    view: Annotated[
        bool,
        typer.Option("--view", help="Show the run in a page, as `rpl view` does, and run the kitchen in real time."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a robot with a served policy. Exits with 0 if every element of the goal was done, with 1 if not.

    A simulation pauses while its server is away, and continues where it stopped. A Franka cannot pause: after
    two control periods without an action, at Ctrl-C or at any fault it comes to rest within its limits, and the run
    exits with 6 (130 after Ctrl-C). Only another run moves it again. This is a software stop: keep the robot's own stop
    button in your hand.

    Example: rpl run --goal microwave,kettle --bundle models/kitchen
    """
    from rpl_runtime.cli.run import (
        SIMULATED,
        RunOptions,
        calibrate_franka,
        calibrate_simulated,
        run_franka,
        run_own,
        run_simulated,
    )
    from rpl_runtime.client import Access
    from rpl_runtime.evaluation.figures import check_suffix
    from rpl_runtime.loop.calibrate import UNHURRIED
    from rpl_runtime.loop.pilot import Between, Holding, OnHelp, load_pilot
    from rpl_runtime.robots.franka import FrankaConfig
    from rpl_runtime.robots.profiles import PROFILES
    from rpl_runtime.safety.limits import Box
    from rpl_runtime.tasks.load import load_task
    from rpl_runtime.tasks.pictures import video_suffixes

    if address is not None and bundle is not None:
        raise typer.BadParameter("give --address or --bundle, not both")
    if bundle is None and providers != "CPU":
        raise typer.BadParameter("--providers is for --bundle; a server at an address has its own")
    if (goal is None) == (calibrate_to is None):
        raise typer.BadParameter("give either --goal, to run a policy, or --calibrate")
    if view and low_level == "local":
        raise typer.BadParameter("--view shows a robot that a server runs; with --low-level local none does")
    if pilot_name is None and (on_help == "takeover" or take_over_at is not None):
        raise typer.BadParameter("a takeover needs a --pilot")
    if hand_back_at is not None and take_over_at is None:
        raise typer.BadParameter("--hand-back-at needs --take-over-at")
    if pilot_name is not None and on_help == "hold":
        raise typer.BadParameter("give --on-help hold or a --pilot, not both")
    task = load_task(task_name)
    pilot = load_pilot(pilot_name) if pilot_name else Holding() if on_help == "hold" else None
    if pilot is not None and take_over_at is not None:
        pilot = Between(pilot, take_over_at, 2**31 if hand_back_at is None else hand_back_at)
    if pilot is not None and on_help == "takeover":
        pilot = OnHelp(pilot)
    options = RunOptions(
        goal=goal or "",
        address=server_of(address),
        access=Access() if bundle else access_of(context),
        bundle=bundle,
        providers=providers,
        robot_id=robot_id or (task.name if robot == "kitchen" else robot.rpartition(":")[2]),
        model=model,
        seed=seed,
        steps=steps,
        until_done=until == "done",
        local=low_level == "local",
        plan_lead=plan_lead,
        late_plan=late_plan,
        plan_deadline_s=plan_deadline,
        calibration=calibration,
        pilot=pilot,
        log_to=log_to,
        view=view,
        video=video,
        as_json=as_json,
    )
    if log_to is not None:
        check_suffix(log_to, [".mcap"])  # by which commands that take a folder of logs find it
    if video is not None:
        if robot != "kitchen" or calibrate_to is not None:
            raise typer.BadParameter("--video films a run of the simulated robot; use --log for another")
        check_suffix(video, video_suffixes())
    if robot != "franka":
        for option in context.command.params:  # an ignored --dry-run would be dangerous
            source = context.get_parameter_source(option.name or "")
            given = source is not None and source.name == "COMMANDLINE"
            if given and getattr(option, "rich_help_panel", None) == _FRANKA:
                names = "/".join((*option.opts, *option.secondary_opts))
                raise typer.BadParameter(f"{names} is for --robot franka")
    if ":" in robot:
        if calibrate_to is not None or record_to is not None or start is not None:
            raise typer.BadParameter("--calibrate, --record and --start are not for a robot of your own; use --log")
        raise typer.Exit(run_own(options, task, robot, patience))
    if robot == "kitchen":
        if calibrate_to is not None:
            raise typer.Exit(calibrate_simulated(task, calibrate_to, as_json))
        raise typer.Exit(run_simulated(options, task, start, patience, record_to))
    if host is None:
        raise typer.BadParameter(f"a Franka needs a --host: its address, or {SIMULATED}")
    if objects is None:
        raise typer.BadParameter("a Franka needs --objects: mirror, fixed or HOST:PORT")
    if record_to is not None:
        raise typer.BadParameter("--record is for --robot kitchen; use --log for a Franka")
    if calibrate_to is not None and speed not in (None, UNHURRIED):
        raise typer.BadParameter(
            f"--speed {speed:g} holds back the motion of --calibrate, so that the arm seems late; must be {UNHURRIED:g}"
        )
    limits = PROFILES[profile]
    if workspace is not None:
        limits = limits.within(Box(workspace[:3], workspace[3:]))
    if speed is None:
        speed = 0.1 if calibrate_to is None else UNHURRIED
    franka = FrankaConfig(limits, speed, dry_run=dry_run, realtime=realtime and host != SIMULATED)
    if calibrate_to is not None:
        raise typer.Exit(calibrate_franka(task, calibrate_to, as_json, host, objects, access_of(context), franka))
    raise typer.Exit(run_franka(options, task, host, objects, access_of(context), franka))


@app.command("replay")
@reaching
def replay_command(
    context: typer.Context,
    log: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file of `rpl run --log`, complete or not.")
    ],
    address: OtherAddress = None,
    bundle: BundleToServe = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest accepted difference, in the unit of each dimension.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Let a policy decide again in the states of a log, and compare its decisions with the logged ones.

    Goal, seed, robot id and plan_lead are those of the log. Exits with 0 if no action and no subgoal differs by more
    than the tolerance, with 1 if one does. On the same machine, the same bundle decides the same to the bit.

    Example: rpl replay run.mcap --bundle models/kitchen
    """
    from dataclasses import asdict

    from rpl_runtime.client import Access, Client
    from rpl_runtime.recording.mcap import read_log
    from rpl_runtime.recording.replay import replay, replay_table
    from rpl_runtime.server.subprocess import serve_in_process

    if address is not None and bundle is not None:
        raise typer.BadParameter("give --address or --bundle, not both")
    logged = read_log(log)
    with ExitStack() as stack:
        where = stack.enter_context(serve_in_process(bundle)) if bundle else server_of(address)
        access = Access() if bundle else access_of(context)
        control = stack.enter_context(stack.enter_context(Client(where, access=access)).control())
        with Console(stderr=True).status(f"replaying {count(len(logged.steps), 'control step')}"):
            result = replay(logged, control)
    within = result.within(tolerance)
    facts = {**asdict(result), "tolerance": tolerance, "within": within}
    verdict = "[green]the same decisions[/]" if within else "[red]other decisions[/]"
    show(as_json, facts, lambda: Console().print(replay_table(result, tolerance), f"{verdict}, by the tolerance"))
    raise typer.Exit(0 if within else 1)


app.command("accept")(reaching(accept_command))
app.command("evaluate")(reaching(evaluate_command))
app.command("bench")(bench_command)
