"""The command `rpl accept`: may this robot run this bundle?"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from rpl_runtime.cli.options import BundleFolder, Json, TaskName, access_of, grouped, show
from rpl_runtime.console import Console

if TYPE_CHECKING:
    from rpl_runtime.acceptance.journal import Record, Setting
    from rpl_runtime.acceptance.steps import AcceptanceStep
    from rpl_runtime.policy.bundle import Bundle
    from rpl_runtime.policy.spec import PolicySpec
    from rpl_runtime.safety.limits import Box, Profile


@dataclass(frozen=True, kw_only=True)
class AcceptOptions:
    """The robot, the bundle and the first goals.

    Raises:
        BadParameter: the workspace is not finite or, of a real robot, missing; or nobody would be asked before a real
            robot moves.
    """

    bundle: BundleFolder
    host: Annotated[str, typer.Option(help="Address of the robot, or sim for a simulated one.")]
    objects: Annotated[str, typer.Option(help="Source of object states: mirror, fixed or HOST:PORT, as in `rpl run`.")]
    output: Annotated[
        Path, typer.Option(help="Folder of the report; the same command goes on with what is left there.")
    ]
    robot: Annotated[Literal["franka"], typer.Option(help="The robot to accept.")] = "franka"
    goal: Annotated[
        str | None, typer.Option(help="Elements of the first goals; default: the first of the policy's first goal.")
    ] = None
    task_name: TaskName = "kitchen"
    profile: Annotated[Literal["fr3", "panda"], typer.Option(help="Limits of the arm.")] = "fr3"
    workspace: Annotated[
        tuple[float, float, float, float, float, float] | None,
        typer.Option(
            metavar="X Y Z X Y Z",
            help="Box for the flange, in metres from the base: lowest x, y, z, then highest x, y, z.",
        ),
    ] = None
    realtime: Annotated[bool, typer.Option(help="Require a real-time kernel, as the vendor does.")] = True
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the robot moves; only for --host sim.")] = False
    as_json: Json = False

    def __post_init__(self) -> None:
        if self.yes and not self.simulated:
            raise typer.BadParameter("--yes is for --host sim: a person must allow a real robot each of its motions")
        if self.workspace is None and not self.simulated:
            raise typer.BadParameter("a real robot needs the --workspace of its site")
        if self.workspace is not None and not all(map(math.isfinite, self.workspace)):
            got = " ".join(f"{end:g}" for end in self.workspace)
            raise typer.BadParameter(f"the --workspace is {got}; must be six finite numbers [m]")

    @property
    def simulated(self) -> bool:
        """Whether the robot is simulated for the acceptance."""
        from rpl_runtime.cli.run import SIMULATED

        return self.host == SIMULATED

    def limits(self) -> "Profile":
        """The limits of the arm, within the workspace of its site.

        Raises:
            InvalidInput: the workspace is empty.
        """
        from rpl_runtime.robots.profiles import PROFILES
        from rpl_runtime.safety.limits import Box

        limits = PROFILES[self.profile]
        return limits if self.workspace is None else limits.within(Box(self.workspace[:3], self.workspace[3:]))

    def elements(self, spec: "PolicySpec") -> tuple[str, ...]:
        """The elements of the first goals.

        Raises:
            InvalidInput: the policy does not know one of them.
        """
        from rpl_runtime.policy.spec import parse_goal

        return parse_goal(self.goal, spec) if self.goal else next(iter(spec.library.values()))[:1]

    def setting(self, bundle: "Bundle", workspace: "Box", elements: tuple[str, ...]) -> "Setting":
        """What the report says is accepted."""
        from rpl_runtime.acceptance.journal import Setting

        return Setting(
            robot=f"{self.profile} at {self.host}",
            workspace=(*workspace.low, *workspace.high),
            objects=self.objects,
            bundle=bundle.spec.name,
            digest=bundle.digest,
            elements=elements,
        )


@grouped
def accept_command(context: typer.Context, asked: AcceptOptions) -> None:
    """Find out step by step whether a robot may run a bundle, and write a report: acceptance.html, JSON and logs.

    Connection, workspace, dry run, joints, senses, stop, unplug, then first elements at rising speed. Each step says
    what the robot will do and asks before it moves; the acceptance stops where a step fails. Exits with 0 if the robot
    may run the bundle, with 1 if not or not yet. Keep the robot's own stop button in your hand.

    Example: rpl accept models/kitchen --host sim --objects mirror --output acceptance --yes
    """
    from rpl_runtime.acceptance.day import accept
    from rpl_runtime.acceptance.journal import Verdict
    from rpl_runtime.acceptance.report import PAGE
    from rpl_runtime.acceptance.steps import Site
    from rpl_runtime.cli.run import check_source, open_franka
    from rpl_runtime.evaluation.evaluate import check_policy
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.robots.franka import FrankaConfig
    from rpl_runtime.robots.franka.sim import simulated_robot
    from rpl_runtime.robots.profiles import PROFILES
    from rpl_runtime.tasks.load import load_task

    check_source(asked.objects)  # before anything is simulated, and before a report says that the robot must not run
    bundle, task = load_bundle(asked.bundle), load_task(asked.task_name)
    check_policy(bundle.spec, task)
    arm, limits = PROFILES[asked.profile].arm, asked.limits()
    assert arm is not None  # both profiles have one
    assert limits.arm is not None
    elements = asked.elements(bundle.spec)
    setting = asked.setting(bundle, limits.arm.workspace, elements)
    with ExitStack() as stack:
        there = stack.enter_context(simulated_robot()) if asked.simulated else asked.host
        franka = FrankaConfig(limits, realtime=asked.realtime and not asked.simulated)
        opened = partial(open_franka, there, asked.objects, access_of(context))
        site = Site(opened, franka, arm.workspace, task, bundle, elements, asked.output)
        journal = accept(site, setting, partial(_may_move, asked.yes), _tell)
    page = asked.output / PAGE
    facts = {"verdict": journal.verdict.name.lower(), "sentence": journal.sentence, "report": str(page)}
    show(asked.as_json, facts, lambda: typer.echo(f"{journal.sentence}\n{page}"))
    raise typer.Exit(0 if journal.verdict is Verdict.ACCEPTED else 1)


def _may_move(yes: bool, step: "AcceptanceStep") -> bool:
    """Say on stderr what the robot will do, and ask the operator whether it may; with `yes`, nobody is asked."""
    _console().print(f"\n[bold]{step.name}[/]: {escape(step.happens)}")
    return yes or typer.confirm("May the robot move?", err=True)


def _tell(record: "Record") -> None:
    """Say on stderr how a step ended, and why it did not pass."""
    result = "[green]passed[/]" if record.passed else "[bold red]failed[/]"
    console = _console()
    console.print(f"{record.step} {result} ({record.took_s:.0f} s)")
    for reason in record.reasons:
        console.print(f"  {escape(reason)}")


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)
