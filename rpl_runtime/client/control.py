"""Control of robots over a `Line` to a relay loop.

The line is a stream to a server (client.py), one that reconnects (reconnect.py), or a loop on the robot (on_robot.py).
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar, cast

import numpy as np

from rpl_runtime.errors import InvalidGoal, InvalidInput, RelayError
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay import messages
from rpl_runtime.relay.plans import PlanRules
from rpl_runtime.relay.run_state import Resume, TakeOver
from rpl_runtime.wire.control import MAX_ROWS

Rows = Sequence[tuple[str, messages.Request]]
Step = Callable[[str, messages.Observation], messages.Reply]  # a line may have `step`, faster than `exchange`
Columns = Callable[[list[str], messages.Observations], messages.ActionBatch | None]  # a line may have `step_columns`

_Reply = TypeVar("_Reply", bound=messages.Reply)


class Line(Protocol):
    """The way to a relay loop."""

    def exchange(self, rows: Rows) -> list[messages.Reply]:
        """Send (robot, request) rows and return one reply for each: the matching kind, or a refusal.

        Raises:
            RelayError: the whole exchange failed.
        """
        ...

    def close(self) -> None:
        """End the line and free its robots."""
        ...


class Control:
    """Runs of robots; leaving the block frees them. Not thread-safe.

    Args:
        model: the policy.
        line: the way to its relay loop.

    Raises (every method):
        RelayError: the request was refused, or the line failed.
    """

    def __init__(self, model: messages.ModelInfo, line: Line) -> None:
        self.model = model
        self.line = line
        self.set_goals: dict[str, ResolvedGoal] = {}  # robot -> goal set here, until the loop that runs it takes it out
        self._step: Step | None = getattr(line, "step", None)
        self._columns: Columns | None = getattr(line, "step_columns", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        robot: str,
        goal: messages.Goal,
        state: np.ndarray = messages.NOTHING,
        seed: int | None = None,
        plan_lead: int = 0,
        resume: Resume | None = None,
        rules: PlanRules = PlanRules(),
    ) -> messages.Started:
        """Start a run.

        Args:
            robot: its id; it keys the sampling noise.
            goal: element names, a whole goal state (n,), or a goal as a `Started` returned it.
            state: measured state (n,); a goal of element names needs it, and the first plan of a slow planner is made
                from it.
            seed: samples both levels; None takes their modes.
            plan_lead: [steps] from the request of a plan to its effect.
            resume: where a broken run continues; its goal must be the one in its `Started`.
            rules: for plans that take time.

        Raises:
            RobotLeased: the robot runs already.
            InvalidGoal, InvalidInput: the goal, the state or an option is not valid.
            PlannerLost: the first plan did not come in time.
        """
        start = messages.Start(_goal(goal), _vector(state), seed, plan_lead, resume, rules)
        self.set_goals.pop(robot, None)  # of a run that ended before anybody took it out
        return self._ask(robot, start, messages.Started)

    def step(self, robot: str, step: int, state: np.ndarray) -> messages.Action:
        """The action for a robot's step, counted from 0, in a state (n,) measured now.

        Raises:
            StepOutOfOrder, InvalidInput, ProtocolViolation: refused; the run has not moved on.
            PlannerLost: no usable plan came in time, and the run has nothing else to follow.
            RelayError: the action is outside the range of the policy's spec.
        """
        seen = messages.Observation(step, _vector(state), time.monotonic_ns())
        reply = self.line.exchange([(robot, seen)])[0] if self._step is None else self._step(robot, seen)
        if isinstance(reply, RelayError):
            raise reply
        action = cast(messages.Action, reply)
        if fault := self._fault(action):
            raise fault
        return action

    def step_batch(
        self, robots: Sequence[str], steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray
    ) -> Sequence[messages.Action | RelayError]:
        """One step of several robots in one message: an action for each, or its refusal."""
        observed_ns = time.monotonic_ns()
        if self._columns is not None and (seen := self._observations(len(robots), steps, states, observed_ns)):
            batch = self._columns(list(robots), seen)
            if batch is not None and self.model.spec.action.accepts(batch.targets):
                return batch
            if batch is not None:
                return [reply if isinstance(reply, RelayError) else self._fault(reply) or reply for reply in batch]
        rows = [
            (robot, messages.Observation(step, _vector(state), observed_ns))
            for robot, step, state in zip(robots, steps, states, strict=True)
        ]
        if not rows:
            return []
        replies = cast(list[messages.Action | RelayError], self.line.exchange(rows))
        return [reply if isinstance(reply, RelayError) else self._fault(reply) or reply for reply in replies]

    def set_goal(self, robot: str, goal: messages.Goal, state: np.ndarray = messages.NOTHING) -> ResolvedGoal:
        """Change a running robot's goal; it plans at its next step.

        Raises:
            InvalidGoal, InvalidInput, ProtocolViolation: refused; the run keeps its goal.
        """
        resolved = self._ask(robot, messages.SetGoal(_goal(goal), _vector(state)), messages.GoalSet).goal
        self.set_goals[robot] = resolved
        return resolved

    def take_over(self, robot: str, by: str, why: str = "") -> int:
        """Take a running robot in hand: a pilot decides its targets until `hand_back`. Returns his first step.

        Args:
            robot: its id.
            by: name of the pilot, the author of his steps.
            why: one sentence for people.

        Raises:
            ProtocolViolation: the robot is in hand already.
            RobotLeased: it runs on another line.
            InvalidInput: the name or the reason is not acceptable.
        """
        return self._ask(robot, TakeOver(by, why), messages.TakenOver).step

    def applied(self, robot: str, step: int, state: np.ndarray, target: np.ndarray) -> messages.Noted:
        """Say that a robot in hand followed a target (m,) at a step, in a state (n,) measured before.

        Raises:
            StepOutOfOrder, InvalidInput, ProtocolViolation: refused; the run has not moved on.
        """
        return self._ask(robot, messages.Applied(step, _vector(state), _vector(target)), messages.Noted)

    def hand_back(self, robot: str) -> int:
        """Give a robot in hand back to the policy. Returns its next step, which replans at once.

        Raises:
            ProtocolViolation: the robot is not in hand.
        """
        return self._ask(robot, messages.HandBack(), messages.HandedBack).step

    def finish(self, robot: str) -> int:
        """End a run and free the robot. Returns the number of steps made.

        Raises:
            ProtocolViolation: the robot has no run on this line.
        """
        return self._ask(robot, messages.Finish(), messages.Finished).steps

    def ask(self, robot: str, requests: Sequence[messages.Request]) -> list[messages.Reply]:
        """Send 1 to 256 requests of a robot in one message. Returns their replies.

        Raises:
            RelayError: one was refused; those after it may have been accepted.
        """
        replies = self.line.exchange([(robot, request) for request in requests])
        for reply in replies:
            if isinstance(reply, RelayError):
                raise reply
        return replies

    def close(self) -> None:
        """End all runs and the line."""
        self.line.close()

    def _observations(
        self, count: int, steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray, observed_ns: int
    ) -> messages.Observations | None:
        """The same as columns; None: they do not fit, and as rows it is said why."""
        try:
            given, vectors = np.asarray(steps), np.asarray(states, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            return None
        shapes = given.shape, vectors.shape
        if shapes != ((count,), (count, self.model.spec.state.dim)) or given.dtype.kind not in "iu":
            return None
        if not 0 < count <= MAX_ROWS:
            return None
        numbers = given.astype(np.uint32)
        if not np.array_equal(numbers, given):  # numpy cuts off what does not fit
            return None
        return messages.Observations(numbers, numbers, vectors, observed_ns)

    def _fault(self, action: messages.Action) -> RelayError | None:
        """Why an action must not reach a robot: a server may be anybody's."""
        accepted = self.model.spec.action
        try:
            if not accepted.accepts(np.asarray(action.target, dtype=np.float32)[None]):
                accepted.check("action", action.target)
        except InvalidInput as error:
            return RelayError(f"the server's answer cannot be used: {error}")
        return None

    def _ask(self, robot: str, request: messages.Request, kind: type[_Reply]) -> _Reply:
        return cast(_Reply, self.ask(robot, [request])[0])


def _goal(goal: messages.Goal) -> messages.Goal:
    if isinstance(goal, str):
        raise InvalidGoal(f"the goal is the text {goal!r}; must be a list of element names, or a goal state")
    if isinstance(goal, ResolvedGoal):
        return ResolvedGoal(_vector(goal.state), _vector(goal.mask))
    return _vector(goal) if isinstance(goal, np.ndarray) else tuple(goal)


def _vector(values: np.ndarray) -> np.ndarray:
    try:
        vector = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a vector cannot be read: {error}; must be numbers, (n,)") from error
    if vector.ndim != 1:
        raise InvalidInput(f"a vector has shape {vector.shape}; must be one dimension, (n,)")
    return vector
