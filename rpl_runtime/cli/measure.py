"""The commands that measure: evaluate, what a policy does in the kitchen; bench, what the runtime costs.

Like cli.py, which takes them in, they import what they need when they run.
"""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rpl_runtime.cli.options import ADDRESS
from rpl_runtime.errors import InvalidInput, MissingExtra, RelayError

if TYPE_CHECKING:
    from rpl_runtime.evaluation.evaluate import EvaluateConfig, Task


class Starts(StrEnum):
    NOMINAL = "nominal"
    PERTURBED = "perturbed"
    BOTH = "both"


class ArmProfile(StrEnum):
    KITCHEN = "kitchen"
    PANDA = "panda"
    FR3 = "fr3"


def evaluate_command(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle's folder; a server is started for it.")] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT or unix:PATH of a running server to evaluate instead.")
    ] = None,
    saved: Annotated[
        Path | None,
        typer.Option("--from", exists=True, dir_okay=False, help="Run nothing: print and draw this evaluation.json."),
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
    hand: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds that a Franka hand takes for a command; fingers follow without."),
    ] = None,
    plan_lead: Annotated[int, typer.Option(help="Ask for a plan so many steps before it takes effect.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Simulators side by side, by default one a core; results are the same."),
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

    The robot is the kitchen's own unless its arm is given limits, or its sight is made worse. Exits with 1 where a file
    could not be written; the table is printed before any file is.
    """
    if sum(given is not None for given in (bundle, address, saved)) != 1:
        raise typer.BadParameter("give one of them: a BUNDLE, an --address, or a file --from which to draw")
    if write and bundle is None:
        raise typer.BadParameter("--write needs the BUNDLE to write into")
    from rpl_runtime.evaluation.evaluate import EvaluateConfig, plan_tasks
    from rpl_runtime.evaluation.results import print_results
    from rpl_runtime.files import alone_in
    from rpl_runtime.robots.degraded import Conditions
    from rpl_runtime.server.subprocess import serve_in_process

    # All that can be wrong with the options is found before anything runs.
    _check_suffixes(picture, video, sheet)
    films: dict[Path, Callable[[], object]] = {}
    alone = nullcontext() if output is None else alone_in(output)
    with ExitStack() as stack:
        if saved is not None:
            content = _read_evaluation(saved)
            stack.enter_context(alone)
        else:
            starts = (Starts.NOMINAL.value, Starts.PERTURBED.value) if start is Starts.BOTH else (start.value,)
            cores = jobs or os.cpu_count() or 1
            robot = Conditions(profile.value, *object_noise, object_latency, object_dropout, latency, still_known, hand)
            config = EvaluateConfig(
                tuple(goals or ["paper"]), episodes, starts, steps, seed, sample, robot, plan_lead, cores
            )
            episodes_to_run = len(plan_tasks(config))
            filmed = plan_tasks(replace(config, goals=(video_goal or config.goals[0],)))[0]
            stack.enter_context(alone)
            where = stack.enter_context(serve_in_process(bundle)) if bundle else address or ADDRESS
            content = _evaluate(where, config, episodes_to_run, output)
            if video is not None:
                films[video] = partial(_film, where, config, filmed, video=video)
            if sheet is not None:
                films[sheet] = partial(_film, where, config, filmed, sheet=sheet)
        try:
            if as_json:
                typer.echo(json.dumps(content, indent=1))
            else:
                print_results(content)
        finally:  # a closed pipe loses no file
            outputs = _outputs(content, output, picture, bundle if write else None) | films
            written = [_written(path, put) for path, put in outputs.items()]
    if not all(written):
        raise typer.Exit(1)


def _check_suffixes(picture: Path | None, video: Path | None, sheet: Path | None) -> None:
    from rpl_runtime.evaluation.figures import check_suffix, picture_suffixes
    from rpl_runtime.tasks.kitchen.render import sheet_suffixes, video_suffixes

    for path, suffixes in ((picture, picture_suffixes), (video, video_suffixes), (sheet, sheet_suffixes)):
        if path is not None:
            check_suffix(path, suffixes())


def _outputs(
    content: dict[str, Any], output: Path | None, picture: Path | None, bundle: Path | None
) -> dict[Path, Callable[[], object]]:
    """How an evaluation is put into a folder, a picture and a bundle, by the path of each."""
    from rpl_runtime.evaluation.figures import draw_results
    from rpl_runtime.files import staged
    from rpl_runtime.policy.bundle import attach_evaluation, load_bundle

    def save(path: Path) -> None:
        with staged(path) as staging:
            staging.write_text(json.dumps(content, indent=1) + "\n")

    outputs: dict[Path, Callable[[], object]] = {}
    if output is not None:
        outputs[output / "evaluation.json"] = partial(save, output / "evaluation.json")
    if bundle is not None:
        outputs[bundle] = lambda: attach_evaluation(load_bundle(bundle), content)
    for path in (picture, output and output / "results.png"):
        if path is not None:
            outputs[path] = partial(draw_results, content, path)
    return outputs


def _written(path: Path, put: Callable[[], object]) -> bool:
    """Write one output and return whether that worked; if not, stderr says why."""
    try:
        put()
    except (OSError, RelayError) as error:
        # An encoder that fails adds its whole command.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        message = escape(f"{path} was not written: {reason}")
        Console(stderr=True).print("[bold red]error:[/]", message, highlight=False, soft_wrap=True)
        return False
    return True


def _evaluate(address: str, config: "EvaluateConfig", total: int, output: Path | None) -> dict[str, Any]:
    """Evaluate with a progress bar on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rpl_runtime.evaluation.evaluate import evaluate
    from rpl_runtime.evaluation.results import Episode

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    steps: list[int] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("episodes", total=total)

        def on_episode(episode: Episode) -> None:
            steps.append(len(episode.first_done))
            progress.update(
                bar, advance=1, description=f"episodes, {sum(steps) / len(steps):.2f} elements done in each"
            )

        journal = None if output is None else output / "episodes.jsonl"
        return evaluate(address, config, journal, on_episode).content


def _film(
    address: str, config: "EvaluateConfig", task: "Task", video: Path | None = None, sheet: Path | None = None
) -> None:
    """Film an episode under a progress bar; where rendering is not possible, say what it takes and go on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rpl_runtime.evaluation.film import film

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(f"filming {task.goal}", total=None)  # until the episode is over
            film(address, task, video, sheet, config, lambda n, total: progress.update(bar, completed=n, total=total))
    except MissingExtra as error:
        console.print("[bold yellow]no video:[/]", escape(str(error)), highlight=False, soft_wrap=True)


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}); expected an evaluation.json of `rpl evaluate`") from error


def bench_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    steps: Annotated[int, typer.Option(help="Steps of each unpaced measurement.")] = 5000,
    seconds: Annotated[
        float, typer.Option(help="Length of each measurement at the policy's rate; 26 s are 10,400 steps of 32 robots.")
    ] = 26.0,
    peers: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of peers to measure beside, as benchmarks/runtime/peers."
        ),
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
    from rpl_runtime.bench.bench import BenchConfig, bench, bench_table

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
