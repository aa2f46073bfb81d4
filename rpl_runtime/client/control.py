"""The verbs with which robots are run, whoever decides.

In: a line to the relay loop (a stream to a server, one that outlives its server, the loop beside the robot), then
goals and states. Out: actions. It does not know what carries the line, nor robots.
"""

import time
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar, cast

import numpy as np

from rpl_runtime.errors import InvalidGoal, InvalidInput, RelayError
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.loop import Resume
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Finish,
    Finished,
    Goal,
    GoalSet,
    ModelInfo,
    Observation,
    Reply,
    Request,
    SetGoal,
    Start,
    Started,
)

Rows = Sequence[tuple[str, Request]]

_Reply = TypeVar("_Reply", Started, Action, GoalSet, Finished)


class Line(Protocol):
    """What a `Control` talks through."""

    def exchange(self, rows: Rows) -> list[Reply]:
        """The answer to each (robot, request), of the kind that belongs to it, or its refusal.

        Raises:
            RelayError: there is no answer to any of them.
        """
        ...

    def close(self) -> None:
        """End the line, which frees its robots."""
        ...


class Control:
    """Runs of robots; leaving the block frees them. Not for several threads.

    Args:
        model: the policy that decides.
        line: the way to it.

    Raises (every verb):
        RelayError: refused, or the line has no answer.
    """

    def __init__(self, model: ModelInfo, line: Line) -> None:
        self.model = model
        self.line = line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        robot: str,
        goal: Goal,
        state: np.ndarray = NOTHING,
        seed: int | None = None,
        plan_lead: int = 0,
        resume: Resume | None = None,
    ) -> Started:
        """Begin a run. The state (n,) is the robot's at the start; only a goal of element names needs it.

        Args:
            robot: its id; it keys the sampling noise.
            goal: element names, a whole goal state (n,), or a goal as a `Started` returned it.
            state: measured state (n,).
            seed: samples both levels; None takes their modes.
            plan_lead: [steps] how long before it takes effect a subgoal is planned.
            resume: where a broken run goes on; its goal is the one that its `Started` returned.

        Raises:
            RobotLeased: the robot runs already.
            InvalidGoal, InvalidInput: the goal, the state or an option is not acceptable.
        """
        return self._ask(robot, Start(_goal(goal), _vector(state), seed, plan_lead, resume), Started)

    def step(self, robot: str, step: int, state: np.ndarray) -> Action:
        """The action for a robot's step, counted from 0, in a state (n,) measured now.

        Raises:
            StepOutOfOrder, InvalidInput, ProtocolViolation: refused; the run still stands where it stood.
        """
        return self._ask(robot, Observation(step, _vector(state), time.monotonic_ns()), Action)

    def step_batch(
        self, robots: Sequence[str], steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray
    ) -> list[Action | RelayError]:
        """One step of several robots in one message: an action for each, or why it was refused."""
        observed_ns = time.monotonic_ns()
        rows = [
            (robot, Observation(step, _vector(state), observed_ns))
            for robot, step, state in zip(robots, steps, states, strict=True)
        ]
        return cast(list[Action | RelayError], self.line.exchange(rows))

    def set_goal(self, robot: str, goal: Goal, state: np.ndarray = NOTHING) -> ResolvedGoal:
        """Give a running robot another goal; its next step replans at once.

        Raises:
            InvalidGoal, InvalidInput, ProtocolViolation: refused; the run keeps its goal.
        """
        return self._ask(robot, SetGoal(_goal(goal), _vector(state)), GoalSet).goal

    def finish(self, robot: str) -> int:
        """End a run and free the robot. Returns the number of steps it has reached.

        Raises:
            ProtocolViolation: the robot has no run here.
        """
        return self._ask(robot, Finish(), Finished).steps

    def close(self) -> None:
        """End every run and the line."""
        self.line.close()

    def _ask(self, robot: str, request: Request, kind: type[_Reply]) -> _Reply:
        [reply] = self.line.exchange([(robot, request)])
        if isinstance(reply, RelayError):
            raise reply
        return cast(_Reply, reply)


def _goal(goal: Goal) -> Goal:
    if isinstance(goal, str):
        raise InvalidGoal(f"the goal is the text {goal!r}; must be a list of element names, or a goal state")
    if isinstance(goal, ResolvedGoal):
        return ResolvedGoal(_vector(goal.state), _vector(goal.mask))
    return _vector(goal) if isinstance(goal, np.ndarray) else tuple(goal)


def _vector(values: np.ndarray) -> np.ndarray:
    try:
        vector = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a vector of numbers was expected: {error}") from error
    if vector.ndim != 1:
        raise InvalidInput(f"a vector has shape {vector.shape}; must be one dimension, (n,)")
    return vector
