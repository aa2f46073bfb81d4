"""Evaluation: what a served policy does in the kitchen, by the protocol that every figure of this project follows.

In: the address of a server, and which goals, starts and seeds. Out: an `Evaluation`, whose content goes into
evaluation.json. Every action comes through gRPC, as a robot would get it; it does not know the policy's files.

The protocol: FrankaKitchen-v1 at its default noise, 280 steps, a compound goal given as element names, the start
nominal or perturbed; where asked for, a robot between the simulator and the policy that keeps limits and sees badly.
An episode is fixed by these and its seed alone, so the results are the same whatever the number of simulators that run
side by side.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rpl_runtime.client.client import Client, Control
from rpl_runtime.errors import InvalidGoal, InvalidInput
from rpl_runtime.evaluation.episodes import Journal, open_journal
from rpl_runtime.evaluation.results import GROUPS, Episode, summarize
from rpl_runtime.loop.lockstep import run
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.degraded import Conditions, ImpairedRobot
from rpl_runtime.robots.simulated import KitchenRobot
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
# Training, and the choice of a checkpoint, take their seeds below this one.
FIRST_SEED = 1_000_000
MAX_EPISODES = 1000  # of a goal: its share of the seeds
_INITIALS = {name[0]: name for name in ELEMENTS}
_GROUPS = (
    GROUPS
    | {"all35": tuple(goal for goals in GROUPS.values() for goal in goals)}
    | {f"sets{size}": tuple(map("".join, combinations(_INITIALS, size))) for size in range(1, len(ELEMENTS) + 1)}
)
_NAMES = {frozenset(compound_goal(letters)): letters for letters in _GROUPS["all35"]}
_NO_JOURNAL = Journal([], lambda episode: None)
_PACKAGES = ("relay-policy", "gymnasium-robotics", "mujoco", "numpy", "onnxruntime", "grpcio")


@dataclass(frozen=True)
class EvaluateConfig:
    """Which episodes to run.

    Each goal is a group ("paper", "human", "unseen", "all35", or "sets3" for all sets of three), letters ("mkbs") or
    element names with commas.
    """

    goals: tuple[str, ...] = ("paper",)
    episodes: int = 20  # of each goal from each start
    starts: tuple[str, ...] = ("nominal", "perturbed")
    steps: int = EPISODE_STEPS
    seed: int = FIRST_SEED  # of the first episode
    sample: bool = False  # sample subgoals and actions, seeded like the episode, instead of taking the mode
    robot: Conditions = field(default_factory=Conditions)  # what the robot does to the policy
    plan_lead: int = 0  # [steps] before it takes effect that a plan is asked for
    jobs: int = 2  # simulators side by side


class Task(NamedTuple):
    """One episode to run."""

    start: str
    goal: str
    elements: tuple[str, ...]
    seed: int


class Played(NamedTuple):
    """How an episode went."""

    done: list[frozenset[str]]  # the elements at their goal after each step
    refused: str | None  # why the server took no more states, where it ended early


class Evaluation(NamedTuple):
    """What was measured."""

    episodes: list[Episode]
    content: dict[str, Any]  # of evaluation.json


def evaluate(
    address: str,
    config: EvaluateConfig,
    journal: Path | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
) -> Evaluation:
    """Run the episodes on the server at `address`; `on_episode` hears of each one as it is finished.

    Finished episodes are kept in the file `journal`, so that an evaluation that was cut short goes on there.

    Raises:
        InvalidGoal: a goal is unknown.
        InvalidInput: another setting is out of range, or the journal belongs to another evaluation.
        ServerUnavailable: nobody answers at the address, or not any more.
        MissingExtra: the `sim` extra is not installed.
    """
    tasks = plan_tasks(config)
    with Client(address) as client:
        model = client.describe()
        if model.spec.state.names != STATE_NAMES:
            raise InvalidInput(f"{model.spec.name} at {address} is no policy for the kitchen; its state is another one")
        conditions = {
            "bundle_digest": model.digest,
            "steps": config.steps,
            "sampled": config.sample,
            "robot": asdict(config.robot),
            "plan_lead": config.plan_lead,
        }
        with open_journal(journal, conditions) if journal else nullcontext(_NO_JOURNAL) as kept:
            done = {_task(episode): episode for episode in kept.episodes}
            for task in tasks:
                if task in done:
                    on_episode(done[task])

            def finished(episode: Episode) -> None:
                kept.append(episode)
                on_episode(episode)
                done[_task(episode)] = episode

            _run_all(client, [task for task in tasks if task not in done], config, finished)
    episodes = [done[task] for task in tasks]
    return Evaluation(episodes, content_of(model.spec.name, model.digest, config, episodes))


def play(
    robot: ImpairedRobot,
    control: Control,
    task: Task,
    config: EvaluateConfig,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Played:
    """Run the episode of a task.

    Raises:
        RelayError: the server refused to begin, or is gone.
    """
    robot.kitchen.start_noise = STARTS[task.start]
    # The id keys the sampling noise: an episode has its own, whatever runs beside it.
    robot_id = f"{task.start}/{task.goal}/{task.seed}"
    seed = task.seed if config.sample else None
    done: list[frozenset[str]] = []

    def keep(step: Step) -> None:
        done.append(step.done)
        on_step(step)

    try:
        run(robot, control, RunConfig(task.elements, config.steps, robot_id, seed, task.seed, config.plan_lead), keep)
    except InvalidInput as error:
        # A policy may drive the kitchen into a state that it does not accept itself: its episode ends there.
        if not done:
            raise
        control.finish(robot_id)
        return Played(done, str(error))
    return Played(done, None)


def plan_tasks(config: EvaluateConfig) -> list[Task]:
    """The episodes that an evaluation runs, in the order in which they are reported.

    Raises:
        InvalidGoal: a goal is unknown.
        InvalidInput: another setting is out of range.
    """
    _check(config)
    goals = dict(goal for named in config.goals for goal in parse_goals(named))
    return [
        Task(start, name, elements, episode_seed(config.seed, elements, episode))
        for start in config.starts
        for name, elements in goals.items()
        for episode in range(config.episodes)
    ]


def parse_goals(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The (name, elements) of the goals that a group, letters, or element names with commas between them stand for.

    Raises:
        InvalidGoal: it is none of these.
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
            f"{text!r} is no goal; must be one of the groups {', '.join(_GROUPS)}, letters such as mkbs, "
            f"or elements with commas between them: {', '.join(ELEMENTS)}"
        )
    if len(set(elements)) != len(elements):
        raise InvalidGoal(f"the goal {text!r} names an element twice; each may be named once")
    # One name and one order for each set, however it was written.
    name = _NAMES.get(frozenset(elements)) or "".join(name[0] for name in ELEMENTS if name in elements)
    return [(name, compound_goal(name))]


def episode_seed(first: int, elements: Sequence[str], episode: int) -> int:
    """The seed of an episode: every set of elements has a thousand of its own, from `first` on."""
    number = sum(1 << index for index, name in enumerate(ELEMENTS) if name in elements)
    return first + MAX_EPISODES * number + episode


def _run_all(client: Client, tasks: list[Task], config: EvaluateConfig, finished: Callable[[Episode], None]) -> None:
    """Run tasks on simulators side by side, each with a stream of its own; `finished` is called by one at a time."""
    waiting, turn = deque(tasks), threading.Lock()

    def work(robot: ImpairedRobot) -> None:
        with client.control() as control:
            while waiting:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return  # another simulator was faster
                episode = _run_one(robot, control, task, config)
                with turn:
                    finished(episode)

    with ExitStack() as stack:
        robots = [
            stack.enter_context(closing(ImpairedRobot(KitchenRobot(), config.robot)))
            for _ in range(min(config.jobs, len(tasks)))
        ]
        pool = stack.enter_context(ThreadPoolExecutor(config.jobs))
        workers = [pool.submit(work, robot) for robot in robots]
        try:
            for worker in as_completed(workers):
                worker.result()
        finally:
            waiting.clear()  # where one failed, the others end with the episode they are in


def _run_one(robot: ImpairedRobot, control: Control, task: Task, config: EvaluateConfig) -> Episode:
    played = play(robot, control, task, config)
    return episode_of(task, played, robot.kitchen.simulator.qpos, robot.limit_violations)


def episode_of(
    task: Task, played: Played, qpos: np.ndarray, limit_violations: Mapping[str, int] = MappingProxyType({})
) -> Episode:
    """What an episode came to that ended in the configuration qpos (30,); limit_violations are counted by the limit."""
    done = played.done
    first_done = {name: next((n for n, d in enumerate(done, start=1) if name in d), None) for name in task.elements}
    return Episode(
        start=task.start,
        goal=task.goal,
        elements=task.elements,
        seed=task.seed,
        steps=len(done),
        refused=played.refused,
        first_done={name: steps for name, steps in first_done.items() if steps is not None},
        done_at_end=tuple(element for element in task.elements if element in done[-1]),
        final_distance={element: ELEMENTS[element].distance(qpos) for element in task.elements},
        limit_violations=dict(limit_violations),
    )


def _task(episode: Episode) -> Task:
    return Task(episode.start, episode.goal, episode.elements, episode.seed)


def _check(config: EvaluateConfig) -> None:
    unknown = [start for start in config.starts if start not in STARTS]
    if unknown or not config.starts or not config.goals:
        raise InvalidInput(f"unknown start {', '.join(unknown) or 'none'}; must be one of {', '.join(STARTS)}")
    limits = (
        ("episodes", config.episodes, 1, MAX_EPISODES),
        ("steps", config.steps, 1, 1_000_000),
        ("jobs", config.jobs, 1, 1000),
        ("seed", config.seed, 0, 2**31),
    )
    for name, value, lowest, highest in limits:
        if not lowest <= value <= highest:
            raise InvalidInput(f"{name} is {value}; must be {lowest} to {highest}")


def content_of(policy: str, digest: str, config: EvaluateConfig, episodes: list[Episode]) -> dict[str, Any]:
    """What evaluation.json holds: the results, and all it takes to have them again."""
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
