"""Evaluation of a served policy in the kitchen, by the protocol behind every figure of this project.

The protocol: FrankaKitchen-v1 at its default noise, 280 control steps, a compound goal given as element names, a
nominal or perturbed start; optionally a robot between simulator and policy that keeps limits and sees badly. Every
action comes through gRPC, as on a robot. These settings and the seed determine an episode, so the results do not
depend on the number of simulators that run in parallel.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rpl_runtime.client import Access, Client, Control
from rpl_runtime.client.on_robot import cached_bundle
from rpl_runtime.errors import InvalidGoal, InvalidInput
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.episodes import open_journal
from rpl_runtime.evaluation.results import GROUPS, Episode, summarize
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.calibrate import calibrate
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.simulated import KitchenRobot
from rpl_runtime.tasks.kitchen.body import KITCHEN_BODY
from rpl_runtime.tasks.kitchen.elements import (
    DONE_DISTANCE,
    ELEMENTS,
    EPISODE_STEPS,
    PERIOD,
    STATE_NAMES,
    compound_goal,
)
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, PERTURBED

STARTS = {"nominal": NOMINAL, "perturbed": PERTURBED}
FIRST_SEED = 1_000_000  # training and the choice of a checkpoint use smaller seeds
MAX_EPISODES = 1000  # of a goal: its share of the seeds
_INITIALS = {name[0]: name for name in ELEMENTS}
_GROUPS = (
    GROUPS
    | {"all35": tuple(goal for goals in GROUPS.values() for goal in goals)}
    | {f"sets{size}": tuple(map("".join, combinations(_INITIALS, size))) for size in range(1, len(ELEMENTS) + 1)}
)
_NAMES = {frozenset(compound_goal(letters)): letters for letters in _GROUPS["all35"]}
_PACKAGES = ("relay-policy", "gymnasium-robotics", "mujoco", "numpy", "onnxruntime", "grpcio")


@dataclass(frozen=True)
class EvaluateConfig:
    """The episodes to run.

    Each goal is a group ("paper", "human", "unseen", "all35", or "sets3" for all sets of three), initials ("mkbs") or
    element names separated by commas.
    """

    goals: tuple[str, ...] = ("paper",)
    episodes: int = 20  # of each goal from each start
    starts: tuple[str, ...] = ("nominal", "perturbed")
    steps: int = EPISODE_STEPS  # [control steps] of an episode
    seed: int = FIRST_SEED  # of the first episode
    sample: bool = False  # sample subgoals and actions with the episode's seed instead of taking the modes
    robot: Conditions = field(default_factory=Conditions)
    estimate: bool = True  # put the state estimator between the robot and the policy
    calibration: Calibration | None = None  # of the estimator; None: measured on the robot before the first episode
    plan_lead: int = 0  # [control steps] from the request of a plan to its effect
    jobs: int = 2  # simulators in parallel


class Task(NamedTuple):
    """One episode to run."""

    start: str
    goal: str
    elements: tuple[str, ...]
    seed: int


class Played(NamedTuple):
    """The course of an episode."""

    done: list[frozenset[str]]  # the elements at their goal after each control step
    refused: str | None  # why the policy refused a state, if the episode ended early


class Evaluation(NamedTuple):
    """Episodes and their results."""

    episodes: list[Episode]
    content: JsonDict  # of evaluation.json


def evaluate(
    address: str,
    config: EvaluateConfig,
    journal: Path | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    access: Access | None = None,
) -> Evaluation:
    """Run the episodes on the server at `address`; `on_episode` is called with each finished episode.

    Finished episodes are kept in the file `journal`, from which an interrupted evaluation continues.
    `access` is how the server is reached; None reads it from the environment.

    Raises:
        InvalidGoal: a goal is unknown.
        InvalidInput: another setting is out of range, or the journal belongs to another evaluation.
        ServerUnavailable: no server answers at the address, or it stopped answering.
        MissingExtra: the `sim` extra is not installed.
    """
    tasks = plan_tasks(config)
    with Client(address, access=access) as client:
        model = client.describe()
        if model.spec.state.names != STATE_NAMES:
            raise InvalidInput(
                f"the policy {model.spec.name} at {address} has a state of {model.spec.state.dim} dimensions that is "
                "not the kitchen's; it must be a policy for the kitchen"
            )
        calibration = calibration_of(config, model.spec)
        estimator = estimators(client, model, calibration)
        conditions = {
            "bundle_digest": model.digest,
            "steps": config.steps,
            "sampled": config.sample,
            "robot": asdict(config.robot),
            "plan_lead": config.plan_lead,
            "estimator": None if calibration is None else calibration.model_dump(mode="json"),
        }
        with open_journal(journal, conditions, Episode) as kept:
            done = {_task(episode): episode for episode in kept.episodes}
            for task in tasks:
                if task in done:
                    on_episode(done[task])

            def finished(episode: Episode) -> None:
                kept.append(episode)
                on_episode(episode)
                done[_task(episode)] = episode

            _run_all(client, [task for task in tasks if task not in done], config, estimator, finished)
    episodes = [done[task] for task in tasks]
    return Evaluation(episodes, content_of(model.spec.name, model.digest, config, episodes, calibration))


def calibration_of(config: EvaluateConfig, spec: PolicySpec) -> Calibration | None:
    """The calibration of the robot's senses: as given, or measured on it; None if no estimator is used.

    Raises:
        InvalidInput: the given calibration is of another state.
    """
    if not config.estimate or (config.calibration is None and config.robot.exact):
        return None
    if config.calibration is not None:
        return config.calibration.checked(spec.state.names)
    with closing(DegradedRobot(KitchenRobot(), config.robot)) as robot:
        return calibrate(robot, KITCHEN_BODY, spec)


def estimators(client: Client, model: ModelInfo, calibration: Calibration | None) -> Callable[[], Estimator | None]:
    """Makes an estimator for each robot; None without a calibration.

    Raises:
        PermissionDenied: the bundle, whose statistics it needs, cannot be fetched.
    """
    if calibration is None:
        return lambda: None
    statistics = cached_bundle(client, model.digest).manifest.statistics
    return lambda: Estimator(KITCHEN_BODY, calibration, statistics, model.spec.period_s)


def play(
    robot: DegradedRobot,
    control: Control,
    task: Task,
    config: EvaluateConfig,
    on_step: Callable[[Step], None] = lambda step: None,
    estimator: Estimator | None = None,
) -> Played:
    """Run the episode of a task.

    Raises:
        RelayError: the server refuses the run, or stopped answering.
    """
    robot.kitchen.start_noise = STARTS[task.start]
    # The id keys the sampling noise, so an episode's noise does not depend on what runs beside it.
    robot_id = f"{task.start}/{task.goal}/{task.seed}"
    seed = task.seed if config.sample else None
    done: list[frozenset[str]] = []

    def keep(step: Step) -> None:
        done.append(step.done)
        on_step(step)

    try:
        asked = RunConfig(task.elements, config.steps, robot_id, seed, task.seed, config.plan_lead)
        run(robot, control, asked, keep, estimator)
    except InvalidInput as error:
        # A policy may drive the kitchen into a state outside its own range; the episode ends there.
        if not done:
            raise
        control.finish(robot_id)
        return Played(done, str(error))
    return Played(done, None)


def plan_tasks(config: EvaluateConfig) -> list[Task]:
    """The episodes of an evaluation, in the order of its report.

    Raises:
        InvalidGoal: a goal is unknown.
        InvalidInput: another setting is out of range.
    """
    if not config.goals or not config.starts or not set(config.starts) <= set(STARTS):
        raise InvalidInput(
            f"the goals are {config.goals} and the starts {config.starts}; there must be at least one of each, and a "
            f"start must be one of {', '.join(STARTS)}"
        )
    ranges = {"episodes": (1, MAX_EPISODES), "steps": (1, 1_000_000), "jobs": (1, 1000), "seed": (0, 2**31)}
    for name, (lowest, highest) in ranges.items():
        if not lowest <= (value := getattr(config, name)) <= highest:
            raise InvalidInput(f"{name} is {value}; must be {lowest} to {highest}")
    goals = dict(goal for named in config.goals for goal in parse_goals(named))
    return [
        Task(start, name, elements, episode_seed(config.seed, elements, episode))
        for start in config.starts
        for name, elements in goals.items()
        for episode in range(config.episodes)
    ]


def parse_goals(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The (name, elements) of the goals of a group, or of the goal given as initials or as names with commas.

    Raises:
        InvalidGoal: the text is none of these.
    """
    if text in _GROUPS:
        return [goal for letters in _GROUPS[text] for goal in parse_goals(letters)]
    names = [name.strip() for name in text.split(",")]
    if set(names) <= set(ELEMENTS):
        elements = tuple(names)
    elif len(names) == 1 and text and set(text) <= set(_INITIALS):
        elements = compound_goal(text)
    else:
        raise InvalidGoal(
            f"{text!r} is not a goal; must be one of the groups {', '.join(_GROUPS)}, initials such as mkbs, "
            f"or elements separated by commas: {', '.join(ELEMENTS)}"
        )
    if len(set(elements)) != len(elements):
        raise InvalidGoal(f"the goal {text!r} names an element twice; each must be named once")
    # Each set has one name and one order of its elements, however it was written.
    name = _NAMES.get(frozenset(elements)) or "".join(name[0] for name in ELEMENTS if name in elements)
    return [(name, compound_goal(name))]


