"""The commands that measure: `rpl evaluate`, a policy in a task's world; `rpl bench`, the cost of the runtime."""

import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rpl_runtime.cli.options import (
    BundleFolder,
    ExecutorName,
    Json,
    PlanLead,
    Providers,
    TaskName,
    access_of,
    server_of,
    show,
)
from rpl_runtime.console import Console, progress, say
from rpl_runtime.files import JsonDict, read_json, write_json

if TYPE_CHECKING:
    from rpl_runtime.client import Access
    from rpl_runtime.evaluation.evaluate import Apart, EvaluateConfig, Trial
    from rpl_runtime.tasks.task import Task


TRAINED_BELOW = 1_000_000  # seeds of episodes
_HardOption = partial(typer.Option, rich_help_panel="The hard protocol, or one condition of your own")


def evaluate_command(
    context: typer.Context,
    bundle: Annotated[Path | None, typer.Argument(help="The bundle's folder; a server is started for it.")] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT or unix:PATH of a running server to evaluate instead.")
    ] = None,
    saved: Annotated[
        Path | None,
        typer.Option("--from", exists=True, dir_okay=False, help="Run nothing: print and draw this evaluation.json."),
    ] = None,
    task_name: TaskName = "kitchen",
    providers: Providers = "CPU",
    goals: Annotated[
        list[str] | None,
        typer.Option(
            help="A group of the task's goals, a goal, or elements separated by commas; by default the first group. "
            "The kitchen has paper (17 goals), human (7 more from human play), unseen (11 in no demonstrations), "
            "all35, sets1 to sets7 (all sets of that size), and initials such as mkbs. Repeatable."
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each goal from each start.")] = 20,
    steps: Annotated[
        int | None,
        typer.Option(help="Control steps of an episode; by default the task's. The kitchen has 280 for four elements."),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            help="One of the task's starts, or all of them (both, the default). The kitchen's perturbed start: each "
            "arm joint +-0.05 rad, the kettle +-0.02 m in x and y."
        ),
    ] = "both",
    seed: Annotated[
        int, typer.Option(help=f"First seed of the episodes; training uses seeds below {TRAINED_BELOW}.")
    ] = TRAINED_BELOW,
    sample: Annotated[bool, typer.Option("--sample", help="Sample both levels instead of taking their modes.")] = False,
    profile: Annotated[
        Literal["own", "panda", "fr3"],
        typer.Option(help="Motion limits of the arm; own: those of the simulated one."),
    ] = "own",
    object_noise: Annotated[
        tuple[float, float],
        typer.Option(metavar="M RAD", help="Standard deviation of an observed object's position [m] and angle [rad]."),
    ] = (0.0, 0.0),
    object_latency: Annotated[
        int, typer.Option(help="Control periods by which objects are observed later than the arm.")
    ] = 0,
    object_dropout: Annotated[
        float, typer.Option(help="Probability that a period has no new observation of the objects.")
    ] = 0.0,
    latency: Annotated[int, typer.Option(help="Control periods by which every observation is late.")] = 0,
    still_known: Annotated[
        bool, typer.Option("--still-known", help="Observe without noise what no element moves.")
    ] = False,
    hand: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds that a Franka hand needs for a command; default: fingers follow."),
    ] = None,
    latency_jitter: Annotated[
        int, typer.Option(help="Control periods by which --latency varies at most, up and down.")
    ] = 0,
    stamped: Annotated[
        bool, typer.Option(help="Whether observations carry the time at which they were measured.")
    ] = True,
    object_bias: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="M RAD", help="How far off all observed positions [m] and angles [rad] of an episode are."
        ),
    ] = (0.0, 0.0),
    estimate: Annotated[
        bool,
        typer.Option(
            help="Estimate states between a robot with faults and the policy; perfect senses are left as they are."
        ),
    ] = True,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Of the estimator, by `rpl run --calibrate`; default: measured first."),
    ] = None,
    plan_lead: PlanLead = 0,
    protocol: Annotated[
        Literal["standard", "hard"],
        typer.Option(help="hard: disturbed and changing tasks, whole goals and a real robot's senses, a row for each."),
    ] = "standard",
    condition: Annotated[
        list[str] | None, _HardOption(help="Only this condition of the hard protocol, by its name. Repeatable.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        _HardOption(exists=True, dir_okay=False, help="Another system's hard.json, printed beside. Repeatable."),
    ] = None,
    start_noise: Annotated[
        tuple[float, float] | None,
        _HardOption(metavar="RAD M", help="Start with each arm joint and the kettle's x and y off by up to this."),
    ] = None,
    jolt: Annotated[float, _HardOption(help="Jolt the arm: each joint by up to this [rad].")] = 0.0,
    jolt_at: Annotated[
        list[int] | None, _HardOption(min=0, help="Control step of a jolt; default: 40 and 110.")
    ] = None,
    push: Annotated[float, _HardOption(help="Push the kettle so that it slides this far [m].")] = 0.0,
    push_at: Annotated[list[int] | None, _HardOption(min=0, help="Control step of a push; default: 40.")] = None,
    put_back: Annotated[
        int | None, _HardOption(min=1, help="Put the first finished element back, so many control steps later.")
    ] = None,
    swap: Annotated[
        int | None,
        _HardOption(min=1, help="From this control step on, the goal is three elements that it did not name."),
    ] = None,
    second_goal: Annotated[
        bool, _HardOption("--second-goal", help="Then name the elements that are still open, for as many steps again.")
    ] = False,
    undo: Annotated[
        bool,
        _HardOption("--undo", help="Start with the goal's elements done; the goal is a state in which they are not."),
    ] = False,
    goal_state: Annotated[
        Path | None, _HardOption(exists=True, dir_okay=False, help="The goal as a whole state: JSON, 30 numbers.")
    ] = None,
    start_from: Annotated[
        Path | None,
        _HardOption(exists=True, dir_okay=False, help="Start in this state, or in these in turn: JSON, lists of 30."),
    ] = None,
    shift: Annotated[int, _HardOption(help="Goals one after another without a reset, each with a jolt or a push.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Simulators in parallel; default: one per core. It does not change the results."),
    ] = None,
    executor: ExecutorName = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, results.png and the episodes; continues from its episodes."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the results here (.png, .svg, .pdf).")] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="Film one more episode, with translucent subgoals (.mp4; .webp: four times as fast)."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Picture of that episode, a tile for each subgoal (.png).")] = None,
    video_goal: Annotated[str | None, typer.Option(help="The goal to film; default: the first goal.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the results into the bundle and its card.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure a policy in the world of its task, through gRPC: elements done and success of each goal.

    The kitchen's protocol is FrankaKitchen-v1 at its default noise, with 280 control steps and goals of four named
    elements. "ever" counts an element that was done at any control step, "end" one that is done at the last.
    Intervals are 95 % bootstrap over goals.

    By default the robot is the world's own; options give its arm limits or worsen its observations. The tables are
    printed before any file is written. Exits with 1 if a file cannot be written.

    Example: rpl evaluate models/kitchen --goals mkbs --episodes 2
    """
    if sum(given is not None for given in (bundle, address, saved)) != 1:
        raise typer.BadParameter("give exactly one of BUNDLE, --address and --from")
    if providers != "CPU" and bundle is None:
        raise typer.BadParameter("--providers is for a BUNDLE; a server at an address has its own")
    if executor == "ray" and (bundle is None or protocol == "hard"):
        raise typer.BadParameter("--executor ray is for the standard protocol and a BUNDLE, which each job serves")
    if video_goal and protocol == "hard":
        raise typer.BadParameter(
            "--video-goal is for the standard protocol; of the hard one, the first --condition is filmed"
        )
    if video_goal and video is None and sheet is None:
        raise typer.BadParameter("--video-goal says which goal to film; it needs --video or --sheet")
    if saved is not None and (video or sheet):
        raise typer.BadParameter("--from has nothing to film: it draws an evaluation that was made before")
    if write and bundle is None:
        raise typer.BadParameter("--write needs the BUNDLE to write into")
    for given, what, other, needed in ((jolt_at, "--jolt-at", jolt, "--jolt"), (push_at, "--push-at", push, "--push")):
        if given and not other:
            raise typer.BadParameter(f"{what} says when; it needs {needed}, which says how far")
    if condition and protocol != "hard":
        raise typer.BadParameter("--condition names one of --protocol hard, and needs it")
    from rpl_runtime.cli.hard import HardOptions, chosen, evaluate_hard, read_states
    from rpl_runtime.cli.run import read_calibration
    from rpl_runtime.client import Access
    from rpl_runtime.evaluation.evaluate import Apart, EvaluateConfig, plan_trials
    from rpl_runtime.evaluation.figures import check_suffix, picture_suffixes
    from rpl_runtime.evaluation.protocol import Hardship, ProtocolConfig, hazards_of
    from rpl_runtime.files import alone_in
    from rpl_runtime.robots.degraded import Conditions
    from rpl_runtime.server.subprocess import serve_in_process
    from rpl_runtime.tasks.load import load_task
    from rpl_runtime.tasks.pictures import sheet_suffixes, video_suffixes

    task = load_task(task_name)
    own = {
        "start": None if start_noise is None else hazards_of(task).start(*start_noise),
        "jolt": jolt,
        "jolt_at": tuple(jolt_at or ()),
        "push": push,
        "push_at": tuple(push_at or ()),
        "put_back": put_back,
        "swap_at": swap,
        "second": second_goal,
        "undo": undo,
        "goal_state": None if goal_state is None else read_states(task, goal_state)[0],
        "start_from": () if start_from is None else read_states(task, start_from),
        "shift": shift,
    }
    own = {name: value for name, value in own.items() if value not in (None, 0, ())}
    if own and condition:
        raise typer.BadParameter("give --condition, or a condition put together from other options, not both")
    if beside and not own and protocol != "hard":
        raise typer.BadParameter("--beside is for the hard protocol, or one condition of your own")
    # Options are checked before anything runs.
    for path, suffixes in ((picture, picture_suffixes), (video, video_suffixes), (sheet, sheet_suffixes)):
        if path is not None:
            check_suffix(path, suffixes())
    films: dict[Path, Callable[[], object]] = {}
    alone = nullcontext() if output is None else alone_in(output)
    with ExitStack() as stack:
        if saved is not None:
            content = read_json(saved, "an evaluation.json")
            stack.enter_context(alone)
        else:
            robot = Conditions(
                profile,
                *object_noise,
                object_latency,
                object_dropout,
                latency,
                latency_jitter=latency_jitter,
                stamped=stamped,
                position_bias=object_bias[0],
                angle_bias=object_bias[1],
                still_known=still_known,
                hand_time=hand,
            )
            config = EvaluateConfig(
                goals=tuple(goals or ()),
                episodes=episodes,
                starts=() if start == "both" else (start,),
                steps=steps,
                seed=seed,
                sample=sample,
                robot=robot,
                estimate=estimate,
                calibration=None if calibration is None else read_calibration(calibration),
                plan_lead=plan_lead,
                jobs=jobs or os.cpu_count() or 1,
            )
            if 0 <= seed < TRAINED_BELOW:
                say(f"note: training uses seeds below {TRAINED_BELOW}, and this evaluation begins at {seed}", err=True)
            if own or protocol == "hard":
                standard = config.of(task)
                asked = Hardship(standard.goals, standard.steps or 0, robot=robot, **own) if own else None
                evaluate_hard(
                    HardOptions(
                        task=task,
                        bundle=bundle,
                        providers=providers,
                        address=server_of(address),
                        access=Access() if bundle else access_of(context),
                        hardships=chosen(task, condition) if asked is None else {"as asked": asked},
                        config=ProtocolConfig(episodes, seed, config.jobs),
                        senses=config,
                        beside=tuple(beside or ()),
                        output=output,
                        picture=picture,
                        video=video,
                        sheet=sheet,
                        write=write,
                        as_json=as_json,
                    )
                )
                return
            trials = plan_trials(task, config)
            filmed = plan_trials(task, replace(config, goals=(video_goal,)))[0] if video_goal else trials[0]
            stack.enter_context(alone)
            where = stack.enter_context(serve_in_process(bundle, providers)) if bundle else server_of(address)
            access = Access() if bundle else access_of(context)
            apart = Apart(bundle, executor, providers) if bundle and executor == "ray" else None
            content = _evaluate(where, access, task, config, len(trials), output, apart)
            if video is not None:
                films[video] = partial(write_film, where, access, task, config, filmed, video=video)
            if sheet is not None:
                films[sheet] = partial(write_film, where, access, task, config, filmed, sheet=sheet)
        _deliver(content, as_json, output, picture, bundle if write else None, films)


def _deliver(
    content: JsonDict,
    as_json: bool,
    output: Path | None,
    picture: Path | None,
    bundle: Path | None,
    films: dict[Path, Callable[[], object]],
) -> None:
    """Print an evaluation and write its files, into its bundle too; exits with 1 if one cannot be written."""
    from rpl_runtime.cli.report import written
    from rpl_runtime.evaluation.figures import draw_results
    from rpl_runtime.evaluation.results import print_results
    from rpl_runtime.policy.bundle import attach_evaluation, load_bundle

    outputs: dict[Path, Callable[[], object]] = {}
    if output is not None:
        outputs[output / "evaluation.json"] = partial(write_json, output / "evaluation.json", content)
    if bundle is not None:

        def attach() -> None:
            loaded = load_bundle(bundle)
            hard = (loaded.evaluation or {}).get("hard")  # of the other protocol
            attach_evaluation(loaded, content if hard is None else content | {"hard": hard})

        outputs[bundle] = attach
    for path in (picture, output and output / "results.png"):
        if path is not None:
            outputs[path] = partial(draw_results, content, path)
    try:
        show(as_json, content, lambda: print_results(content))
    finally:  # a closed pipe must not lose a file
        done = [written(path, put) for path, put in (outputs | films).items()]
    if not all(done):
        raise typer.Exit(1)


def _evaluate(
    address: str,
    access: "Access",
    task: "Task",
    config: "EvaluateConfig",
    total: int,
    output: Path | None,
    apart: "Apart | None",
) -> JsonDict:
    from rpl_runtime.evaluation.evaluate import evaluate
    from rpl_runtime.evaluation.results import Episode

    done: list[int] = []
    with progress() as report:

        def on_episode(episode: Episode) -> None:
            done.append(len(episode.first_done))
            report("episodes", len(done), total, f"{sum(done) / len(done):.2f} elements done in each")

        journal = None if output is None else output / "episodes.jsonl"
        return evaluate(address, task, config, journal, on_episode, access, apart).content


def write_film(
    address: str,
    access: "Access",
    task: "Task",
    config: "EvaluateConfig",
    trial: "Trial",
    video: Path | None = None,
    sheet: Path | None = None,
) -> None:
    """Film an episode with a progress bar. If rendering is not possible, stderr says what to install."""
    from rpl_runtime.cli.report import filming
    from rpl_runtime.evaluation.film import film

    with filming(trial.goal) as on_frame:
        film(address, task, trial, video, sheet, config, on_frame, access)


def bench_command(
    bundle: BundleFolder,
    steps: Annotated[int, typer.Option(min=1, help="Control steps of each unpaced measurement.")] = 5000,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, help="Seconds of each paced measurement; 26 are 10,400 control steps of 32 robots."),
    ] = 26.0,
    peers: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of more peers, such as benchmarks/runtime/peers."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the latency and throughput of the runtime, beside bare inference and other transports.

    The peers are a bare gRPC echo and those of a folder, each in an environment that is created when first needed. All
    get the same load in turns: one robot, 1 to 64 streams, 1 to 256 robots on a stream, unpaced and at the policy's
    rate. Exits with 1 if a requirement is missed. Other work on the machine changes the figures.

    Example: rpl bench models/kitchen --steps 1000 --seconds 5
    """
    from rpl_runtime.bench.bench import BenchConfig, bench, bench_table
    from rpl_runtime.cli.report import written

    with Console(stderr=True).status("measuring"):
        result = bench(bundle, BenchConfig(steps, seconds, peers=peers))
    try:
        show(as_json, result.content, lambda: Console().print(bench_table(result.content)))
    finally:  # neither a closed pipe nor a full disk loses what took minutes
        saved = output is None or written(output, partial(write_json, output, result.content))
    raise typer.Exit(0 if result.met and saved else 1)
