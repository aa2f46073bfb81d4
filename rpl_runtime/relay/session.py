"""The runs of one Control stream: requests of robots in, replies out.

In: the rows of a message, each a robot and its request. Out: a reply for each row, in their order. It does not know
bytes, gRPC or sockets; the relay loop below it does not know leases, nor when anybody was heard.

What cannot be accepted is answered in its place by an error and changes nothing.
"""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rpl_runtime.errors import RelayError
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.novelty import Novelty
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.loop import Levels, RelayLoop, Standing, SubgoalOverride
from rpl_runtime.relay.messages import (
    Action,
    Finish,
    Finished,
    Goal,
    GoalSet,
    Observation,
    Reply,
    Request,
    SetGoal,
    StageTimes,
    Start,
    Started,
    valid_until_ns,
)

Rows = Sequence[tuple[str, Request | RelayError]]


class Answer(NamedTuple):
    rows: list[tuple[str, Reply]]
    times: StageTimes


class Session:
    """The robots of one stream.

    Args:
        levels: the policy.
        bundle: the bundle it came from.
        leases: the robots that run on any stream of the server, shared by all of them.
    """

    def __init__(self, levels: Levels, bundle: Bundle, leases: Leases) -> None:
        self._levels = _Timed(levels)
        self._bundle = bundle
        self._spec = bundle.spec
        self._period_ns = round(bundle.spec.period_s * 1e9)
        self._leases = leases
        self._loop = RelayLoop(self._levels, bundle.spec)
        self._novelty = Novelty.of(bundle.manifest.statistics)
        self._scored: dict[str, float] = {}  # robot -> novelty of its last state
        self._heard_ns: dict[str, int] = {}  # robot with a run -> when it was last heard
        self._received_ns = 0  # when the message was received that is answered now
        self.times = StageTimes(0.0, 0.0, 0.0, 0.0)  # of the last message

    @property
    def robots(self) -> frozenset[str]:
        """The robots with a run."""
        return self._loop.robots

    @property
    def loop(self) -> RelayLoop:
        """The loop of these robots, for an operator to pin, release and veto subgoals in between two messages."""
        return self._loop

    def novelty(self, robot: str) -> float | None:
        """How far a robot's last state was from the training data; None: there was none, or the bundle cannot say."""
        return self._scored.get(robot)

    def standing(self, robot: str) -> tuple[Standing, int]:
        """Where a robot's run stands, and when it was last heard, a time of `perf_counter_ns`.

        Raises:
            ProtocolViolation: it has no run.
        """
        return self._loop.standing(robot), self._heard_ns[robot]

    def answer(self, rows: Rows, received_ns: int) -> Answer:
        """Take a message that was received at a time of `perf_counter_ns`; its rows take effect in their order.

        Neighbouring observations are decided as one batch.
        """
        decoded_ns = perf_counter_ns()
        self._received_ns = received_ns
        self._levels.plan_ns = self._levels.act_ns = 0
        replies: list[tuple[str, Reply]] = []
        waiting: list[tuple[str, Observation]] = []
        for robot, request in rows:
            if robot in self._heard_ns:
                self._heard_ns[robot] = received_ns
            if isinstance(request, Observation):
                waiting.append((robot, request))
                continue
            replies += self._observe(waiting)
            waiting = []
            replies.append((robot, self._reply(robot, request)))
        replies += self._observe(waiting)
        times = StageTimes(
            decode_us=(decoded_ns - received_ns) / 1e3,
            plan_us=self._levels.plan_ns / 1e3,
            act_us=self._levels.act_ns / 1e3,
            total_us=(perf_counter_ns() - received_ns) / 1e3,
        )
        self.times = times
        return Answer(replies, times)

    def reap(self, before_ns: int) -> list[str]:
        """End the runs of robots that were not heard since a time of `perf_counter_ns`, and free those robots."""
        idle = [robot for robot, heard_ns in self._heard_ns.items() if heard_ns < before_ns]
        for robot in idle:
            self._finish(robot)
        return idle

    def close(self) -> None:
        """Free every robot of the stream."""
        self._leases.free(self._loop.robots)

    def _reply(self, robot: str, request: Start | SetGoal | Finish | RelayError) -> Reply:
        try:
            match request:
                case Start():
                    return self._start(robot, request)
                case SetGoal():
                    goal = self._resolve(request.goal, request.state)
                    self._loop.set_goal(robot, goal)
                    return GoalSet(goal)
                case Finish():
                    return Finished(self._finish(robot))
                case RelayError():
                    return request
        except RelayError as error:
            return error

    def _start(self, robot: str, start: Start) -> Started:
        self._leases.check(robot, here=robot in self._loop.robots)
        goal = self._resolve(start.goal, start.state)
        self._loop.start(robot, goal, start.seed, start.plan_lead, start.resume)
        self._leases.take(robot)
        self._heard_ns[robot] = self._received_ns
        return Started(goal, self._bundle.digest, self._spec.period_s, self._spec.horizon)

    def _finish(self, robot: str) -> int:
        steps = self._loop.finish(robot)
        self._leases.free([robot])
        del self._heard_ns[robot]
        self._scored.pop(robot, None)
        return steps

    def _resolve(self, goal: Goal, state: np.ndarray) -> ResolvedGoal:
        if isinstance(goal, ResolvedGoal):
            return self._spec.check_goal(goal)
        if isinstance(goal, np.ndarray):
            return self._spec.resolve_state(goal)
        return self._spec.resolve(goal, state)

    def _observe(self, rows: list[tuple[str, Observation]]) -> list[tuple[str, Reply]]:
        if not rows:
            return []
        try:
            return self._decide(rows)
        except RelayError as error:
            if len(rows) == 1:
                return [(rows[0][0], error)]
        # Something is wrong with some row. Only now are the rows told apart, so that sound messages cost one check.
        faults = self._loop.faults(*_columns(rows))
        if not faults:  # the policy failed on the batch; row by row it fails only where it must
            return [reply for row in rows for reply in self._observe([row])]
        decided = iter(self._observe([row for at, row in enumerate(rows) if at not in faults]))
        return [(robot, faults[at]) if at in faults else next(decided) for at, (robot, _) in enumerate(rows)]

    def _decide(self, rows: list[tuple[str, Observation]]) -> list[tuple[str, Reply]]:
        robots, steps, states = _columns(rows)
        decision = self._loop.step(robots, steps, states)
        scores = self._scores(robots, states)
        made = zip(rows, decision.action, decision.subgoal, decision.age.tolist(), scores, strict=True)
        return [
            (
                robot,
                Action(
                    target,
                    subgoal,
                    age,
                    age == 0,
                    valid_until_ns(seen.observed_ns, self._period_ns),
                    decision.upcoming.get(at),
                    None,
                    novelty,
                    decision.overrides.get(at, SubgoalOverride.NONE),
                ),
            )
            for at, ((robot, seen), target, subgoal, age, novelty) in enumerate(made)
        ]

    def _scores(self, robots: list[str], states: list[np.ndarray]) -> Sequence[float | None]:
        """How far each state is from the training data."""
        if self._novelty is None:
            return [None] * len(states)
        scores = self._novelty.score(np.asarray(states, dtype=np.float32)).tolist()
        self._scored.update(zip(robots, scores, strict=True))
        return scores


def _columns(rows: list[tuple[str, Observation]]) -> tuple[list[str], list[int], list[np.ndarray]]:
    return [robot for robot, _ in rows], [seen.step for _, seen in rows], [seen.state for _, seen in rows]


class _Timed:
    """Both levels, and how long they took."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self.plan_ns = 0  # [ns]
        self.act_ns = 0  # [ns]

    def plan(
        self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray
    ) -> np.ndarray | Sequence[ArrayLike]:
        started = perf_counter_ns()
        subgoal = self._levels.plan(state, goal, mask, noise)
        self.plan_ns += perf_counter_ns() - started
        return subgoal

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        started = perf_counter_ns()
        action = self._levels.act(state, subgoal, noise)
        self.act_ns += perf_counter_ns() - started
        return action