def episode_seed(first: int, elements: Sequence[str], episode: int) -> int:
    """The seed of an episode: every set of elements has a thousand seeds of its own, from `first` on."""
    number = sum(1 << index for index, name in enumerate(ELEMENTS) if name in elements)
    return first + MAX_EPISODES * number + episode


def _run_all(
    client: Client,
    tasks: list[Task],
    config: EvaluateConfig,
    estimator: Callable[[], Estimator | None],
    finished: Callable[[Episode], None],
) -> None:
    """Run tasks on simulators in parallel, each with its own stream; calls of `finished` do not overlap."""
    waiting, turn = deque(tasks), threading.Lock()

    def work(robot: DegradedRobot) -> None:
        own = estimator()
        with client.control() as control:
            while waiting:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return  # another simulator was faster
                played = play(robot, control, task, config, estimator=own)
                episode = episode_of(task, played, robot.kitchen.simulator.qpos, robot.limit_violations)
                with turn:
                    finished(episode)

    with ExitStack() as stack:
        robots = [
            stack.enter_context(closing(DegradedRobot(KitchenRobot(), config.robot)))
            for _ in range(min(config.jobs, len(tasks)))
        ]
        pool = stack.enter_context(ThreadPoolExecutor(config.jobs))
        workers = [pool.submit(work, robot) for robot in robots]
        try:
            for worker in as_completed(workers):
                worker.result()
        finally:
            waiting.clear()  # if one failed, the others end after their current episode


