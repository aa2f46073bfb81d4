"""The command `rpl accept`: may this robot run this bundle?"""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from rpl_runtime.cli.options import BundleFolder, Json, TaskName, access_of, show


def accept_command(
    context: typer.Context,
    bundle: BundleFolder,
    host: Annotated[str, typer.Option(help="Address of the robot, or sim for a simulated one.")],
    objects: Annotated[str, typer.Option(help="Source of object states: mirror, fixed or HOST:PORT, as in `rpl run`.")],
    output: Annotated[
        Path, typer.Option(help="Folder of the report; the same command goes on with what is left there.")
    ],
    robot: Annotated[Literal["franka"], typer.Option(help="The robot to accept.")] = "franka",
    goal: Annotated[
        str | None, typer.Option(help="Elements of the first goals; default: the first of the policy's first goal.")
    ] = None,
    task_name: TaskName = "kitchen",
    profile: Annotated[Literal["fr3", "panda"], typer.Option(help="Limits of the arm.")] = "fr3",
    workspace: Annotated[
        tuple[float, float, float, float, float, float] | None,
        typer.Option(
            metavar="X Y Z X Y Z",
            help="Box for the flange, in metres from the base: lowest x, y, z, then highest x, y, z.",
        ),
    ] = None,
    realtime: Annotated[bool, typer.Option(help="Require a real-time kernel, as the vendor does.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the robot moves; only for --host sim.")] = False,
    as_json: Json = False,
) -> None:
    """Find out step by step whether a robot may run a bundle, and write a report: acceptance.html, JSON and logs.

    Connection, workspace, dry run, joints, senses, stop, unplug, then first elements at rising speed. Each step says
    what the robot will do and asks before it moves; the acceptance stops where a step fails. Exits with 0 if the robot
    may run the bundle, with 1 if not or not yet. Keep the robot's own stop button in your hand.

    Example: rpl accept models/kitchen --host sim --objects mirror --output acceptance --yes
    """
    from rpl_runtime.acceptance.day import accept
    from rpl_runtime.acceptance.journal import Record, Setting, Verdict
    from rpl_runtime.acceptance.report import PAGE
    from rpl_runtime.acceptance.steps import AcceptanceStep, Site
    from rpl_runtime.cli.run import SIMULATED, check_source, open_franka
    from rpl_runtime.console import Console
    from rpl_runtime.evaluation.evaluate import check_policy
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.policy.spec import parse_goal
    from rpl_runtime.robots.franka import FrankaConfig
    from rpl_runtime.robots.franka.sim import simulated_robot
    from rpl_runtime.robots.profiles import PROFILES
    from rpl_runtime.safety.limits import Box
    from rpl_runtime.tasks.load import load_task

    simulated = host == SIMULATED
    if yes and not simulated:
        raise typer.BadParameter("--yes is for --host sim: a person must allow a real robot each of its motions")
    if workspace is None and not simulated:
        raise typer.BadParameter("a real robot needs the --workspace of its site")
    check_source(objects)  # before anything is simulated, and before a report says that the robot must not run
    loaded, task, reach = load_bundle(bundle), load_task(task_name), PROFILES[profile]
    check_policy(loaded.spec, task)
    assert reach.arm is not None  # both profiles have one
    limits = reach if workspace is None else reach.within(Box(workspace[:3], workspace[3:]))
    assert limits.arm is not None
    box = limits.arm.workspace
    elements = parse_goal(goal, loaded.spec) if goal else next(iter(loaded.spec.library.values()))[:1]
    setting = Setting(
        robot=f"{profile} at {host}",
        workspace=(*box.low, *box.high),
        objects=objects,
        bundle=loaded.spec.name,
        digest=loaded.digest,
        elements=elements,
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def ask(step: AcceptanceStep) -> bool:
        console.print(f"\n[bold]{step.name}[/]: {escape(step.happens)}")
        return yes or typer.confirm("May the robot move?", err=True)

    def told(record: Record) -> None:
        result = "[green]passed[/]" if record.passed else "[bold red]failed[/]"
        console.print(f"{record.step} {result} ({record.took_s:.0f} s)")
        for reason in record.reasons:
            console.print(f"  {escape(reason)}")

    with ExitStack() as stack:
        there = stack.enter_context(simulated_robot()) if simulated else host
        franka = FrankaConfig(limits, realtime=realtime and not simulated)
        opened = partial(open_franka, there, objects, access_of(context))
        site = Site(opened, franka, reach.arm.workspace, task, loaded, elements, output)
        journal = accept(site, setting, ask, told)
    facts = {"verdict": journal.verdict.name.lower(), "sentence": journal.sentence, "report": str(output / PAGE)}
    show(as_json, facts, lambda: typer.echo(f"{journal.sentence}\n{output / PAGE}"))
    raise typer.Exit(0 if journal.verdict is Verdict.ACCEPTED else 1)
