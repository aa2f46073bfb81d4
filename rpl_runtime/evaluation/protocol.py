"""The hard protocol: what a robot meets and the standard protocol leaves out, condition by condition.

A task's hazards (tasks/hazards.py) say what can happen to its world, and name the conditions: starts far away, jolts,
pushes, elements put back, goals that change, goals as whole states, tasks one after another, a real robot's senses. An
episode is a success if all named elements are done together at its last step. As in the standard protocol, every
action comes over a `Control`, the physics is the environment's own, and settings and seed determine an episode.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput, WorldFault
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.episodes import open_journal
from rpl_runtime.evaluation.evaluate import FIRST_SEED
from rpl_runtime.evaluation.simulators import share_out
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.spec import ElementSpec
from rpl_runtime.relay.messages import Goal
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.hazards import Disturbance, Hazards
from rpl_runtime.tasks.task import Task, World

_SHIFT_GOAL = 3  # elements at most
_STREAM = 3  # of a seed's random numbers
_DISTURBED = 0.7  # share of a shift's goal in which its disturbance may begin


@dataclass(frozen=True)
class Hardship:
    """One condition of the protocol; by default the standard one, from the task's last start.

    Raises:
        InvalidInput: parts that exclude each other are combined, or a number is out of range.
    """

    goals: tuple[str, ...] = ()  # as `rpl evaluate` takes them, in turn; none: the task's first group
    steps: int | None = None  # [control steps], of each goal where there are two; None: an episode of the task
    start: object = None  # as one of the task's; None: its last
    jolt: float = 0.0  # [rad] largest displacement of each joint
    jolt_at: tuple[int, ...] = (40, 110)  # [control steps]
    push: float = 0.0  # [m] by which an object slides; 0: it is not pushed
    push_at: tuple[int, ...] = (40,)  # [control steps]
    put_back: int | None = None  # [control steps] from the first element's being done until it is put back
    swap_at: int | None = None  # [control step] at which the goal becomes three elements that it did not name
    second: bool = False  # after the steps, a goal of the elements that are open, for as many steps again
    undo: bool = False  # the goal's elements are done at the start, and the goal is a whole state in which they are not
    whole: bool = False  # the goal is given as a whole state
    goal_state: tuple[float, ...] | None = None  # that state; None: the start with the goal's elements done
    start_from: tuple[tuple[float, ...], ...] = ()  # whole states to start in, in turn
    shift: int = 0  # goals one after another without a reset, each with a jolt, a push or, if asked for, a put-back
    robot: Conditions = field(default_factory=Conditions)

    def __post_init__(self) -> None:
        endings = {
            "a swapped goal": self.swap_at is not None,
            "a second goal": self.second,
            "an undo": self.undo,
            "a whole goal": self.whole,
            "a shift": self.shift > 0,
        }
        given = [name for name, there in endings.items() if there]
        if len(given) > 1:
            raise InvalidInput(f"{' and '.join(given)} are combined; must be at most one of them")
        for name, value, highest in (("jolt", self.jolt, 1.0), ("push", self.push, 1.0), ("shift", self.shift, 1000)):
            if not 0 <= value <= highest:
                raise InvalidInput(f"{name} is {value}; must be 0 to {highest:g}")
        if self.steps is not None and not 1 <= self.steps <= 1_000_000:
            raise InvalidInput(f"steps is {self.steps}; must be 1 to 1000000")

    def of(self, task: Task) -> "Hardship":
        """The same with what is left to a task filled in."""
        given = {"goals": self.goals, "steps": self.steps, "start": self.start}
        own = {
            "goals": (next(iter(task.groups)),),
            "steps": task.episode_steps,
            "start": list(task.starts.values())[-1],
        }
        return replace(self, **own | {name: value for name, value in given.items() if value not in (None, ())})


def hazards_of(task: Task) -> Hazards[Any]:
    """What can happen to a task's world.

    Raises:
        InvalidInput: the task does not say it.
    """
    if task.hazards is None:
        raise InvalidInput(f"{task.name} has no hard protocol; its Task must say its hazards")
    return task.hazards


def conditions_of(task: Task) -> dict[str, Hardship]:
    """The conditions of a task's hard protocol, by name.

    Raises:
        InvalidInput: it has none.
    """
    given = hazards_of(task).conditions
    return {
        name: Hardship(**{**values, "robot": Conditions(**values.get("robot", {}))}).of(task)
        for name, values in given.items()
    }


@dataclass(frozen=True)
class ProtocolConfig:
    """How much of the protocol to run."""

    episodes: int = 17  # of each condition
    seed: int = FIRST_SEED
    jobs: int = 2  # simulators in parallel


class Moment(NamedTuple):
    """A control step of an episode, and what the episode is about then."""

    step: Step
    truth: np.ndarray  # (n,) the state of the world after it, without noise
    named: tuple[str, ...]  # the elements of the present goal
    done: frozenset[str]  # those of them that are where it asks for them
    undone: bool  # it asks for them where they were at the start
    happens: tuple[str, ...]  # names of the disturbances that act


class Outcome(BaseModel):
    """One episode of a condition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: str
    number: int  # of the episode in its condition
    goal: str
    seed: int
    steps: int  # [control steps] made
    refused: str | None  # why the policy refused a state, if the episode ended early
    goals: tuple[
        tuple[tuple[str, ...], tuple[str, ...]], ...
    ]  # of each goal, the elements named, and those of them done
    redrawn: dict[str, int]  # why a disturbance was drawn again -> how often
    fell: bool = False  # whether an object is out of reach

    @property
    def reached(self) -> int:
        """The number of goals of which all elements were done at the end."""
        return sum(set(named) == set(done) for named, done in self.goals)


