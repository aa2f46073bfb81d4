"""The paper's table: every system imitated, fine-tuned and evaluated through the server, under one budget.

A row of `METHODS` says what is trained. Trials are saved in a folder of runs:

    RUNS/imitation/NAME/         an imitated policy, shared by the rows that start from it
    RUNS/METHOD/GOAL-SEED/       one goal fine-tuned, and its evaluation.json
    RUNS/METHOD/all/             a row without fine-tuning, evaluated on every goal
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

from rpl_runtime.client import Access
from rpl_runtime.errors import InvalidInput, hint
from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate
from rpl_runtime.files import JsonDict, staged
from rpl_runtime.jobs import Executor, Job, run_jobs
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import compound_goal, kitchen_spec
from rpl_train.augment import PoolConfig
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import digest
from rpl_train.export.export import export
from rpl_train.export.parity import ParityConfig
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.paper.methods import COMPARED_GOALS, METHODS, Imitation, Method
from rpl_train.paper.nearest import evaluate_nearest
from rpl_train.rl.finetune import FinetuneConfig, Point, finetune, read_curve
from rpl_train.runs import TrainedRun, load_run
from rpl_train.tasks.kitchen.task import KITCHEN

SHOWN = "demonstrations"  # key of a trial's evaluation: the digest of the demonstrations
_T = TypeVar("_T")  # the result of a job
_GATE = ParityConfig(episodes=1, steps=90)  # short, since all graphs of the table have the same structure


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """The budget of every row."""

    runs: Path
    demonstrations: tuple[Path, ...]
    env_steps: int = 120_000  # of fine-tuning, for each goal and seed
    imitation_steps: int = 20_000
    episodes: int = 20  # of each goal from each start, in evaluation
    jobs: int = 2
    executor: Executor = "local"

    def steps_of(self, method: Method) -> int:
        """Environment steps of each fine-tuning of a row."""
        return self.env_steps if method.tunes else 0


class Trial(NamedTuple):
    """A unit of work that depends only on the imitation it starts from."""

    method: Method
    goals: tuple[str, ...]  # letters
    seed: int

    @property
    def imitation(self) -> Imitation | None:
        """What it starts from."""
        start = self.method.imitation
        return start._replace(seed=self.seed) if start and self.method.imitation_seeds else start

    @property
    def name(self) -> str:
        return f"{self.method.name}/{f'{self.goals[0]}-{self.seed}' if self.method.tunes else 'all'}"


class TrialResult(NamedTuple):
    goals: tuple[str, ...]
    seed: int
    curve: tuple[Point, ...]
    evaluation: JsonDict


class RowResult(NamedTuple):
    """A row with its finished trials."""

    method: Method
    env_steps: int  # for each goal and seed
    trials: tuple[TrialResult, ...]


def chosen(names: Sequence[str] | None) -> list[Method]:
    """The rows with these names; all if none are given.

    Raises:
        InvalidInput: a name is unknown.
    """
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        near = hint(unknown[0], METHODS)
        raise InvalidInput(f"no row is called {', '.join(unknown)}{near}; must be one of {', '.join(METHODS)}")
    return [METHODS[name] for name in names or METHODS]


def reproduce(
    methods: Sequence[Method],
    config: PaperConfig,
    known: Mapping[str, Sequence[TrialResult]],
    progress: Callable[[str, int, int], None],
    keep: Callable[[RowResult], None],
) -> None:
    """Run the rows' missing trials, seed by seed; goals that all rows share come first, so rows compare early.

    Args:
        known: finished trials, by the name of their row.
        progress: called as progress(what, finished, total) after each imitation and each trial.
        keep: called with a row and all its finished trials whenever one is added.

    Raises:
        TrainingError: a trial failed; the finished ones were kept.
    """
    results = {method.name: list(known.get(method.name, ())) for method in methods}
    done = {(name, trial.goals, trial.seed) for name, trials in results.items() for trial in trials}
    trials = [trial for method in methods for trial in plan(method)]
    missing = [trial for trial in trials if (trial.method.name, trial.goals, trial.seed) not in done]
    missing.sort(key=_turn)
    needed = dict.fromkeys(trial.imitation for trial in missing if trial.imitation is not None)
    _run("imitation", [Job(start.name, imitate_one, (start, config)) for start in needed], config, progress)

    def grown(trial: Trial, result: TrialResult) -> None:
        method = trial.method
        results[method.name].append(result)
        places = {(planned.goals, planned.seed): place for place, planned in enumerate(plan(method))}
        ordered = sorted(results[method.name], key=lambda result: places[result.goals, result.seed])
        keep(RowResult(method, config.steps_of(method), tuple(ordered)))

    jobs = [Job(trial.name, attempt, (trial, config)) for trial in missing]
    _run("trials", jobs, config, progress, lambda job, result: grown(job.arguments[0], result))


def _turn(trial: Trial) -> tuple[int, int]:
    """The sort key of the order in which trials are run."""
    [goal] = trial.goals if trial.method.tunes else (COMPARED_GOALS[0],)
    place = COMPARED_GOALS.index(goal) if goal in COMPARED_GOALS else len(COMPARED_GOALS)
    return trial.seed, place


def _run(
    what: str,
    jobs: list[Job[_T]],
    config: PaperConfig,
    progress: Callable[[str, int, int], None],
    finish: Callable[[Job[_T], _T], None] = lambda job, result: None,
) -> None:
    finished = count(1)

    def on_job(job: Job[_T], result: _T) -> None:
        finish(job, result)
        progress(what, next(finished), len(jobs))

    progress(what, 0, len(jobs))
    run_jobs(jobs, config.executor, config.jobs, on_job)


def plan(method: Method) -> list[Trial]:
    """A row's trials: one for each goal and seed, or one for all goals if nothing is fine-tuned."""
    if not method.tunes:
        return [Trial(method, method.goals, 0)]
    return [Trial(method, (goal,), seed) for seed in method.seeds for goal in method.goals]


