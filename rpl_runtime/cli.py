"""The command `rpl`: one typer app. Commands import what they need when they run, so `rpl --help` is instant.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 an unusable bundle, 4 no server, no robot or no free
port, 5 not allowed, 6 a robot stopped, 130 interrupted.
"""

import json
import os
import sys
from contextlib import ExitStack
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rpl_runtime import operator_cli
from rpl_runtime.errors import InvalidInput, MissingExtra, RelayError

if TYPE_CHECKING:
    from rpl_runtime.evaluate import EvaluateConfig

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
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    # Escaped: units such as [rad] in a message are not markup.
    Console(stderr=True).print("[bold red]error:[/]", escape(message), highlight=False, soft_wrap=True)
    sys.exit(code)


_ADDRESS = operator_cli.ADDRESS
_FRANKA = "A Franka"  # heads its own options in the help

app.callback()(operator_cli.access_options)
app.command("serve")(operator_cli.serve_command)
app.command("health")(operator_cli.health_command)
app.command("top")(operator_cli.top_command)
app.add_typer(operator_cli.models_app, name="models")
app.add_typer(operator_cli.subgoal_app, name="subgoal")
app.add_typer(operator_cli.tokens_app, name="tokens")


@app.command("inspect")
def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Verify a bundle and say what it is: sizes, units, limits, clock, goals, origin, results."""
    from rpl_runtime.inspection import inspect_bundle, print_facts

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
    goal: Annotated[str, typer.Option(help="Elements with commas between them, or a compound goal such as mkbs.")],
    robot: Annotated[RobotKind, typer.Option(help="What to drive.")] = RobotKind.KITCHEN,
    address: Annotated[
        str | None,
        typer.Option(help=f"HOST:PORT or unix:PATH of a server, or several with commas; default {_ADDRESS}."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle for the run instead.")] = None,
    model: Annotated[str | None, typer.Option(help="One of the server's models, by name; default its first.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw the start and sample the policy with it; without: start 0, the mode.")
    ] = None,
    start: Annotated[StartKind, typer.Option(help="Where the kitchen starts.")] = StartKind.NOMINAL,
    steps: Annotated[int | None, typer.Option(help="Default: an episode, 280 steps of 0.08 s.")] = None,
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
    from rpl_runtime.run_command import SIMULATED, FrankaOptions, RunOptions, run_franka, run_kitchen

    if address is not None and bundle is not None:
        raise typer.BadParameter("--address and --bundle exclude each other")
    options = RunOptions(
        goal=goal,
        address=address or _ADDRESS,
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
        raise typer.Exit(run_kitchen(options, start is StartKind.PERTURBED, patience, record_to))
    if host is None:
        raise typer.BadParameter(f"a Franka needs a --host, its address, or {SIMULATED}")
    if objects is None:
        raise typer.BadParameter("a Franka needs to be told where its --objects are: mirror, fixed or HOST:PORT")
    if record_to is not None:
        raise typer.BadParameter("--record keeps runs of the kitchen; --log keeps those of a Franka")
    franka = FrankaOptions(host, objects, profile.value, speed, workspace, dry_run, realtime)
    raise typer.Exit(run_franka(options, franka))


@app.command("replay")
def replay_command(
    log: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file of `rpl run --log`, whole or broken off.")
    ],
    address: Annotated[
        str | None, typer.Option(help=f"HOST:PORT or unix:PATH of a server; default {_ADDRESS}.")
    ] = None,
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

    from rpl_runtime.client import Client
    from rpl_runtime.hosting import hosting
    from rpl_runtime.logfile import read_log
    from rpl_runtime.replay import replay, replay_table

    if address is not None and bundle is not None:
        raise typer.BadParameter("--address and --bundle exclude each other")
    logged = read_log(log)
    with ExitStack() as stack:
        where = stack.enter_context(hosting(bundle)) if bundle else address or _ADDRESS
        control = stack.enter_context(stack.enter_context(Client(where)).control())
        with Console(stderr=True).status(f"replaying {len(logged.steps)} steps"):
            result = replay(logged, control)
    within = result.within(tolerance)
    if as_json:
        typer.echo(json.dumps({**asdict(result), "tolerance": tolerance, "within": within}, indent=1))
    else:
        Console().print(replay_table(result, tolerance))
    raise typer.Exit(0 if within else 1)


class Starts(StrEnum):
    NOMINAL = "nominal"
    PERTURBED = "perturbed"
    BOTH = "both"


class ArmProfile(StrEnum):
    KITCHEN = "kitchen"
    PANDA = "panda"
    FR3 = "fr3"


@app.command("evaluate")
def evaluate_command(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle's folder; a server is started for it.")] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT or unix:PATH of a running server to evaluate instead.")
    ] = None,
    saved: Annotated[
        Path | None, typer.Option("--from", help="Run nothing: print and draw this evaluation.json again.")
    ] = None,
    goals: Annotated[
        list[str] | None,
        typer.Option(
            help="paper (17 goals, the default), human (7 more that people played), unseen (11 that nobody did), "
            "all35, sets1 to sets7 (all sets of so many), letters such as mkbs, or elements with commas between them. "
            "Repeat it for several."
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each goal from each start.")] = 20,
    steps: Annotated[
        int, typer.Option(help="Of an episode; the protocol gives four elements 280, which is 70 for each.")
    ] = 280,
    start: Annotated[
        Starts, typer.Option(help="perturbed: each arm joint +-0.05 rad, the kettle +-0.02 m in x and y.")
    ] = Starts.BOTH,
    seed: Annotated[int, typer.Option(help="First seed of the episodes; training stays below 1000000.")] = 1_000_000,
    sample: Annotated[bool, typer.Option("--sample", help="Sample both levels instead of taking their modes.")] = False,
    profile: Annotated[
        ArmProfile, typer.Option(help="The limits that the arm's motion keeps; kitchen: those of its soft servos.")
    ] = ArmProfile.KITCHEN,
    object_noise: Annotated[
        tuple[float, float],
        typer.Option(metavar="M RAD", help="Standard deviation of an object's place [m] and angle [rad] as seen."),
    ] = (0.0, 0.0),
    object_latency: Annotated[
        int, typer.Option(help="Control periods by which the objects are seen later than the arm.")
    ] = 0,
    object_dropout: Annotated[
        float, typer.Option(help="Probability that the objects are not seen in a period; the last sight is kept.")
    ] = 0.0,
    latency: Annotated[int, typer.Option(help="Control periods by which all that is observed is late.")] = 0,
    still_known: Annotated[
        bool, typer.Option("--still-known", help="See what no element moves without noise: it stands still.")
    ] = False,
    plan_lead: Annotated[int, typer.Option(help="Ask for a plan so many steps before it takes effect.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Simulators side by side, by default one a core; results do not depend on it.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, results.png and the episodes; go on there if broken off."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the results here (.png, .svg, .pdf).")] = None,
    video: Annotated[Path | None, typer.Option(help="Film one more episode, its subgoals translucent (.mp4).")] = None,
    sheet: Annotated[Path | None, typer.Option(help="The same in one picture, a tile for each subgoal (.png).")] = None,
    video_goal: Annotated[str | None, typer.Option(help="The goal to film, by default the first.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the results into the bundle and its card.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure a policy in the kitchen, through gRPC: steps done and success of each goal.

    FrankaKitchen-v1 at its default noise; by the protocol 280 steps, each goal four named elements. "ever" counts an
    element that was done at any step, "end" one that is done at the last. Intervals are 95 % bootstrap over goals.

    The robot is the kitchen's own unless its arm is given limits, or its sight is made worse.
    """
    if sum(given is not None for given in (bundle, address, saved)) != 1:
        raise typer.BadParameter("give one of them: a BUNDLE, an --address, or a file --from which to draw")
    if write and bundle is None:
        raise typer.BadParameter("--write needs the BUNDLE to write into")
    from rpl_runtime.evaluate import EvaluateConfig
    from rpl_runtime.hosting import hosting
    from rpl_runtime.results import print_results
    from rpl_runtime.robots.impaired import Conditions

    with ExitStack() as stack:
        if saved is not None:
            content = _read_evaluation(saved)
            _keep(content, output, picture)
        else:
            starts = (Starts.NOMINAL.value, Starts.PERTURBED.value) if start is Starts.BOTH else (start.value,)
            cores = jobs or os.cpu_count() or 1
            robot = Conditions(profile.value, *object_noise, object_latency, object_dropout, latency, still_known)
            config = EvaluateConfig(
                tuple(goals or ["paper"]), episodes, starts, steps, seed, sample, robot, plan_lead, cores
            )
            where = stack.enter_context(hosting(bundle)) if bundle else address or _ADDRESS
            content = _evaluate(where, config, output)
            _keep(content, output, picture, bundle if write else None)
            if video or sheet:
                _film(where, config, video_goal, video, sheet)
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        print_results(content)