def run_protocol(
    task: Task,
    open_control: Callable[[], Control],
    estimator: Callable[[Conditions], Callable[[], Estimator | None]],
    hardships: Mapping[str, Hardship],
    config: ProtocolConfig,
    identity: JsonDict,
    journal: Path | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_moment: Callable[[Moment], None] | None = None,
) -> list[Outcome]:
    """Run a task's episodes of some conditions.

    Args:
        open_control: opens the control of a policy, one for each simulator.
        estimator: makes the estimators of a robot with some faults.
        identity: tells this policy and these settings from others; a journal of others is refused.
        journal: a file with the finished episodes, from which an interrupted run continues.
        on_outcome: called with each finished episode.
        on_moment: called with each control step.

    Raises:
        InvalidGoal: a goal is unknown, or the world cannot stay at it.
        InvalidInput: another setting is out of range, the task has no hard protocol, or the journal belongs to another
            run.
        ServerUnavailable: the server stopped answering.
    """
    for name, value, highest in (("episodes", config.episodes, 1000), ("jobs", config.jobs, 1000)):
        if not 1 <= value <= highest:
            raise InvalidInput(f"{name} is {value}; must be 1 to {highest}")
    hazards_of(task)
    hardships = {name: hardship.of(task) for name, hardship in hardships.items()}
    wanted = [(name, number) for name in hardships for number in range(config.episodes)]
    conditions = identity | {"seed": config.seed, "hardships": {name: asdict(each) for name, each in hardships.items()}}
    with open_journal(journal, json.loads(json.dumps(conditions)), Outcome) as kept:
        done = {(outcome.condition, outcome.number): outcome for outcome in kept.episodes}
        for key in wanted:
            if key in done:
                on_outcome(done[key])
        made = {robot: estimator(robot) for robot in {hardship.robot for hardship in hardships.values()}}
        turn = threading.Lock()

        def work(waiting: Iterator[tuple[str, int]]) -> None:
            # The control last: a stream that is silent for long is closed.
            with closing(SimulatedRobot(task)) as robot, open_control() as control:
                for name, number in waiting:
                    hardship = hardships[name]
                    episode = _Episode(task, robot, name, hardship, number, config.seed)
                    outcome = episode.play(control, made[hardship.robot](), on_moment)
                    with turn:
                        kept.append(outcome)
                        done[name, number] = outcome
                        on_outcome(outcome)

        share_out([key for key in wanted if key not in done], config.jobs, work)
    return [done[key] for key in wanted]


class _Change(NamedTuple):
    """A new goal, and how its elements are judged."""

    goal: Goal
    named: tuple[str, ...]
    undone: bool = False  # the elements must be back at the start instead of at their goal


