"""The session of a Control stream: the runs of its robots, answered message by message.

A row that cannot be accepted gets an error as its reply and changes nothing.
"""

import hmac
import itertools
import secrets
from collections.abc import Generator, Sequence
from contextlib import suppress
from time import perf_counter_ns
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from rpl_runtime.errors import InvalidInput, PlannerLost, ProtocolViolation, RelayError, RobotLeased
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.novelty import Novelty
from rpl_runtime.policy.spec import ResolvedGoal, VectorSpec
from rpl_runtime.policy.stall import StallDetector
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.loop import Levels, RelayLoop
from rpl_runtime.relay.messages import (
    Action,
    Applied,
    Finish,
    Finished,
    Goal,
    GoalSet,
    HandBack,
    HandedBack,
    Noted,
    Observation,
    Reply,
    Request,
    SetGoal,
    StageTimes,
    Start,
    Started,
    TakenOver,
    valid_until_ns,
)
from rpl_runtime.relay.plans import Coming, Fallback, PlannerPort, PlanRules
from rpl_runtime.relay.run_state import Steering, SubgoalOverride, TakeOver

Rows = Sequence[tuple[str, Request | RelayError]]
_T = TypeVar("_T")
_STEERED_NS = 10_000_000_000  # [ns] for which a robot in hand waits for a silent operator


class Answer(NamedTuple):
    rows: list[tuple[str, Reply]]
    times: StageTimes


# Yields answers of a planner that must be settled before it goes on, and returns a value.
Answering = Generator[list[Coming], None, _T]


class PlainSteps(NamedTuple):
    """Steps answered without a value for each row (wire/conversation.py); no operator changed their subgoals."""

    steps: int
    new: Sequence[tuple[str, int, float | None]]  # robot, step and novelty of those that follow a new subgoal
    novel: int  # number of states far from the training data
    times: StageTimes


