"""Evaluation of a served policy in the world of a task, by the protocol behind every figure of this project.

The protocol: the task's world, starts and length of an episode, a goal given by name or drawn by the world; optionally
a robot between simulator and policy that keeps limits and sees badly. Every action comes through gRPC, as on a robot.
These settings and the seed determine an episode, so the results do not depend on the number of simulators that run in
parallel.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import NamedTuple

from rpl_runtime.client import Access, Client, Control
from rpl_runtime.client.on_robot import cached_bundle
from rpl_runtime.errors import InvalidInput, WorldFault, hint
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.episodes import open_journal
from rpl_runtime.evaluation.results import Episode, summarize
from rpl_runtime.evaluation.simulators import share_out
from rpl_runtime.files import JsonDict
from rpl_runtime.jobs import Executor, Job, run_jobs
from rpl_runtime.loop.calibrate import calibrate
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.graphs import CPU
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.load import load_task
from rpl_runtime.tasks.task import MAX_EPISODES, Task, World

FIRST_SEED = 1_000_000  # training and the choice of a checkpoint use smaller seeds
_PACKAGES = ("numpy", "onnxruntime", "grpcio")


@dataclass(frozen=True)
class EvaluateConfig:
    """The episodes to run.

    Each goal is as `Task.parse_goals` takes it: a group, a goal's name, initials, or elements separated by commas.
    """

    goals: tuple[str, ...] = ()  # none: the task's first group
    episodes: int = 20  # of each goal from each start
    starts: tuple[str, ...] = ()  # none: all of the task's
    steps: int | None = None  # [control steps] of an episode; None: the task's
    seed: int = FIRST_SEED  # of the first episode
    sample: bool = False  # sample subgoals and actions with the episode's seed instead of taking the modes
    robot: Conditions = field(default_factory=Conditions)
    estimate: bool = True  # put the state estimator between the robot and the policy
    calibration: Calibration | None = None  # of the estimator; None: measured on the robot before the first episode
    plan_lead: int = 0  # [control steps] from the request of a plan to its effect
    jobs: int = 2  # simulators in parallel

    def of(self, task: Task) -> "EvaluateConfig":
        """The same with what is left to a task filled in."""
        goals, starts = self.goals or (next(iter(task.groups)),), self.starts or tuple(task.starts)
        steps = task.episode_steps if self.steps is None else self.steps
        return replace(self, goals=goals, starts=starts, steps=steps)


class Trial(NamedTuple):
    """One episode to run."""

    start: str
    goal: str
    elements: tuple[str, ...]
    seed: int


class Played(NamedTuple):
    """The course of an episode."""

    done: list[frozenset[str]]  # the elements at their goal after each control step
    refused: str | None  # why the policy refused a state, if the episode ended early


class Apart(NamedTuple):
    """Where the episodes of an evaluation run, apart from it."""

    bundle: Path  # that every machine sees
    executor: Executor
    providers: str = CPU  # of ONNX Runtime


class Evaluation(NamedTuple):
    """Episodes and their results."""

    episodes: list[Episode]
    content: JsonDict  # of evaluation.json


def evaluate(
    address: str,
    task: Task,
    config: EvaluateConfig,
    journal: Path | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    access: Access | None = None,
    apart: Apart | None = None,
) -> Evaluation:
    """Run a task's episodes on the server at `address`; `on_episode` is called with each finished episode.

    Finished episodes are kept in the file `journal`, from which an interrupted evaluation continues.
    `access` is how the server is reached; None reads it from the environment.
    With `apart` the server only says what it serves, and episodes are jobs elsewhere.

    Raises:
        JobsFailed: jobs failed; the others were run to their end.
        InvalidGoal: a goal is unknown.
        InvalidInput: another setting is out of range, the policy is of another task, or the journal belongs to another
            evaluation.
        ServerUnavailable: no server answers at the address, or it stopped answering.
        MissingExtra: the task's simulator is not installed.
    """
    config = config.of(task)
    trials = plan_trials(task, config)
    with Client(address, access=access) as client:
        model = client.describe()
        check_policy(model.spec, task)
        calibration = calibration_of(task, config, model.spec)
        estimator = estimators(task, client, model, calibration)
        conditions = {
            "bundle_digest": model.digest,
            "steps": config.steps,
            "sampled": config.sample,
            "robot": asdict(config.robot),
            "plan_lead": config.plan_lead,
            "estimator": None if calibration is None else calibration.model_dump(mode="json"),
        }
        with open_journal(journal, conditions, Episode) as kept:
            done = {_trial(episode): episode for episode in kept.episodes}
            for trial in trials:
                if trial in done:
                    on_episode(done[trial])

            def finished(episode: Episode) -> None:
                kept.append(episode)
                on_episode(episode)
                done[_trial(episode)] = episode

            missing = [trial for trial in trials if trial not in done]
            if apart is None:
                _run_all(client, task, missing, config, estimator, finished)
            else:
                _run_apart(apart, task, missing, replace(config, calibration=calibration), finished)
    episodes = [done[trial] for trial in trials]
    return Evaluation(episodes, content_of(model.spec.name, model.digest, task, config, episodes, calibration))


def check_policy(spec: PolicySpec, task: Task) -> None:
    """
    Raises:
        InvalidInput: the spec is of a policy for another task.
    """
    for what, theirs, ours in (
        ("a state", spec.state, task.spec.state),
        ("an action", spec.action, task.spec.action),
    ):
        if theirs.names != ours.names:
            raise InvalidInput(
                f"the policy {spec.name} has {what} of {theirs.dim} dimensions that is not the one of {task.name}, "
                f"{ours.dim} dimensions; it must be a policy for {task.name}, or name its task with --task"
            )


def calibration_of(task: Task, config: EvaluateConfig, spec: PolicySpec) -> Calibration | None:
    """The calibration of the robot's senses: as given, or measured on it; None if no estimator is used.

    Raises:
        InvalidInput: the given calibration is of another state.
    """
    if task.body is None or not config.estimate or (config.calibration is None and config.robot.exact):
        return None
    if config.calibration is not None:
        return config.calibration.checked(spec.state.names)
    with closing(DegradedRobot(SimulatedRobot(task), config.robot)) as robot:
        return calibrate(robot, task.body, spec)


def estimators(
    task: Task, client: Client, model: ModelInfo, calibration: Calibration | None
) -> Callable[[], Estimator | None]:
    """Makes an estimator for each robot; None without a calibration.

    Raises:
        PermissionDenied: the bundle, whose statistics it needs, cannot be fetched.
    """
    body = task.body
    if calibration is None or body is None:
        return lambda: None
    statistics = cached_bundle(client, model.digest).manifest.statistics
    return lambda: Estimator(body, calibration, statistics, model.spec.period_s)


def play(
    robot: DegradedRobot,
    control: Control,
    trial: Trial,
    config: EvaluateConfig,
    on_step: Callable[[Step], None] = lambda step: None,
    estimator: Estimator | None = None,
) -> Played:
    """Run the episode of a trial; the configuration is a task's (`EvaluateConfig.of`).

    Raises:
        RelayError: the server refuses the run, or stopped answering.
        WorldFault: the world shows a state of another size, or one that is not finite.
    """
    robot.simulated.start = trial.start
    # The id keys the sampling noise, so an episode's noise does not depend on what runs beside it.
    robot_id = f"{trial.start}/{trial.goal}/{trial.seed}"
    seed = trial.seed if config.sample else None
    goal = robot.simulated.goal(trial.elements, trial.seed)
    done: list[frozenset[str]] = []

    def keep(step: Step) -> None:
        done.append(step.done)
        on_step(step)

    try:
        asked = RunConfig(goal, config.steps or 0, robot_id, seed, trial.seed, config.plan_lead)
        run(robot, control, asked, keep, estimator)
    except WorldFault:
        raise
    except InvalidInput as error:
        # A policy may drive the world into a state outside its own range; the episode ends there.
        if not done:
            raise
        control.finish(robot_id)
        return Played(done, str(error))
    return Played(done, None)


def plan_trials(task: Task, config: EvaluateConfig) -> list[Trial]:
    """The episodes of a task's evaluation, in the order of its report.

    Raises:
        InvalidGoal: a goal is unknown.
        InvalidInput: another setting is out of range.
    """
    config = config.of(task)
    if not set(config.starts) <= set(task.starts):
        wrong = next(name for name in config.starts if name not in task.starts)
        raise InvalidInput(
            f"no start is called {wrong!r}{hint(wrong, task.starts)}; must be one of {', '.join(task.starts)}"
        )
    ranges = {"episodes": (1, MAX_EPISODES), "steps": (1, 1_000_000), "jobs": (1, 1000), "seed": (0, 2**31)}
    for name, (lowest, highest) in ranges.items():
        if not lowest <= (value := getattr(config, name)) <= highest:
            raise InvalidInput(f"{name} is {value}; must be {lowest} to {highest}")
    goals = dict(goal for named in config.goals for goal in task.parse_goals(named))
    return [
        Trial(start, name, elements, task.episode_seed(config.seed, elements, episode))
        for start in config.starts
        for name, elements in goals.items()
        for episode in range(config.episodes)
    ]


def _run_all(
    client: Client,
    task: Task,
    trials: list[Trial],
    config: EvaluateConfig,
    estimator: Callable[[], Estimator | None],
    finished: Callable[[Episode], None],
) -> None:
    """Run trials on simulators in parallel, each with its own stream; calls of `finished` do not overlap."""
    turn = threading.Lock()

    def work(waiting: Iterator[Trial]) -> None:
        own = estimator()
        with closing(DegradedRobot(SimulatedRobot(task), config.robot)) as robot, client.control() as control:
            for trial in waiting:
                played = play(robot, control, trial, config, estimator=own)
                episode = episode_of(trial, played, task, robot.simulated.world, robot.limit_violations)
                with turn:
                    finished(episode)

    share_out(trials, config.jobs, work)


def _run_apart(
    apart: Apart, task: Task, trials: list[Trial], config: EvaluateConfig, finished: Callable[[Episode], None]
) -> None:
    """Run the trials of each goal from each start as a job with a server and a simulator of its own."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(f"{trial.goal} from {trial.start}", []).append(trial)
    work = [Job(name, _played_there, (apart, task.reference, group, config)) for name, group in groups.items()]

    def on_job(job: Job, episodes: list[Episode]) -> None:
        for episode in episodes:
            finished(episode)

    run_jobs(work, apart.executor, config.jobs, on_job)


