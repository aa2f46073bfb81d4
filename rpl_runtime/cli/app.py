"""The command `rpl`: one typer app. Commands import what they need when they run, so that `rpl --help` is fast.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 an unusable bundle, 4 no server, no robot or no free port, 5 a
right is missing, 6 a robot stopped, 130 interrupted.
"""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import entry_points
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from typer.main import get_command

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
    access_of,
    grouped,
    reaching,
    rpl_options,
    show,
    used_server,
)
from rpl_runtime.cli.run_options import RunAsked
from rpl_runtime.cli.serve import serve_command
from rpl_runtime.cli.tokens import tokens_app
from rpl_runtime.cli.view import view_command
from rpl_runtime.console import Console, count
from rpl_runtime.errors import RelayError, lacks_memory, printable
from rpl_runtime.factories import own_code_told

# Markdown: rich's own markup would take a unit such as [m] in a help text for a tag.
app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def main() -> None:
    """Run the command line; every expected error becomes one sentence on stderr and an exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own sentence about a failure is enough
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # as Python does for the standard error
    if os.environ.get("COLUMNS") == "0":  # or nothing would be printed
        del os.environ["COLUMNS"]
    try:
        with own_code_told():
            command()(prog_name="rpl")
    except Exception as error:
        if (told := _told(error)) is None:
            raise
        message, code = told
        # Escaped, because units such as [rad] in a message are not markup.
        text = escape(printable(message))
        with suppress(OSError):  # nobody may be listening
            Console(stderr=True).print("[bold red]error:[/]", text, highlight=False, soft_wrap=True)
        sys.exit(code)


@cache
def command() -> Callable[..., None]:
    """The whole command line, with the commands of other packages: made once in a process."""
    for entry_point in entry_points(group="rpl.commands"):
        entry_point.load()(app)
    return get_command(app)


def _told(error: Exception) -> tuple[str, int] | None:
    """The sentence and the exit code of an expected error, None for any other."""
    if lacks_memory(error):
        return "there is not enough memory; free some, or raise this shell's limit (`ulimit -v`)", 1
    if isinstance(error, RelayError):
        return str(error), error.exit_code
    if not isinstance(error, OSError):
        return None
    code = getattr(error.__context__, "exit_code", 1)  # of a usage error, where it cannot be written that it is one
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}", code
    if error.errno == errno.ENOSPC:  # files are named (files.staged)
        return f"the standard output cannot be written: {error.strerror}; it must go to a disk that has space", code
    if error.errno == errno.ENOENT:
        return "the current folder no longer exists; change to one that does", code
    return error.strerror or str(error), code


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


@app.command("run")
@reaching
@grouped
def run_command(context: typer.Context, asked: RunAsked) -> None:
    """Run a robot with a served policy. Exits with 0 if every element of the goal was done, with 1 if not.

    A simulation pauses while its server is away, and continues where it stopped. A Franka cannot pause: after
    two control periods without an action, at Ctrl-C or at any fault it comes to rest within its limits, and the run
    exits with 6 (130 after Ctrl-C). Only another run moves it again. This is a software stop: keep the robot's own stop
    button in your hand.

    Example: rpl run --goal microwave,kettle --bundle models/kitchen
    """
    from rpl_runtime.cli.run import calibrate_franka, calibrate_simulated, run_franka, run_own, run_simulated
    from rpl_runtime.tasks.load import load_task

    server = used_server(context, asked.address, asked.bundle, asked.providers)
    asked.refuse_unused(context)
    task, calibrate_to = load_task(asked.task_name), asked.calibrate_to
    options = asked.options(task, server)
    if asked.robot == "franka":
        franka = asked.franka.config(calibrates=calibrate_to is not None)
        there = *asked.franka.place(), access_of(context), franka
        if calibrate_to is not None:
            raise typer.Exit(calibrate_franka(task, calibrate_to, asked.as_json, *there))
        raise typer.Exit(run_franka(options, task, *there))
    if asked.robot == "kitchen":
        if calibrate_to is not None:
            raise typer.Exit(calibrate_simulated(task, calibrate_to, asked.as_json))
        raise typer.Exit(run_simulated(options, task, asked.start, asked.patience, asked.record_to))
    raise typer.Exit(run_own(options, task, asked.robot, asked.patience))


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

    from rpl_runtime.client import Client
    from rpl_runtime.recording.mcap import read_log
    from rpl_runtime.recording.replay import replay, replay_table

    server = used_server(context, address, bundle)
    logged = read_log(log)
    with ExitStack() as stack:
        where = stack.enter_context(server.reached())
        control = stack.enter_context(stack.enter_context(Client(where, access=server.access)).control())
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
