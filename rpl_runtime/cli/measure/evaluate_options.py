"""What `rpl evaluate` is asked for: its options, in groups, and what each group comes to."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rpl_runtime.cli.options import ExecutorName, PlanLead, Providers, TaskName

if TYPE_CHECKING:
    from rpl_runtime.evaluation.evaluate import EvaluateConfig
    from rpl_runtime.evaluation.protocol import Hardship
    from rpl_runtime.tasks.task import Task

TRAINED_BELOW = 1_000_000  # seeds of episodes
_HardOption = partial(typer.Option, rich_help_panel="The hard protocol, or one condition of your own")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Whose results, and in the world of which task."""

    bundle: Annotated[Path | None, typer.Argument(help="The bundle's folder; a server is started for it.")] = None
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT or unix:PATH of a running server to evaluate instead.")
    ] = None
    saved: Annotated[
        Path | None,
        typer.Option("--from", exists=True, dir_okay=False, help="Run nothing: print and draw this evaluation.json."),
    ] = None
    task_name: TaskName = "kitchen"
    providers: Providers = "CPU"


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """The episodes, the robot of each, and what the policy sees of it."""

    goals: Annotated[
        list[str] | None,
        typer.Option(
            help="A group of the task's goals, a goal, or elements separated by commas; by default the first group. "
            "The kitchen has paper (17 goals), human (7 more from human play), unseen (11 in no demonstrations), "
            "all35, sets1 to sets7 (all sets of that size), and initials such as mkbs. Repeatable."
        ),
    ] = None
    episodes: Annotated[int, typer.Option(help="Episodes of each goal from each start.")] = 20
    steps: Annotated[
        int | None,
        typer.Option(help="Control steps of an episode; by default the task's. The kitchen has 280 for four elements."),
    ] = None
    start: Annotated[
        str,
        typer.Option(
            help="One of the task's starts, or all of them (both, the default). The kitchen's perturbed start: each "
            "arm joint +-0.05 rad, the kettle +-0.02 m in x and y."
        ),
    ] = "both"
    seed: Annotated[
        int, typer.Option(help=f"First seed of the episodes; training uses seeds below {TRAINED_BELOW}.")
    ] = TRAINED_BELOW
    sample: Annotated[bool, typer.Option("--sample", help="Sample both levels instead of taking their modes.")] = False
    profile: Annotated[
        Literal["own", "panda", "fr3"],
        typer.Option(help="Motion limits of the arm; own: those of the simulated one."),
    ] = "own"
    object_noise: Annotated[
        tuple[float, float],
        typer.Option(metavar="M RAD", help="Standard deviation of an observed object's position [m] and angle [rad]."),
    ] = (0.0, 0.0)
    object_latency: Annotated[
        int, typer.Option(help="Control periods by which objects are observed later than the arm.")
    ] = 0
    object_dropout: Annotated[
        float, typer.Option(help="Probability that a period has no new observation of the objects.")
    ] = 0.0
    latency: Annotated[int, typer.Option(help="Control periods by which every observation is late.")] = 0
    still_known: Annotated[bool, typer.Option("--still-known", help="Observe without noise what no element moves.")] = (
        False
    )
    hand: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds that a Franka hand needs for a command; default: fingers follow."),
    ] = None
    latency_jitter: Annotated[
        int, typer.Option(help="Control periods by which --latency varies at most, up and down.")
    ] = 0
    stamped: Annotated[bool, typer.Option(help="Whether observations carry the time at which they were measured.")] = (
        True
    )
    object_bias: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="M RAD", help="How far off all observed positions [m] and angles [rad] of an episode are."
        ),
    ] = (0.0, 0.0)
    estimate: Annotated[
        bool,
        typer.Option(
            help="Estimate states between a robot with faults and the policy; perfect senses are left as they are."
        ),
    ] = True
    calibration: Annotated[
        Path | None,
        typer.Option(help="Of the estimator, by `rpl run --calibrate`; default: measured first."),
    ] = None
    plan_lead: PlanLead = 0

    def config(self, jobs: int | None) -> "EvaluateConfig":
        """The episodes, on so many simulators in parallel; None: one per core.

        Raises:
            InvalidInput: a number is out of its range, or the calibration cannot be read.
        """
        from rpl_runtime.cli.run import read_calibration
        from rpl_runtime.evaluation.evaluate import EvaluateConfig
        from rpl_runtime.robots.degraded import Conditions

        robot = Conditions(
            profile=self.profile,
            position_noise=self.object_noise[0],
            angle_noise=self.object_noise[1],
            object_latency=self.object_latency,
            object_dropout=self.object_dropout,
            latency=self.latency,
            latency_jitter=self.latency_jitter,
            stamped=self.stamped,
            position_bias=self.object_bias[0],
            angle_bias=self.object_bias[1],
            still_known=self.still_known,
            hand_time=self.hand,
        )
        return EvaluateConfig(
            goals=tuple(self.goals or ()),
            episodes=self.episodes,
            starts=() if self.start == "both" else (self.start,),
            steps=self.steps,
            seed=self.seed,
            sample=self.sample,
            robot=robot,
            estimate=self.estimate,
            calibration=None if self.calibration is None else read_calibration(self.calibration),
            plan_lead=self.plan_lead,
            jobs=jobs or os.cpu_count() or 1,
        )