def imitate_one(imitation: Imitation, config: PaperConfig) -> None:
    """Train an imitation for all rows that start from it."""
    run = config.runs / "imitation" / imitation.name
    networks = NetworkConfig(flat=imitation.flat, high_components=imitation.components)
    settings = ImitateConfig(
        steps=config.imitation_steps,
        seed=imitation.seed,
        jobs=1,
        networks=networks,
        pool=pool_config(imitation),
    )
    kept = imitation.horizon or imitation.window
    task = replace(KITCHEN, spec=kitchen_spec("kitchen", horizon=kept))
    imitate(_load(config), task, run, settings, lambda level, step, loss: None)


def pool_config(imitation: Imitation) -> PoolConfig:
    """The relabelling of an imitation."""
    return PoolConfig(relabelling=imitation.relabelling, low_window=imitation.window, hold=30)


def attempt(trial: Trial, config: PaperConfig) -> TrialResult:
    """Fine-tune and evaluate, or load the results if the demonstrations and the protocol are the same."""
    run, imitation, demonstrations = config.runs / trial.name, trial.imitation, _load(config)
    protocol, shown = _protocol(trial, config), digest(demonstrations.trajectories)
    if imitation is None:
        evaluation = _kept(run, protocol, shown, lambda: evaluate_nearest(demonstrations, protocol))
        return TrialResult(trial.goals, trial.seed, (), evaluation)
    trained = load_run(config.runs / "imitation" / imitation.name)
    if trial.method.tunes:
        trained = finetune(KITCHEN, trained, demonstrations, run, finetune_config(trial, config)).trained
    evaluation = _kept(run, protocol, shown, lambda: _evaluate(trained, trial, protocol))
    return TrialResult(trial.goals, trial.seed, tuple(read_curve(run)), evaluation)


def finetune_config(trial: Trial, config: PaperConfig) -> FinetuneConfig:
    """The settings of a trial's fine-tuning."""
    method = trial.method
    assert method.imitation is not None
    return FinetuneConfig(
        goal=compound_goal(trial.goals[0]),
        objective=method.objective,
        levels=method.tunes,
        scratch=method.scratch,
        reward=method.reward,
        high_reward=method.high_reward,
        likelihood=method.likelihood,
        env_steps=config.env_steps,
        seed=trial.seed,
        pool=pool_config(method.imitation),
    )


def shown_digest(config: PaperConfig) -> str:
    """The digest by which evaluations name these demonstrations."""
    return digest(_load(config).trajectories)


def _load(config: PaperConfig) -> Demonstrations:
    return load_demonstrations(list(config.demonstrations), KITCHEN)


def _protocol(trial: Trial, config: PaperConfig) -> EvaluateConfig:
    return EvaluateConfig(trial.goals, config.episodes, jobs=1)


def _kept(run: Path, protocol: EvaluateConfig, shown: str, measure: Callable[[], JsonDict]) -> JsonDict:
    """The cached evaluation of a folder; measured again if the protocol or the demonstrations changed."""
    path = run / "evaluation.json"
    asked = {"goals": list(protocol.goals), "episodes": protocol.episodes, "steps": protocol.of(KITCHEN).steps}
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        known = found.get(SHOWN) == shown and asked.items() <= found["protocol"].items()
    except (ValueError, KeyError, AttributeError):  # damaged
        known = False
    if not known:
        content = measure() | {SHOWN: shown}
        with staged(path) as staging:
            staging.write_text(json.dumps(content, indent=1) + "\n")
    return json.loads(path.read_text())


def _evaluate(trained: TrainedRun, trial: Trial, protocol: EvaluateConfig) -> JsonDict:
    """Evaluate a policy by the protocol, through a server of its bundle."""
    spec = trained.record.spec.model_copy(update={"library": {goal: compound_goal(goal) for goal in trial.goals[:1]}})
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export(trained.policy, spec, trained.record.provenance, bundle, trained.record.statistics, _GATE, KITCHEN)
        with serve_in_process(bundle) as address:
            return evaluate(address, KITCHEN, protocol, access=Access()).content
