"""The work of `rpl evaluate` by the hard protocol, or by one condition put together from options."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import typer

from rpl_runtime.cli.measure.evaluate_options import ResultOptions
from rpl_runtime.cli.options import Server, show
from rpl_runtime.cli.report import filming, written
from rpl_runtime.client import Client
from rpl_runtime.console import progress
from rpl_runtime.errors import InvalidInput, hint
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.evaluate import EvaluateConfig, calibration_of, check_policy, estimators
from rpl_runtime.evaluation.film import film_condition
from rpl_runtime.evaluation.protocol import Hardship, Outcome, ProtocolConfig, conditions_of, run_protocol
from rpl_runtime.evaluation.protocol_results import check_content, content_of, draw_protocol, print_protocol
from rpl_runtime.files import JsonDict, read_json, write_json
from rpl_runtime.policy.bundle import attach_evaluation, load_bundle
from rpl_runtime.robots.degraded import Conditions
from rpl_runtime.tasks.task import Task


def chosen(task: Task, names: list[str] | None) -> dict[str, Hardship]:
    """The conditions of a task's hard protocol with some names, all of them by default.

    Raises:
        InvalidInput: there is no such condition, or no hard protocol.
    """
    known = conditions_of(task)
    for name in names or ():
        if name not in known:
            near = hint(name, known)
            raise InvalidInput(f"no condition is called {name!r}{near}; must be one of {', '.join(known)}")
    return {name: known[name] for name in names or known}


def read_states(task: Task, path: Path) -> tuple[tuple[float, ...], ...]:
    """The whole states in a JSON file: one list of a task's n numbers, or a list of such lists.

    Raises:
        InvalidInput: the file holds something else.
    """
    dim = task.spec.state.dim
    content = read_json(path, f"JSON lists of {dim} numbers")
    try:
        states = np.atleast_2d(np.array(content, dtype=np.float64))
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path} does not hold states ({error}); must be JSON lists of {dim} numbers") from error
    if states.ndim != 2 or states.shape[1] != dim or not np.isfinite(states).all():
        raise InvalidInput(f"{path} holds numbers of shape {states.shape}; must be lists of {dim} finite numbers")
    return tuple(map(tuple, states.tolist()))


def evaluate_hard(
    task: Task,
    server: Server,
    hardships: Mapping[str, Hardship],
    config: EvaluateConfig,
    results: ResultOptions,
    beside: Sequence[Path] = (),
) -> None:
    """Run the conditions, show their table, write the results, and film the first condition's first episode.

    Exits with 1 if a film cannot be written; the results are then already.

    Args:
        config: its number of episodes of each condition, its seed and its estimator count.
        beside: files of other systems, shown and drawn beside.
    """
    others = [check_content(read_json(path, "a hard.json of `rpl evaluate` or `rpl demos hard`")) for path in beside]
    much = ProtocolConfig(config.episodes, config.seed, config.jobs)
    with ExitStack() as stack:
        stack.enter_context(results.alone())
        address = stack.enter_context(server.reached())
        client = stack.enter_context(Client(address, access=server.access))
        model = client.describe()
        check_policy(model.spec, task)
        total, done = len(hardships) * much.episodes, list[Outcome]()

        def estimator(robot: Conditions) -> Callable[[], Estimator | None]:
            return estimators(task, client, model, calibration_of(task, replace(config, robot=robot), model.spec))

        def on_outcome(outcome: Outcome) -> None:
            done.append(outcome)
            report("episodes", len(done), total, outcome.condition)

        identity: JsonDict = {"bundle_digest": model.digest, "estimate": config.estimate}
        journal = None if results.output is None else results.output / "episodes.jsonl"
        with progress() as report:
            outcomes = run_protocol(
                *(task, client.control, estimator, hardships, much, identity, journal, on_outcome),
            )
        content = content_of(model.spec.name, model.digest, hardships, much, task, config.estimate, outcomes)
        write_results(content, others, results)
        if results.write and server.bundle is not None:
            bundle = load_bundle(server.bundle)
            attach_evaluation(bundle, (bundle.evaluation or {}) | {"hard": content["conditions"]})

        def film(video: Path | None, sheet: Path | None) -> None:
            condition, hardship = next(iter(hardships.items()))
            with filming(condition) as on_frame:
                where = (task, client.control, estimator, condition, hardship, much.seed)
                film_condition(*where, video, sheet, on_frame)

        filmed = [written(path, partial(film, path, None)) for path in (results.video,) if path]
        filmed += [written(path, partial(film, None, path)) for path in (results.sheet,) if path]
    if not all(filmed):
        raise typer.Exit(1)


def write_results(content: JsonDict, beside: list[JsonDict], results: ResultOptions) -> None:
    """Show a system's results beside those of others, and write them into a folder and as a picture."""
    show(results.as_json, content, lambda: print_protocol([content, *beside]))
    if results.output is not None:
        write_json(results.output / "hard.json", content)
    for path in results.pictures("hard.png"):
        draw_protocol([content, *beside], path)