@dataclass(frozen=True, kw_only=True)
class HardOptions:
    """The protocol, and what happens in a condition of one's own."""

    protocol: Annotated[
        Literal["standard", "hard"],
        typer.Option(help="hard: disturbed and changing tasks, whole goals and a real robot's senses, a row for each."),
    ] = "standard"
    condition: Annotated[
        list[str] | None, _HardOption(help="Only this condition of the hard protocol, by its name. Repeatable.")
    ] = None
    beside: Annotated[
        list[Path] | None,
        _HardOption(exists=True, dir_okay=False, help="Another system's hard.json, printed beside. Repeatable."),
    ] = None
    start_noise: Annotated[
        tuple[float, float] | None,
        _HardOption(metavar="RAD M", help="Start with each arm joint and the kettle's x and y off by up to this."),
    ] = None
    jolt: Annotated[float, _HardOption(help="Jolt the arm: each joint by up to this [rad].")] = 0.0
    jolt_at: Annotated[list[int] | None, _HardOption(min=0, help="Control step of a jolt; default: 40 and 110.")] = None
    push: Annotated[float, _HardOption(help="Push the kettle so that it slides this far [m].")] = 0.0
    push_at: Annotated[list[int] | None, _HardOption(min=0, help="Control step of a push; default: 40.")] = None
    put_back: Annotated[
        int | None, _HardOption(min=1, help="Put the first finished element back, so many control steps later.")
    ] = None
    swap: Annotated[
        int | None,
        _HardOption(min=1, help="From this control step on, the goal is three elements that it did not name."),
    ] = None
    second_goal: Annotated[
        bool, _HardOption("--second-goal", help="Then name the elements that are still open, for as many steps again.")
    ] = False
    undo: Annotated[
        bool,
        _HardOption("--undo", help="Start with the goal's elements done; the goal is a state in which they are not."),
    ] = False
    goal_state: Annotated[
        Path | None, _HardOption(exists=True, dir_okay=False, help="The goal as a whole state: JSON, 30 numbers.")
    ] = None
    start_from: Annotated[
        Path | None,
        _HardOption(exists=True, dir_okay=False, help="Start in this state, or in these in turn: JSON, lists of 30."),
    ] = None
    shift: Annotated[int, _HardOption(help="Goals one after another without a reset, each with a jolt or a push.")] = 0

    def own(self, task: "Task") -> "Hardship | None":
        """The condition that is put together from options, if any of them is given; its goals and robot are not in it.

        Raises:
            InvalidInput: a number is out of its range, parts of it exclude each other, a state cannot be read, or the
                task has no hard protocol.
        """
        from rpl_runtime.cli.measure.hard import read_states
        from rpl_runtime.evaluation.protocol import Hardship, hazards_of

        fields = {
            "start": None if self.start_noise is None else hazards_of(task).start(*self.start_noise),
            "jolt": self.jolt,
            "jolt_at": tuple(self.jolt_at or ()),
            "push": self.push,
            "push_at": tuple(self.push_at or ()),
            "put_back": self.put_back,
            "swap_at": self.swap,
            "second": self.second_goal,
            "undo": self.undo,
            "goal_state": None if self.goal_state is None else read_states(task, self.goal_state)[0],
            "start_from": () if self.start_from is None else read_states(task, self.start_from),
            "shift": self.shift,
        }
        given = {name: value for name, value in fields.items() if value not in (None, 0, ())}
        if given and self.condition:
            raise typer.BadParameter("give --condition, or a condition put together from other options, not both")
        if self.beside and not given and self.protocol != "hard":
            raise typer.BadParameter("--beside is for the hard protocol, or one condition of your own")
        return Hardship(**given) if given else None


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Where results go, and which episode is filmed."""

    output: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, results.png and the episodes; continues from its episodes."),
    ] = None
    picture: Annotated[Path | None, typer.Option(help="Draw the results here (.png, .svg, .pdf).")] = None
    video: Annotated[
        Path | None,
        typer.Option(help="Film one more episode, with translucent subgoals (.mp4; .webp: four times as fast)."),
    ] = None
    sheet: Annotated[Path | None, typer.Option(help="Picture of that episode, a tile for each subgoal (.png).")] = None
    video_goal: Annotated[str | None, typer.Option(help="The goal to film; default: the first goal.")] = None
    write: Annotated[bool, typer.Option("--write", help="Put the results into the bundle and its card.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False

    def check_outputs(self) -> None:
        """
        Raises:
            InvalidInput: a picture or a film cannot be written where it is asked for.
        """
        from rpl_runtime.evaluation.figures import check_output, picture_suffixes
        from rpl_runtime.tasks.pictures import sheet_suffixes, video_suffixes

        for path, suffixes in (
            (self.picture, picture_suffixes),
            (self.video, video_suffixes),
            (self.sheet, sheet_suffixes),
        ):
            if path is not None:
                check_output(path, suffixes())

    def alone(self) -> AbstractContextManager[object]:
        """Keeps other commands out of the output folder."""
        from rpl_runtime.files import alone_in

        return nullcontext() if self.output is None else alone_in(self.output)

    def pictures(self, name: str) -> list[Path]:
        """The pictures of the results to draw; in the output folder it has a name."""
        return [path for path in (self.picture, self.output and self.output / name) if path is not None]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """All that `rpl evaluate` is asked for.

    Raises:
        BadParameter: options contradict each other.
    """

    source: SourceOptions
    episodes: EpisodeOptions
    hard: HardOptions
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Simulators in parallel; default: one per core. It does not change the results."),
    ] = None
    executor: ExecutorName = None
    results: ResultOptions

    def __post_init__(self) -> None:
        source, hard, results = self.source, self.hard, self.results
        filmed = results.video or results.sheet
        if sum(given is not None for given in (source.bundle, source.address, source.saved)) != 1:
            raise typer.BadParameter("give exactly one of BUNDLE, --address and --from")
        if source.providers != "CPU" and source.bundle is None:
            raise typer.BadParameter("--providers is for a BUNDLE; a server at an address has its own")
        if self.executor == "ray" and (source.bundle is None or hard.protocol == "hard"):
            raise typer.BadParameter("--executor ray is for the standard protocol and a BUNDLE, which each job serves")
        if results.video_goal and hard.protocol == "hard":
            raise typer.BadParameter(
                "--video-goal is for the standard protocol; of the hard one, the first --condition is filmed"
            )
        if results.video_goal and not filmed:
            raise typer.BadParameter("--video-goal says which goal to film; it needs --video or --sheet")
        if source.saved is not None and filmed:
            raise typer.BadParameter("--from has nothing to film: it draws an evaluation that was made before")
        if results.write and source.bundle is None:
            raise typer.BadParameter("--write needs the BUNDLE to write into")
        for moments, what, size, needed in (
            (hard.jolt_at, "--jolt-at", hard.jolt, "--jolt"),
            (hard.push_at, "--push-at", hard.push, "--push"),
        ):
            if moments and not size:
                raise typer.BadParameter(f"{what} says when; it needs {needed}, which says how far")
        if hard.condition and hard.protocol != "hard":
            raise typer.BadParameter("--condition names one of --protocol hard, and needs it")
