"""The work of `rpl evaluate` by the hard protocol, or by one condition put together from options."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import typer

from rpl_runtime.cli.options import show
from rpl_runtime.cli.report import filming, written
from rpl_runtime.client import Access, Client
from rpl_runtime.console import progress
from rpl_runtime.errors import InvalidInput, hint
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.evaluate import EvaluateConfig, calibration_of, check_policy, estimators
from rpl_runtime.evaluation.film import film_condition
from rpl_runtime.evaluation.protocol import Hardship, Outcome, ProtocolConfig, conditions_of, run_protocol
from rpl_runtime.evaluation.protocol_results import check_content, content_of, draw_protocol, print_protocol
from rpl_runtime.files import JsonDict, alone_in, read_json, write_json
from rpl_runtime.policy.bundle import attach_evaluation, load_bundle
from rpl_runtime.robots.degraded import Conditions
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class HardOptions:
    """What to run, and where its results go."""

    task: Task
    bundle: Path | None  # served for it; None: the server at the address
    providers: str = "CPU"  # of ONNX Runtime, that compute it
    address: str
    access: Access
    hardships: dict[str, Hardship]
    config: ProtocolConfig = field(default_factory=ProtocolConfig)
    senses: EvaluateConfig = field(default_factory=EvaluateConfig)  # its estimate and calibration count
    beside: tuple[Path, ...] = ()  # files of other systems, printed and drawn beside
    name: str | None = None  # of the system; None: the policy's
    output: Path | None = None
    picture: Path | None = None
    video: Path | None = None  # of the first condition's first episode
    sheet: Path | None = None  # of the same
    write: bool = False
    as_json: bool = False


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


def evaluate_hard(options: HardOptions) -> None:
    """Run the conditions, print their table beside those of other systems, write the results, and film an episode.

    Exits with 1 if a film cannot be written; the results are then already.
    """
    beside = [
        check_content(read_json(path, "a hard.json of `rpl evaluate` or `rpl demos hard`")) for path in options.beside
    ]
    with ExitStack() as stack:
        if options.output is not None:
            stack.enter_context(alone_in(options.output))
        own = serve_in_process(options.bundle, options.providers) if options.bundle else None
        where = stack.enter_context(own) if own else options.address
        client = stack.enter_context(Client(where, access=options.access))
        model = client.describe()
        check_policy(model.spec, options.task)
        total, done = len(options.hardships) * options.config.episodes, list[Outcome]()

        def estimator(robot: Conditions) -> Callable[[], Estimator | None]:
            calibration = calibration_of(options.task, replace(options.senses, robot=robot), model.spec)
            return estimators(options.task, client, model, calibration)

        def on_outcome(outcome: Outcome) -> None:
            done.append(outcome)
            report("episodes", len(done), total, outcome.condition)

        identity: JsonDict = {"bundle_digest": model.digest, "estimate": options.senses.estimate}
        journal = None if options.output is None else options.output / "episodes.jsonl"
        with progress() as report:
            outcomes = run_protocol(
                *(options.task, client.control, estimator, options.hardships, options.config),
                *(identity, journal, on_outcome),
            )
        name, estimated = options.name or model.spec.name, options.senses.estimate
        content = content_of(name, model.digest, options.hardships, options.config, options.task, estimated, outcomes)
        write_results(content, beside, options.output, options.picture, options.as_json)
        if options.write and options.bundle is not None:
            bundle = load_bundle(options.bundle)
            attach_evaluation(bundle, (bundle.evaluation or {}) | {"hard": content["conditions"]})

        def film(video: Path | None, sheet: Path | None) -> None:
            condition, hardship = next(iter(options.hardships.items()))
            with filming(condition) as on_frame:
                where = (options.task, client.control, estimator, condition, hardship, options.config.seed)
                film_condition(*where, video, sheet, on_frame)

        filmed = [written(path, partial(film, path, None)) for path in (options.video,) if path]
        filmed += [written(path, partial(film, None, path)) for path in (options.sheet,) if path]
    if not all(filmed):
        raise typer.Exit(1)


def write_results(
    content: JsonDict, beside: list[JsonDict], output: Path | None, picture: Path | None, as_json: bool
) -> None:
    """Print a system's results beside those of others, and write them into a folder and as a picture."""
    show(as_json, content, lambda: print_protocol([content, *beside]))
    if output is not None:
        write_json(output / "hard.json", content)
    for path in (picture, output and output / "hard.png"):
        if path is not None:
            draw_protocol([content, *beside], path)