def episode_of(
    task: Task, played: Played, qpos: np.ndarray, limit_violations: Mapping[str, int] = MappingProxyType({})
) -> Episode:
    """The outcome of an episode that ended in the configuration qpos (30,); violations are counted by limit."""
    done = played.done
    first_done = {name: next((n for n, d in enumerate(done, start=1) if name in d), None) for name in task.elements}
    return Episode(
        start=task.start,
        goal=task.goal,
        elements=task.elements,
        seed=task.seed,
        steps=len(done),
        refused=played.refused,
        first_done={name: number for name, number in first_done.items() if number is not None},
        done_at_end=tuple(element for element in task.elements if element in done[-1]),
        final_distance={element: ELEMENTS[element].distance(qpos) for element in task.elements},
        limit_violations=dict(limit_violations),
    )


def _task(episode: Episode) -> Task:
    return Task(episode.start, episode.goal, episode.elements, episode.seed)


def content_of(
    policy: str, digest: str, config: EvaluateConfig, episodes: list[Episode], calibration: Calibration | None = None
) -> JsonDict:
    """The content of evaluation.json: the results, and everything needed to reproduce them."""
    seeds = [episode.seed for episode in episodes]
    return {
        "bundle_digest": digest,
        "protocol": {
            "policy": policy,
            "environment": "FrankaKitchen-v1",
            "goals_given_as": "element names",
            "goals": list(dict.fromkeys(episode.goal for episode in episodes)),
            "episodes": config.episodes,
            "steps": config.steps,
            "period_s": PERIOD,
            "done_distance": DONE_DISTANCE,
            "start_noise": {start: asdict(STARTS[start]) for start in config.starts},
            "sampled": config.sample,
            "robot": asdict(config.robot),
            "plan_lead": config.plan_lead,
            "estimator": None if calibration is None else calibration.model_dump(mode="json"),
            "intervals": "95 %, percentile bootstrap over goals",
        },
        "starts": {start: summarize([e for e in episodes if e.start == start]) for start in config.starts},
        "seeds": {
            "first": min(seeds),
            "last": max(seeds),
            "rule": f"{config.seed} + {MAX_EPISODES} x the goal's elements as bits + the episode's number",
        },
        "command": command(),
        "commit": commit(),
        "versions": versions(_PACKAGES),
    }
