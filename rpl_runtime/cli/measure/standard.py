"""The work of `rpl evaluate` by the standard protocol: its episodes, and what is shown, written and filmed of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import typer

from rpl_runtime.cli.measure.evaluate_options import ResultOptions
from rpl_runtime.cli.options import Server, show
from rpl_runtime.cli.report import filming, written
from rpl_runtime.client import Access
from rpl_runtime.console import progress
from rpl_runtime.evaluation.evaluate import Apart, EvaluateConfig, Trial, evaluate, plan_trials
from rpl_runtime.evaluation.figures import draw_results
from rpl_runtime.evaluation.film import film
from rpl_runtime.evaluation.results import Episode, print_results
from rpl_runtime.files import JsonDict, read_json, write_json
from rpl_runtime.jobs import Executor
from rpl_runtime.policy.bundle import attach_evaluation, load_bundle
from rpl_runtime.tasks.task import Task

Write = Callable[[], object]  # writes one file


def evaluate_standard(
    task: Task, server: Server, config: EvaluateConfig, results: ResultOptions, executor: Executor | None
) -> None:
    """Run the episodes, show and write their results, and film an episode. Exits with 1 if a file cannot be written.

    Args:
        executor: ray runs them as jobs on its cluster, each with a server of its own.
    """
    trials = plan_trials(task, config)
    filmed = plan_trials(task, replace(config, goals=(results.video_goal,)))[0] if results.video_goal else trials[0]
    with results.alone(), server.reached() as address:
        apart = Apart(server.bundle, executor, server.providers) if server.bundle and executor == "ray" else None
        journal = None if results.output is None else results.output / "episodes.jsonl"
        with progress() as report:
            done: list[int] = []

            def on_episode(episode: Episode) -> None:
                done.append(len(episode.first_done))
                report("episodes", len(done), len(trials), f"{sum(done) / len(done):.2f} elements done in each")

            content = evaluate(address, task, config, journal, on_episode, server.access, apart).content
        filmed_to = partial(write_film, address, server.access, task, config, filmed)
        films: dict[Path, Write] = {}
        if results.video is not None:
            films[results.video] = partial(filmed_to, video=results.video)
        if results.sheet is not None:
            films[results.sheet] = partial(filmed_to, sheet=results.sheet)
        _deliver(content, results, server.bundle if results.write else None, films)


def show_again(saved: Path, results: ResultOptions) -> None:
    """Show and draw an evaluation that was made before."""
    content = read_json(saved, "an evaluation.json")
    with results.alone():
        _deliver(content, results)


def _deliver(
    content: JsonDict, results: ResultOptions, bundle: Path | None = None, films: Mapping[Path, Write] | None = None
) -> None:
    """Show an evaluation and write its files, into its bundle too; exits with 1 if one cannot be written."""
    outputs: dict[Path, Write] = {}
    if results.output is not None:
        evaluation = results.output / "evaluation.json"
        outputs[evaluation] = partial(write_json, evaluation, content)
    if bundle is not None:
        outputs[bundle] = partial(_attach, bundle, content)
    for path in results.pictures("results.png"):
        outputs[path] = partial(draw_results, content, path)
    try:
        show(results.as_json, content, lambda: print_results(content))
    finally:  # a closed pipe must not lose a file
        done = [written(path, put) for path, put in {**outputs, **(films or {})}.items()]
    if not all(done):
        raise typer.Exit(1)


def _attach(bundle: Path, content: JsonDict) -> None:
    loaded = load_bundle(bundle)
    hard = (loaded.evaluation or {}).get("hard")  # of the other protocol
    attach_evaluation(loaded, content if hard is None else content | {"hard": hard})


def write_film(
    address: str,
    access: Access,
    task: Task,
    config: EvaluateConfig,
    trial: Trial,
    video: Path | None = None,
    sheet: Path | None = None,
) -> None:
    """Film an episode with a progress bar. If rendering is not possible, stderr says what to install."""
    with filming(trial.goal) as on_frame:
        film(address, task, trial, video, sheet, config, on_frame, access)