class _Episode:
    """One episode of a condition: its start, its goals one after another, its disturbances."""

    def __init__(
        self, task: Task, robot: SimulatedRobot, name: str, hardship: Hardship, number: int, seed: int
    ) -> None:
        goals = [goal for text in hardship.goals for goal in task.parse_goals(text)]
        self._goal, elements = goals[number % len(goals)]
        self._task, hazards = task, hazards_of(task)
        self._name, self._number, self._hardship = name, number, hardship
        self._seed = task.episode_seed(seed, elements, number // len(goals))
        self._rng = np.random.default_rng((self._seed, _STREAM))
        self._robot, self._world = robot, robot.world
        self._disturbances: list[Disturbance] = []
        self._judged: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self._steps = 0
        self._refused: str | None = None
        self._hazards = hazards
        robot.task, robot.start = replace(task, starts={"hard": hardship.start}), "hard"
        robot.start_from = None
        if hardship.start_from:
            robot.start_from = np.array(hardship.start_from[number % len(hardship.start_from)])
        robot.reset(self._seed)
        self._start = self._world.truth  # (n,) what an undo goes back to
        if hardship.undo:
            robot.start_from = hazards.with_elements(self._start, elements, None)
        self._now = _Change(elements, elements)
        if hardship.undo:
            self._now = _Change(self._start.astype(np.float32), elements, undone=True)
        elif hardship.goal_state is not None or hardship.whole:
            goal = hazards.with_elements(self._start, elements, None)
            if hardship.goal_state is not None:
                goal = np.array(hardship.goal_state)
                elements = tuple(name for name, element in self._elements.items() if element.is_done(goal))
            self._now = _Change(hazards.check_reachable(self._world, goal).astype(np.float32), elements)
        elif hardship.shift:
            self._now = self._next_goal(frozenset())
        robot.reset(self._seed)
        self._disturb(0, elements)
        self._ends = self._duration(self._now)  # [control step] of the present goal's last step + 1
        self._left = hardship.shift - 1 if hardship.shift else int(hardship.second)

    @property
    def _elements(self) -> Mapping[str, ElementSpec]:
        return self._task.spec.elements

    def _disturb(self, begin: int, elements: tuple[str, ...]) -> None:
        hardship, hazards, world = self._hardship, self._hazards, self._world
        if hardship.shift:
            at = begin + int(self._rng.integers(round(_DISTURBED * self._duration(self._now))))
            if hardship.put_back is not None and not self._now.undone and self._rng.random() < 1 / 3:
                self._disturbances.append(hazards.put_back(world, hardship.put_back, elements))
                return
            jolted = self._rng.random() < 0.5
            kind, size = (hazards.jolt, hardship.jolt or 0.2) if jolted else (hazards.push, hardship.push or 0.04)
            self._disturbances.append(kind(world, size, (at,), self._rng))
            return
        if hardship.jolt:
            self._disturbances.append(hazards.jolt(world, hardship.jolt, hardship.jolt_at, self._rng))
        if hardship.push:
            self._disturbances.append(hazards.push(world, hardship.push, hardship.push_at, self._rng))
        if hardship.put_back is not None:
            self._disturbances.append(hazards.put_back(world, hardship.put_back, elements))

    def play(
        self, control: Control, estimator: Estimator | None, on_moment: Callable[[Moment], None] | None = None
    ) -> Outcome:
        hardship = self._hardship
        robot = _Disturbed(self._robot, hardship.robot, self._disturbances, self._hazards.calm)
        # The id keys the sampling noise, so an episode's noise does not depend on what runs beside it.
        robot_id, goals = f"{self._name}/{self._number}", max(hardship.shift, 1 + hardship.second)
        longest = _SHIFT_GOAL * self._hazards.steps_an_element if hardship.shift else hardship.steps or 0
        config = RunConfig(self._now.goal, goals * longest, robot_id, start_seed=self._seed)

        def on_step(step: Step) -> None:
            self._steps = step.step + 1
            if on_moment is not None:
                now, truth = self._now, self._world.truth
                on_moment(Moment(step, truth, now.named, frozenset(self._done(truth)), now.undone, robot.happens))
            if self._steps == hardship.swap_at:
                self._change(control, robot_id, step, self._other(self._now.named))
            elif self._steps == self._ends:
                self._judge()
                if not self._left:
                    raise _Over
                self._left -= 1
                done = self._world.done()
                change = self._next_goal(done) if hardship.shift else self._open(done)
                self._ends += self._duration(change)
                self._change(control, robot_id, step, change)
                if hardship.shift:
                    self._disturb(self._steps, change.named)

        try:
            run(robot, control, config, on_step, estimator)
        except _Over:
            control.finish(robot_id)
        except WorldFault:
            raise
        except InvalidInput as error:
            # A policy may drive the world into a state outside its own range; the episode ends there.
            if not self._steps:
                raise
            control.finish(robot_id)
            self._refused = str(error)
            self._judge()
        missing = goals - len(self._judged)
        redrawn = sum((each.redrawn for each in self._disturbances), Counter[str]())
        return Outcome(
            condition=self._name,
            number=self._number,
            goal=self._goal,
            seed=self._seed,
            steps=self._steps,
            refused=self._refused,
            goals=(*self._judged, *[(("not begun",), ())] * missing),
            redrawn=dict(redrawn),
            fell=self._hazards.fallen(self._world.truth, self._start),
        )

    def _judge(self) -> None:
        self._judged.append((self._now.named, self._done(self._world.truth)))

    def _done(self, truth: np.ndarray) -> tuple[str, ...]:
        """The elements of the present goal that are where it asks for them, in a state (n,)."""

        def is_done(element: ElementSpec) -> bool:
            if not self._now.undone:
                return element.is_done(truth)
            return bool(np.linalg.norm((truth - self._start)[list(element.dims)]) < element.tolerance)

        return tuple(name for name in self._now.named if is_done(self._elements[name]))

    def _change(self, control: Control, robot_id: str, step: Step, change: _Change) -> None:
        self._now = change
        control.set_goal(robot_id, change.goal, step.state)

    def _duration(self, change: _Change) -> int:
        if self._hardship.shift:
            return self._hazards.steps_an_element * len(change.named)
        return self._hardship.steps or 0

    def _other(self, named: Sequence[str]) -> _Change:
        others = tuple(name for name in self._elements if name not in named)[:3]
        return _Change(others, others)

    def _open(self, done: frozenset[str]) -> _Change:
        """A second goal: what is open, or all that the first goal did not name if nothing is."""
        open_ones = tuple(name for name in self._elements if name not in done)
        return _Change(open_ones, open_ones) if open_ones else self._other(self._now.named)

    def _next_goal(self, done: frozenset[str]) -> _Change:
        """A shift's next goal: one to three elements forward, by name, or back to the start, as a whole state."""
        open_ones = [name for name in self._elements if name not in done]
        back = bool(done) and (not open_ones or self._rng.random() < 0.5)
        pool = [name for name in self._elements if name in done] if back else open_ones
        size = int(self._rng.integers(1, min(_SHIFT_GOAL, len(pool)) + 1))
        chosen = set(self._rng.choice(pool, size=size, replace=False).tolist())
        named = tuple(name for name in self._elements if name in chosen)
        if not back:
            return _Change(named, named)
        goal = self._hazards.with_elements(self._world.truth, named, self._start)
        return _Change(goal.astype(np.float32), named, undone=True)


class _Over(Exception):
    """The last goal was judged."""


class _Disturbed(DegradedRobot):
    """A robot with faults in a world with disturbances."""

    def __init__(
        self,
        robot: SimulatedRobot,
        conditions: Conditions,
        disturbances: list[Disturbance],
        calm: Callable[[World], None],
    ) -> None:
        super().__init__(robot, conditions)
        self._disturbances, self._calm, self._step = disturbances, calm, 0
        self.happens: tuple[str, ...] = ()  # names of the disturbances that acted in the last period

    def apply(self, target: np.ndarray) -> None:
        """As `DegradedRobot.apply`, with the forces of this period."""
        done = self.done()
        self._calm(self.simulated.world)
        acted = [disturbance.name for disturbance in self._disturbances if disturbance.act(self._step, done)]
        self.happens = tuple(acted)
        super().apply(target)
        self._step += 1