class Session:
    """The robots of one stream.

    Args:
        levels: the policy.
        bundle: the bundle of that policy.
        leases: the robots with a run on any stream; all sessions of a server share them.
        caller: whose stream it is.
        planner: plans in place of the high level, while robots move on.
    """

    def __init__(
        self, levels: Levels, bundle: Bundle, leases: Leases, caller: str = "", planner: PlannerPort | None = None
    ) -> None:
        self._levels = _Timed(levels, bundle.spec.action)
        self._bundle = bundle
        self._spec = bundle.spec
        self.period_ns = round(bundle.spec.period_s * 1e9)
        self._leases = leases
        self._caller = caller
        novelty = Novelty.of(bundle.manifest.statistics)
        self.score = None if novelty is None else novelty.score  # of states (B, n), if the bundle can score them
        stall, statistics = bundle.manifest.stall, bundle.manifest.statistics
        self._stall = None if stall is None else StallDetector(bundle.spec, statistics, stall)
        self.loop = RelayLoop(self._levels, bundle.spec, planner)  # on which an operator pins and vetoes subgoals
        self.heard_ns: dict[
            str, int
        ] = {}  # robot with a run -> [ns] `perf_counter_ns` of its last message that was accepted
        self.handles: dict[int, str] = {}  # of the robots with a run, for messages in columns
        self._handles = itertools.count(1)
        self.novelty: dict[str, float] = {}  # robot -> score of its last state, if the bundle can score states
        self.states: dict[str, np.ndarray] = {}  # robot -> (n,) its last state
        self.set_goals: dict[str, ResolvedGoal] = {}  # robot -> goal that its next action tells its client
        self.times = StageTimes(0.0, 0.0, 0.0, 0.0)  # of the last message

    def answer(self, rows: Rows, received_ns: int) -> Answer:
        """Answer a message received at a time [ns] of `perf_counter_ns`; its rows take effect in their order.

        Neighbouring observations are decided as one batch. Answers of a planner that steps need are waited for.
        """
        answering = self.answering(rows, received_ns)
        while True:
            try:
                awaited = next(answering)
            except StopIteration as end:
                return end.value
            for coming in awaited:
                with suppress(PlannerLost):
                    coming.result()

    def answering(self, rows: Rows, received_ns: int) -> Answering[Answer]:
        """The same for a caller that waits in its own way."""
        decoded_ns = perf_counter_ns()
        self._levels.plan_ns = self._levels.act_ns = 0
        replies: list[tuple[str, Reply]] = []
        batch: list[tuple[str, Observation]] = []
        for robot, request in rows:
            if isinstance(request, Observation):
                batch.append((robot, request))
            else:
                replies += yield from self._step(batch, received_ns)
                batch = []
                replies.append((robot, (yield from self._handle(robot, request, received_ns))))
        replies += yield from self._step(batch, received_ns)
        times = self.times = StageTimes(
            decode_us=(decoded_ns - received_ns) / 1e3,
            plan_us=self._levels.plan_ns / 1e3,
            act_us=self._levels.act_ns / 1e3,
            total_us=(perf_counter_ns() - received_ns) / 1e3,
        )
        return Answer(replies, times)

    def set_goal(self, robot: str, goal: Goal) -> ResolvedGoal:
        """Change a robot's goal in place of its client, whom the action of the next step tells.

        Raises:
            ProtocolViolation: the robot has sent no state yet.
            InvalidGoal, InvalidInput: the goal is not one of the policy.
        """
        if robot not in self.states:
            raise ProtocolViolation(f"robot {robot!r} has sent no state yet; its goal can be changed after a step")
        resolved = self._resolve(goal, self.states[robot])
        self.loop.set_goal(robot, resolved)
        self.set_goals[robot] = resolved
        return resolved

    def steer(self, robot: str, by: str) -> Steering:
        """Take a robot in hand for an operator, whose targets its actions have from the next step on.

        The robot is handed back at the first step before which the operator has not been heard for 10 s.

        Raises:
            ProtocolViolation: the robot has sent no state yet, or is in hand already.
            InvalidInput: the operator's name is not acceptable.
        """
        if robot not in self.states:
            raise ProtocolViolation(f"robot {robot!r} has sent no state yet; it can be taken over after a step")
        now_ns = perf_counter_ns()
        self._let_go([robot], now_ns)
        steering = Steering(by, secrets.token_hex(16), now_ns)
        self.loop.steer(robot, steering)
        return steering

    def steering(self, robot: str, key: str) -> Steering:
        """The hand of an operator who is heard now, by its key.

        Raises:
            ProtocolViolation: the robot is not in this hand.
        """
        now_ns = perf_counter_ns()
        self._let_go([robot], now_ns)
        hand = self.loop.standing(robot).hand
        if not isinstance(hand, Steering) or not hmac.compare_digest(hand.key.encode(), key.encode()):
            other = "" if hand is None else f"; it is in that of {hand.by}"
            raise ProtocolViolation(f"robot {robot!r} is not in your hand, or not any more{other}")
        hand.heard_ns = now_ns
        return hand

    def asks_for_help(
        self, robots: Sequence[str], states: Sequence[np.ndarray] | np.ndarray, scores: Sequence[float | None]
    ) -> Sequence[bool]:
        """Whether each robot's policy asks for help, after a step in these states (B, n) with their novelty."""
        if self._stall is None or not robots:
            return [False] * len(robots)
        runs = [self.loop.runs[robot] for robot in robots]
        return self._stall.asks(runs, np.asarray(states, dtype=np.float32), scores)

    def asking(self, robot: str) -> bool:
        """Whether a robot's policy asked for help at its last step."""
        return self._stall is not None and self._stall.asking(self.loop.runs[robot])

    def reap(self, before_ns: int) -> list[str]:
        """End the runs of robots last heard before a time [ns] of `perf_counter_ns`. Returns those robots."""
        idle = [robot for robot, heard_ns in self.heard_ns.items() if heard_ns < before_ns]
        for robot in idle:
            self._finish(robot)
        return idle

    def close(self) -> None:
        """Free every robot of the stream."""
        self.loop.close()
        self._leases.free(self.loop.robots)

    def _step(self, rows: list[tuple[str, Observation]], received_ns: int) -> Answering[list[tuple[str, Reply]]]:
        if not rows:
            return []
        self._let_go([robot for robot, _ in rows], received_ns)
        robots, steps = [robot for robot, _ in rows], [seen.step for _, seen in rows]
        states = [seen.state for _, seen in rows]
        while awaited := self.loop.awaited(robots, steps, states):
            yield awaited
        try:
            decision = self.loop.step(robots, steps, states)
        except RelayError as error:
            if len(rows) == 1:
                return [(robots[0], error.as_reply())]
            faults = self.loop.faults(robots, steps, states)
            if not faults:  # the policy failed on the batch: try row by row
                singly: list[tuple[str, Reply]] = []
                for row in rows:
                    singly += yield from self._step([row], received_ns)
                return singly
            decided = iter(
                (yield from self._step([row for at, row in enumerate(rows) if at not in faults], received_ns))
            )
            return [(robot, faults[at]) if at in faults else next(decided) for at, robot in enumerate(robots)]
        self.heard_ns.update(dict.fromkeys(robots, received_ns))
        self.states.update(zip(robots, states, strict=True))
        scores: Sequence[float | None] = [None] * len(rows)
        if self.score is not None:
            scores = self.score(np.asarray(states, dtype=np.float32)).tolist()
            self.novelty.update(zip(robots, scores, strict=True))  # type: ignore[arg-type]
        helps = self.asks_for_help(robots, states, scores)
        decided = zip(rows, decision.action, decision.subgoal, decision.age.tolist(), scores, helps, strict=True)
        return [
            (
                robot,
                Action(  # by names it takes twice as long
                    target,
                    subgoal,
                    age,
                    age == 0,
                    valid_until_ns(seen.observed_ns, self.period_ns),
                    decision.upcoming.get(at),
                    None,
                    score,
                    decision.overrides.get(at, SubgoalOverride.NONE),
                    self.set_goals.pop(robot, None),
                    help_,
                    decision.origins.get(at),
                    decision.authors.get(at, ""),
                ),
            )
            for at, ((robot, seen), target, subgoal, age, score, help_) in enumerate(decided)
        ]

    def _handle(self, robot: str, request: Request | RelayError, received_ns: int) -> Answering[Reply]:
        try:
            match request:
                case Start():
                    self._leases.check(robot, self._caller, here=robot in self.loop.robots)
                    goal = self._resolve(request.goal, request.state)
                    rules, state = request.rules, request.state if len(request.state) else None
                    self.loop.start(robot, goal, request.seed, request.plan_lead, request.resume, rules, state)
                    self._leases.take(robot, self._caller)
                    self.heard_ns[robot] = received_ns
                    handle = next(self._handles)
                    self.handles[handle] = robot
                    yield from self._first_plan(robot, rules)
                    return Started(goal, self._bundle.digest, self._spec.period_s, self._spec.horizon, handle)
                case SetGoal():
                    goal = self._resolve(request.goal, request.state)
                    self.loop.set_goal(robot, goal)
                    self.heard_ns[robot] = received_ns
                    return GoalSet(goal)
                case TakeOver():
                    if robot not in self.loop.robots and robot in self._leases:
                        raise RobotLeased(f"robot {robot!r} runs on another stream; only that stream can take it over")
                    taken = TakenOver(self.loop.take_over(robot, request))
                    self.heard_ns[robot] = received_ns
                    return taken
                case Applied():
                    self.loop.applied(robot, *request)
                    self.heard_ns[robot] = received_ns
                    self.states[robot] = request.state
                    score = None if self.score is None else float(self.score(request.state[None])[0])
                    if score is not None:
                        self.novelty[robot] = score
                    [help_] = self.asks_for_help([robot], request.state[None], [score])
                    return Noted(request.step, score, self.set_goals.pop(robot, None), help_)
                case HandBack():
                    handed = HandedBack(self.loop.hand_back(robot))
                    self.heard_ns[robot] = received_ns
                    return handed
                case Finish():
                    return Finished(self._finish(robot))
                case RelayError():
                    return request
                case Observation():
                    raise AssertionError("observations are decided as a batch")
        except RelayError as error:
            return error.as_reply()

    def _let_go(self, robots: Sequence[str], now_ns: int) -> None:
        """Hand robots back whose operators have not been heard for too long."""
        for robot in robots:
            run = self.loop.runs.get(robot)
            if run is not None and isinstance(run.hand, Steering) and run.hand.heard_ns + _STEERED_NS < now_ns:
                self.loop.let_go(robot)

    def _first_plan(self, robot: str, rules: PlanRules) -> Answering[None]:
        """Wait for the first plan of a run that has begun, if it was asked for.

        Raises:
            PlannerLost: it did not come, and the run has nothing else to follow; it is over.
        """
        first = self.loop.first_plan(robot)
        if first is None:
            return
        if not first.settled:
            yield [first]
        if robot not in self.loop.robots or self.loop.first_plan(robot) is not first:
            return  # an operator has set another goal or subgoal
        try:
            first.result()
        except PlannerLost:
            assert self.loop.planner is not None
            if self.loop.planner.fallback(rules) not in (Fallback.HOLD, Fallback.BUNDLE):
                self._finish(robot)
                raise

    def _resolve(self, goal: Goal, state: np.ndarray) -> ResolvedGoal:
        if isinstance(goal, ResolvedGoal):
            return self._spec.check_goal(goal)
        if isinstance(goal, np.ndarray):
            return self._spec.resolve_state(goal)
        return self._spec.resolve(goal, state)

    def _finish(self, robot: str) -> int:
        steps = self.loop.finish(robot)
        self._leases.free([robot])
        self.handles = {handle: name for handle, name in self.handles.items() if name != robot}
        del self.heard_ns[robot]
        for kept in (self.novelty, self.states, self.set_goals):
            kept.pop(robot, None)
        return steps


class _Timed:
    """Both levels, and the time they took. No action leaves them that is outside its range."""

    def __init__(self, levels: Levels, accepted: VectorSpec) -> None:
        self._levels = levels
        self._accepted = accepted
        self.plan_ns = 0  # [ns]
        self.act_ns = 0  # [ns]

    def plan(
        self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray
    ) -> np.ndarray | Sequence[ArrayLike]:
        started_ns = perf_counter_ns()
        subgoal = self._levels.plan(state, goal, mask, noise)
        self.plan_ns += perf_counter_ns() - started_ns
        return subgoal

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        started_ns = perf_counter_ns()
        actions = self._levels.act(state, subgoal, noise)
        self.act_ns += perf_counter_ns() - started_ns
        return checked(actions, self._accepted)


def checked(actions: np.ndarray, accepted: VectorSpec) -> np.ndarray:
    """The actions (B, m), of a policy that may be anyone's.

    Raises:
        RelayError: one of them is outside its range or not finite.
    """
    if not accepted.accepts(actions):
        try:
            for action in actions:
                accepted.check("action", action)
        except InvalidInput as error:
            raise RelayError(f"the policy's answer cannot be used: {error}") from None
    return actions