def _played_there(apart: Apart, task_name: str, trials: list[Trial], config: EvaluateConfig) -> list[Episode]:
    task, episodes = load_task(task_name), list[Episode]()
    with serve_in_process(apart.bundle, apart.providers) as address, Client(address, access=Access()) as client:
        estimator = estimators(task, client, client.describe(), config.calibration)
        _run_all(client, task, trials, replace(config, jobs=1), estimator, episodes.append)
    return episodes


def episode_of(
    trial: Trial,
    played: Played,
    task: Task,
    world: World,
    limit_violations: Mapping[str, int] = MappingProxyType({}),
) -> Episode:
    """The outcome of an episode that ended in the world's present state; violations are counted by limit."""
    done = played.done
    first_done = {name: next((n for n, d in enumerate(done, start=1) if name in d), None) for name in trial.elements}
    return Episode(
        start=trial.start,
        goal=trial.goal,
        elements=trial.elements,
        seed=trial.seed,
        steps=len(done),
        refused=played.refused,
        first_done={name: number for name, number in first_done.items() if number is not None},
        done_at_end=tuple(element for element in trial.elements if element in done[-1]),
        final_distance={element: task.distance(element, world) for element in trial.elements},
        limit_violations=dict(limit_violations),
    )


def _trial(episode: Episode) -> Trial:
    return Trial(episode.start, episode.goal, episode.elements, episode.seed)


