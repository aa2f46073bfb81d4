"""The commands that measure: `rpl evaluate`, a policy in a task's world; `rpl bench`, the cost of the runtime."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rpl_runtime.cli.measure.evaluate_options import TRAINED_BELOW, EvaluateOptions
from rpl_runtime.cli.options import BundleFolder, Json, grouped, show, used_server
from rpl_runtime.console import Console, say
from rpl_runtime.files import check_place, write_json


@grouped
def evaluate_command(context: typer.Context, asked: EvaluateOptions) -> None:
    """Measure a policy in the world of its task, through gRPC: elements done and success of each goal.

    The kitchen's protocol is FrankaKitchen-v1 at its default noise, with 280 control steps and goals of four named
    elements. "ever" counts an element that was done at any control step, "end" one that is done at the last.
    Intervals are 95 % bootstrap over goals.

    By default the robot is the world's own; options give its arm limits or worsen its observations. The tables are
    printed before any file is written. Exits with 1 if a file cannot be written.

    Example: rpl evaluate models/kitchen --goals mkbs --episodes 2
    """
    from rpl_runtime.cli.measure.hard import chosen, evaluate_hard
    from rpl_runtime.cli.measure.standard import evaluate_standard, show_again
    from rpl_runtime.tasks.load import load_task

    source, hard, results = asked.source, asked.hard, asked.results
    task = load_task(source.task_name)
    own = hard.own(task)
    results.check_outputs()  # before anything runs
    if source.saved is not None:
        show_again(source.saved, results)
        return
    config = asked.episodes.config(asked.jobs)
    if 0 <= config.seed < TRAINED_BELOW:
        say(f"note: training uses seeds below {TRAINED_BELOW}, and this evaluation begins at {config.seed}", err=True)
    server = used_server(context, source.address, source.bundle, source.providers)
    if own is None and hard.protocol == "standard":
        evaluate_standard(task, server, config, results, asked.executor)
        return
    if own is None:
        hardships = chosen(task, hard.condition)
    else:
        full = config.of(task)
        hardships = {"as asked": replace(own, goals=full.goals, steps=full.steps, robot=full.robot)}
    evaluate_hard(task, server, hardships, config, results, hard.beside or ())


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

    if output is not None:
        check_place(output)
    with Console(stderr=True).status("measuring"):
        result = bench(bundle, BenchConfig(steps, seconds, peers=peers))
    try:
        show(as_json, result.content, lambda: Console().print(bench_table(result.content)))
    finally:  # neither a closed pipe nor a full disk loses what took minutes
        saved = output is None or written(output, partial(write_json, output, result.content))
    raise typer.Exit(0 if result.met and saved else 1)
