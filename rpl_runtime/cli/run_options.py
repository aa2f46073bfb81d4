"""What `rpl run` is asked for: its options, in groups, and what each group comes to."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rpl_runtime.cli.options import LONGEST_S, BundleToServe, Json, OtherAddress, PlanLead, Providers, TaskName

if TYPE_CHECKING:
    from rpl_runtime.cli.options import Server
    from rpl_runtime.cli.run import RunOptions
    from rpl_runtime.loop.pilot import Pilot
    from rpl_runtime.robots.franka import FrankaConfig
    from rpl_runtime.tasks.task import Task

_FRANKA = "A Franka"  # heading of its options in the help
_FrankaOption = partial(typer.Option, rich_help_panel=_FRANKA)


def _robot(name: str) -> str:
    if name not in ("kitchen", "franka") and ":" not in name:
        raise typer.BadParameter(f"there is no robot {name!r}; must be kitchen, franka or MODULE:CLASS")
    return name


@dataclass(frozen=True, kw_only=True)
class FrankaOptions:
    """A Franka: where it is, and the limits that it keeps."""

    host: Annotated[str | None, _FrankaOption(help="Address of the Franka, or sim for a simulated one.")] = None
    objects: Annotated[
        str | None,
        _FrankaOption(
            help="Source of object states: mirror (a simulated kitchen around the arm), fixed (untouched), or "
            "HOST:PORT of an rpl.v1.ObjectStates."
        ),
    ] = None
    profile: Annotated[Literal["fr3", "panda"], _FrankaOption(help="Limits of the arm.")] = "fr3"
    speed: Annotated[
        float | None,
        _FrankaOption(help="Fraction of the limits to use, up to 1; default: 0.1, and 1 for the small --calibrate."),
    ] = None
    workspace: Annotated[
        tuple[float, float, float, float, float, float] | None,
        _FrankaOption(
            metavar="X Y Z X Y Z",
            help="Box for the flange, in metres from the base: lowest x, y, z, then highest x, y, z.",
        ),
    ] = None
    dry_run: Annotated[bool, _FrankaOption("--dry-run", help="Do everything except move the motors.")] = False
    realtime: Annotated[bool, _FrankaOption(help="Require a real-time kernel, as the vendor does.")] = True

    def place(self) -> tuple[str, str]:
        """The address of its control interface, and the source of object states."""
        from rpl_runtime.cli.run import SIMULATED

        if self.host is None:
            raise typer.BadParameter(f"a Franka needs a --host: its address, or {SIMULATED}")
        if self.objects is None:
            raise typer.BadParameter("a Franka needs --objects: mirror, fixed or HOST:PORT")
        return self.host, self.objects

    def config(self, calibrates: bool) -> "FrankaConfig":
        """Its limits; to calibrate it moves little, and must not be held back.

        Raises:
            InvalidInput: a number is out of its range.
        """
        from rpl_runtime.cli.run import SIMULATED
        from rpl_runtime.loop.calibrate import UNHURRIED
        from rpl_runtime.robots.franka import FrankaConfig
        from rpl_runtime.robots.profiles import PROFILES
        from rpl_runtime.safety.limits import Box

        if calibrates and self.speed not in (None, UNHURRIED):
            raise typer.BadParameter(
                f"--speed {self.speed:g} holds back the motion of --calibrate, so that the arm seems late; "
                f"must be {UNHURRIED:g}"
            )
        limits = PROFILES[self.profile]
        if self.workspace is not None:
            limits = limits.within(Box(self.workspace[:3], self.workspace[3:]))
        speed = self.speed
        if speed is None:
            speed = UNHURRIED if calibrates else 0.1
        return FrankaConfig(limits, speed, dry_run=self.dry_run, realtime=self.realtime and self.host != SIMULATED)


@dataclass(frozen=True, kw_only=True)
class PilotOptions:
    """Who takes the robot over from the policy, and when.

    Raises:
        BadParameter: options contradict each other.
    """

    pilot_name: Annotated[
        str | None,
        typer.Option(
            "--pilot",
            metavar="MODULE:FACTORY",
            help="A pilot that may take the robot over from the policy, and hands it back; gamepad or spacemouse: you.",
        ),
    ] = None
    take_over_at: Annotated[
        int | None, typer.Option(min=0, help="Control step at which the pilot takes over; default: it decides itself.")
    ] = None
    hand_back_at: Annotated[
        int | None,
        typer.Option(min=1, help="Control step at which it hands back, if it has not yet; needs --take-over-at."),
    ] = None
    on_help: Annotated[
        Literal["hold", "takeover", "continue"],
        typer.Option(
            help="What happens when the policy asks for help. hold: the robot stays at its last target meanwhile; "
            "takeover: the --pilot takes over; continue: nothing."
        ),
    ] = "continue"

    def __post_init__(self) -> None:
        if self.pilot_name is None and (self.on_help == "takeover" or self.take_over_at is not None):
            raise typer.BadParameter("a takeover needs a --pilot")
        if self.hand_back_at is not None and self.take_over_at is None:
            raise typer.BadParameter("--hand-back-at needs --take-over-at")
        if self.pilot_name is not None and self.on_help == "hold":
            raise typer.BadParameter("give --on-help hold or a --pilot, not both")

    def pilot(self) -> "Pilot | None":
        """The pilot; None: the policy decides every step.

        Raises:
            InvalidInput: there is no such pilot, or it would hand back before it takes over.
        """
        from rpl_runtime.loop.pilot import Between, Holding, OnHelp, load_pilot

        if self.pilot_name is None:
            return Holding() if self.on_help == "hold" else None
        pilot = load_pilot(self.pilot_name)
        if self.take_over_at is not None:
            pilot = Between(pilot, self.take_over_at, 2**31 if self.hand_back_at is None else self.hand_back_at)
        return OnHelp(pilot) if self.on_help == "takeover" else pilot


@dataclass(frozen=True, kw_only=True)
class RunAsked:
    """All that `rpl run` is asked for.

    Raises:
        BadParameter: options contradict each other.
        InvalidInput: a log, a film or a calibration cannot be written where it is asked for.
    """

    goal: Annotated[
        str | None, typer.Option(help="Elements separated by commas, or a goal of the policy such as mkbs.")
    ] = None
    robot: Annotated[
        str,
        typer.Option(
            metavar="[kitchen|franka|MODULE:CLASS]",
            callback=_robot,
            help="The robot to run; kitchen: the simulated one of --task; or a class of yours (`rpl docs your-robot`).",
        ),
    ] = "kitchen"
    task_name: TaskName = "kitchen"
    address: OtherAddress = None
    bundle: BundleToServe = None
    providers: Providers = "CPU"
    model: Annotated[str | None, typer.Option(help="Name of the server's model; default: its first.")] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the start and of a sampled policy; default: start 0, the modes."),
    ] = None
    start: Annotated[str | None, typer.Option(help="Start of the task, such as perturbed; default: its first.")] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Control steps; default: an episode of the task, 280 in the kitchen.")
    ] = None
    until: Annotated[
        Literal["steps", "done"],
        typer.Option(help="done: end early, at the control step after which every element of the goal was done."),
    ] = "steps"
    robot_id: Annotated[
        str | None, typer.Option(help="The robot's id on the server; default: the task's name, or franka.")
    ] = None
    low_level: Annotated[
        Literal["remote", "local"],
        typer.Option(help="local: act beside the robot and request only plans; the actions are the same."),
    ] = "remote"
    plan_lead: PlanLead = 0
    late_plan: Annotated[
        Literal["wait", "keep", "hold", "bundle", "stop"] | None,
        typer.Option(
            help="If the server's planner takes its time: wait for each plan, or what to do without one in time, as in "
            "`rpl serve --planner-fallback`; default: a simulation waits, a Franka does as the server says."
        ),
    ] = None
    plan_deadline: Annotated[
        float | None,
        typer.Option(min=0.001, max=60.0, help="Seconds that a plan may take; default: as the server says."),
    ] = None
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=LONGEST_S,
            help="Simulation: seconds to wait for a server; default: 30 for one that stopped, none for one that is "
            "not up yet.",
        ),
    ] = None
    franka: FrankaOptions
    record_to: Annotated[
        Path | None,
        typer.Option("--record", help="Kitchen: add the run to the Minari data set in this folder, named NAME-vN."),
    ] = None
    calibration: Annotated[
        Path | None,
        typer.Option(help="Estimate states with this file of --calibrate; default: do not."),
    ] = None
    calibrate_to: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="FILE",
            help="Run no policy: measure noise and delay of the senses and the time of a hand's command, in 17 s, and "
            "write them here. Nothing may move meanwhile but the hand and, by 0.12 rad, the arm's last joints.",
        ),
    ] = None
    hands: PilotOptions
    log_to: Annotated[
        Path | None, typer.Option("--log", help="Log the run to this new .mcap file, for Foxglove and `rpl replay`.")
    ] = None
    video: Annotated[
        Path | None, typer.Option(help="Simulation: film the run here (.mp4), with the subgoal as a translucent robot.")
    ] = None
    view: Annotated[
        bool,
        typer.Option("--view", help="Show the run in a page, as `rpl view` does, and run the kitchen in real time."),
    ] = False
    as_json: Json = False

    def __post_init__(self) -> None:
        from rpl_runtime.evaluation.figures import check_output
        from rpl_runtime.files import check_place
        from rpl_runtime.tasks.pictures import video_suffixes

        calibrates = self.calibrate_to is not None
        if self.bundle is None and self.providers != "CPU":
            raise typer.BadParameter("--providers is for --bundle; a server at an address has its own")
        if (self.goal is None) == (not calibrates):
            raise typer.BadParameter("give either --goal, to run a policy, or --calibrate")
        if self.view and self.low_level == "local":
            raise typer.BadParameter("--view shows a robot that a server runs; with --low-level local none does")
        if self.log_to is not None:
            check_output(self.log_to, [".mcap"])  # by which commands that take a folder of logs find it
        if self.video is not None:
            if self.robot != "kitchen" or calibrates:
                raise typer.BadParameter("--video films a run of the simulated robot; use --log for another")
            check_output(self.video, video_suffixes())
        if self.calibrate_to is not None:
            check_place(self.calibrate_to)
        if ":" in self.robot and (calibrates or self.record_to is not None or self.start is not None):
            raise typer.BadParameter("--calibrate, --record and --start are not for a robot of your own; use --log")
        if self.robot == "franka":
            self.franka.place()
            if self.record_to is not None:
                raise typer.BadParameter("--record is for --robot kitchen; use --log for a Franka")

    def refuse_unused(self, context: typer.Context) -> None:
        """Refuse what was said of a Franka for another robot: an ignored --dry-run would be dangerous."""
        if self.robot == "franka":
            return
        for option in context.command.params:
            source = context.get_parameter_source(option.name or "")
            given = source is not None and source.name == "COMMANDLINE"
            if given and getattr(option, "rich_help_panel", None) == _FRANKA:
                names = "/".join((*option.opts, *option.secondary_opts))
                raise typer.BadParameter(f"{names} is for --robot franka")

    def options(self, task: "Task", server: "Server") -> "RunOptions":
        """The run of a policy on a server."""
        from rpl_runtime.cli.run import RunOptions

        return RunOptions(
            goal=self.goal or "",
            server=server,
            robot_id=self.robot_id or (task.name if self.robot == "kitchen" else self.robot.rpartition(":")[2]),
            model=self.model,
            seed=self.seed,
            steps=self.steps,
            until_done=self.until == "done",
            local=self.low_level == "local",
            plan_lead=self.plan_lead,
            late_plan=self.late_plan,
            plan_deadline_s=self.plan_deadline,
            calibration=self.calibration,
            pilot=self.hands.pilot(),
            log_to=self.log_to,
            view=self.view,
            video=self.video,
            as_json=self.as_json,
        )