def content_of(
    policy: str,
    digest: str,
    task: Task,
    config: EvaluateConfig,
    episodes: list[Episode],
    calibration: Calibration | None = None,
) -> JsonDict:
    """The content of evaluation.json: the results, and everything needed to reproduce them."""
    config, seeds = config.of(task), [episode.seed for episode in episodes]
    return {
        "bundle_digest": digest,
        "protocol": {
            "policy": policy,
            "task": task.name,
            "environment": task.environment,
            "goals_given_as": "element names" if task.spec.elements else "whole states",
            "goals": list(dict.fromkeys(episode.goal for episode in episodes)),
            "episodes": config.episodes,
            "steps": config.steps,
            "period_s": task.spec.period_s,
            "done_distance": {name: element.tolerance for name, element in task.spec.elements.items()},
            "start_noise": {start: _described(task.starts[start]) for start in config.starts},
            "sampled": config.sample,
            "robot": asdict(config.robot),
            "plan_lead": config.plan_lead,
            "estimator": None if calibration is None else calibration.model_dump(mode="json"),
            "intervals": "95 %, percentile bootstrap over goals",
        },
        "starts": {start: summarize([e for e in episodes if e.start == start], task) for start in config.starts},
        "seeds": {
            "first": min(seeds),
            "last": max(seeds),
            "rule": f"{config.seed} + {MAX_EPISODES} x the goal's elements as bits + the episode's number",
        },
        "command": command(),
        "commit": commit(),
        "versions": versions(["relay-policy", *task.packages, *_PACKAGES]),
    }


def _described(start: object) -> object:
    """A start as JSON."""
    if is_dataclass(start) and not isinstance(start, type):
        return asdict(start)
    return start if isinstance(start, (int, float, str, bool, NoneType, list, dict)) else str(start)