def _keep(content: dict[str, Any], output: Path | None, picture: Path | None, bundle: Path | None = None) -> None:
    """Put an evaluation into a folder, a picture and a bundle."""
    from rpl_runtime.bundle import attach_evaluation, load_bundle
    from rpl_runtime.figures import draw_results

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "evaluation.json").write_text(json.dumps(content, indent=1) + "\n")
    for path in (picture, output and output / "results.png"):
        if path is not None:
            draw_results(content, path)
    if bundle is not None:
        attach_evaluation(load_bundle(bundle), content)


def _evaluate(address: str, config: "EvaluateConfig", output: Path | None) -> dict[str, Any]:
    """Evaluate with a progress bar on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rpl_runtime.evaluate import evaluate, plan_tasks
    from rpl_runtime.results import Episode

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    steps: list[int] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("episodes", total=len(plan_tasks(config)))

        def on_episode(episode: Episode) -> None:
            steps.append(len(episode.first_done))
            progress.update(
                bar, advance=1, description=f"episodes, {sum(steps) / len(steps):.2f} elements done in each"
            )

        journal = None if output is None else output / "episodes.jsonl"
        return evaluate(address, config, journal, on_episode).content


def _film(address: str, config: "EvaluateConfig", goal: str | None, video: Path | None, sheet: Path | None) -> None:
    """Film an episode; where rendering is not possible, say what it takes and go on."""
    from dataclasses import replace

    from rpl_runtime.evaluate import plan_tasks
    from rpl_runtime.film import film

    task = plan_tasks(replace(config, goals=(goal or config.goals[0],)))[0]
    console = Console(stderr=True)
    try:
        with console.status(f"filming {task.goal}"):
            film(address, task, video, sheet, config)
    except MissingExtra as error:
        console.print("[bold yellow]no video:[/]", escape(str(error)), highlight=False, soft_wrap=True)


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}); expected an evaluation.json of `rpl evaluate`") from error


@app.command("bench")
def bench_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    steps: Annotated[int, typer.Option(help="Steps of each unpaced measurement.")] = 5000,
    seconds: Annotated[
        float, typer.Option(help="Length of each measurement at the policy's rate; 26 s are 10,400 steps of 32 robots.")
    ] = 26.0,
    peers: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of peers to measure beside, as benchmarks/peers."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the JSON here as well.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what the runtime costs: the relay loop beside bare inference, the server beside its peers.

    The peers are a bare gRPC echo, and those of a folder, each in an environment of its own that is made when first
    needed. All are driven alike and in turns: one robot, 1 to 64 streams, 1 to 256 robots on a stream, as fast as they
    go and at the policy's rate. Exits with 1 where a requirement is missed; whatever else the machine does is in the
    numbers.
    """
    from rpl_runtime.bench import BenchConfig, bench, bench_table

    with Console(stderr=True).status("measuring"):
        result = bench(bundle, BenchConfig(steps, seconds, peers=peers))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result.content, indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps(result.content, indent=1))
    else:
        Console().print(bench_table(result.content))
    raise typer.Exit(0 if result.met else 1)
