"""One Control stream, from the bytes of a message to the bytes of its reply: the path of every step, top to bottom.

A message of one plain step is answered here: its bytes are read as the low level's input, and the action is written to
the reply, without Python values between; such steps of several streams may share a call of the low level. So is a step
of many robots in columns, whose blocks stay arrays. Everything else takes the ordinary path: requests as values
(control.py) for the session (relay/session.py). All paths give the same actions and leave the runs in the same state.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from rpl_runtime.errors import ProtocolViolation, RelayError
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.messages import NOTHING, Actions, Observation, Observations, StageTimes, valid_until_ns
from rpl_runtime.relay.plans import Coming
from rpl_runtime.relay.run_state import Run
from rpl_runtime.relay.session import Answer, Answering, PlainSteps, Rows, Session
from rpl_runtime.wire.columns import fill_columns, unpack_columns
from rpl_runtime.wire.control import fill_rows, pack_reply, parse_request, unpack_rows
from rpl_runtime.wire.packed import FLOATS, TWINS, Message


class Later(NamedTuple):
    """A reply that waits for answers of a planner."""

    awaited: list[Coming]
    go_on: Callable[[], "bytes | Later"]  # to be called once they are settled


class Undecided(NamedTuple):
    """A reply that lacks its action, from one row of the low level; until then no other message of the stream comes."""

    policy: OnnxPolicy
    row: tuple[np.ndarray, ...]  # inputs (dim,) of the low level
    go_on: Callable[[np.ndarray], bytes | Later]  # to be called with the action (1, m)

    def alone(self) -> bytes | Later:
        """The reply, by a call of the low level for this row."""
        return self.go_on(self.policy.low.run_one(*self.row))


def decide(undecided: Sequence[Undecided]) -> list[Callable[[], bytes | Later]]:
    """What makes each reply. Those of one policy share a call of its low level, unless that fails."""
    makes: list[Callable[[], bytes | Later]] = [reply.alone for reply in undecided]
    for policy in {reply.policy for reply in undecided} if len(undecided) > 1 else ():
        sharing = [at for at, reply in enumerate(undecided) if reply.policy is policy]
        if len(sharing) == 1:
            continue
        try:
            actions = policy.act(*map(np.array, zip(*(undecided[at].row for at in sharing), strict=True)))
        except Exception:  # onnxruntime's exceptions share no base class but this one
            sharing, actions = [], ()  # each alone: the row that is at fault fails for itself
        for at, action in zip(sharing, actions, strict=True):
            makes[at] = partial(undecided[at].go_on, action[None])
    return makes


class Conversation:
    """The messages of one stream, in their order.

    Args:
        session: the robots of the stream.
        policy: that the session runs.
        count: is given the number of rows and bytes of a message before it is answered; what it raises is raised on.
    """

    def __init__(self, session: Session, policy: OnnxPolicy, count: Callable[[int, int], None]) -> None:
        self._session = session
        self._count = count
        self._policy = policy
        self._spec = spec = policy.spec
        self._state_bytes = spec.state.dim * FLOATS.itemsize
        self._modes = np.zeros((1, spec.high_noise), np.float32), np.zeros(spec.low_noise, np.float32)
        self._sampled: Run | None = None  # the run of the last message, if its next step needs noise
        self._group: _Group | None = None  # of the last message in columns
        self._due: tuple[str, int, np.ndarray] | None = None  # robot, step and state with which a planner must be asked
        self.said: list[PlainSteps | tuple[Rows, Answer]] = []  # by the last reply, for observers

    def answer(
        self, raw: bytes, received_ns: int, decide_first: Callable[[], None] | None = None
    ) -> bytes | Later | Undecided:
        """The reply to a message that was received at a time [ns] of `perf_counter_ns`.

        With `decide_first` a plain step may be left undecided. All other messages call it first, which decides those
        that came before: each finds the runs as if all had been answered in their order.

        Raises:
            InvalidInput, ProtocolViolation: the message cannot be read, as `control.unpack_request` says.
            LimitReached: there are too many of them.
        """
        message = parse_request(raw)
        in_columns = message.HasField("columns")
        if not in_columns:
            self._count(len(message.rows), len(raw))
            if len(message.rows) == 1:
                reply = self._plain_step(message, received_ns, joins=decide_first is not None)
                if reply is not None:
                    return reply
        if decide_first is not None:
            decide_first()
        if in_columns:
            return self._steps(message, len(raw), received_ns)
        return _reply(self._rows(unpack_rows(message), received_ns))

    def prepare(self) -> None:
        """Ask a planner, and draw the noise of the next steps, once the reply is on its way."""
        due, self._due = self._due, None
        if due is not None:
            self._session.loop.ask_after(*due)
        run, self._sampled = self._sampled, None
        if run is not None:
            run.drawn = run.step, self._low_noise(run)
        if (group := self._group) is not None and group.noise is None:
            group.noise = self._session.loop.noise_rows("low", group.runs, group.steps, self._spec.low_noise)

    def _rows(self, rows: Rows, received_ns: int) -> Answering[bytes]:
        answer = yield from self._session.answering(rows, received_ns)
        self.said = [(rows, answer)]
        return pack_reply(*answer)

    def _plain_step(self, message: Message, received_ns: int, joins: bool) -> bytes | Later | Undecided | None:
        """The reply to a message of one plain step; None: it is anything else, or at fault, and nothing has changed."""
        row = message.rows[0]
        session, policy, spec = self._session, self._policy, self._spec
        robot, seen = row.robot, row.observation
        state_bytes, step = seen.state, seen.step
        run = session.loop.runs.get(robot)
        # A row of another kind reads as an observation without a state.
        if run is None or run.step != step or len(state_bytes) != self._state_bytes or run.override or run.resumed:
            return None  # also while its subgoal is pinned, which is an override
        if run.hand or robot in session.set_goals:
            return None  # the reply tells the client its goal
        age, subgoal, seed = step - run.planned_at, run.subgoal, run.seed
        left = (run.lasts or spec.horizon) - age  # [steps] for which the subgoal is still followed
        if session.loop.planner is not None:
            replans, asks = False, run.asked is None and left <= run.lead
            if subgoal is None or run.answered() or (run.rules.wait and left <= run.lead):
                return None  # the step needs an answer, or has one
            if asks:
                self._due = robot, step, np.frombuffer(state_bytes, FLOATS)
        else:
            replans = subgoal is None or (left <= 0 and run.upcoming is None)
            if not replans and (left <= 0 or left == run.lead):
                return None  # a plan made ahead takes effect, or must be made

        state = np.frombuffer(state_bytes, FLOATS)[None]
        if not spec.state.accepts(state):
            return None
        decoded_ns = planned_ns = perf_counter_ns()
        high_mode, low_mode = self._modes
        if replans:
            drawn = high_mode
            if seed is not None:
                drawn = session.loop.noise.draw(seed, run.key, "high", step, spec.high_noise)[None]
            subgoal, age = policy.plan(state, run.goal.state[None], run.goal.mask[None], drawn)[0], 0
            planned_ns = perf_counter_ns()
            if not np.isfinite(subgoal).all():
                return None
        assert subgoal is not None
        if seed is None:
            noise = low_mode
        elif run.drawn is not None and run.drawn[0] == step:
            noise = run.drawn[1]
        else:
            noise = self._low_noise(run)
        began_ns = perf_counter_ns()

        def decided(target: np.ndarray) -> bytes | Later:
            """The reply, with the action (1, m)."""
            acted_ns = perf_counter_ns()
            if not spec.action.accepts(target):
                return _reply(self._rows(unpack_rows(message), received_ns))

            session.loop.version += 1
            if replans:
                run.follow(subgoal)
            run.step = step + 1
            session.heard_ns[robot] = received_ns
            session.states[robot] = state[0]
            novelty = None if session.score is None else session.score(state)[0].item()
            if novelty is not None:
                session.novelty[robot] = novelty
            [asks] = session.asks_for_help([robot], state, [novelty])

            reply = TWINS["ControlReply"]()
            action = reply.rows.add(robot=robot).action
            action.target = target.astype(FLOATS, copy=False).tobytes()
            action.age = age
            action.valid_until_ns = valid_until_ns(seen.observed_ns, session.period_ns)
            if replans:
                action.replanned = True
                action.subgoal = subgoal.astype(FLOATS, copy=False).tobytes()
            if novelty is not None:
                action.novelty = novelty
            if asks:
                action.help = True
            times = session.times = _times(received_ns, decoded_ns, planned_ns, began_ns, acted_ns)
            stages = reply.times
            stages.decode_us, stages.plan_us, stages.act_us, stages.total_us = times
            self._sampled = None if seed is None else run
            new = ((robot, step, novelty),) if replans else ()
            self.said = [PlainSteps(1, new, int(novelty is not None and novelty > FLAGGED), times)]
            return reply.SerializeToString()

        if joins and policy.joint:
            return Undecided(policy, (state[0], subgoal, noise), decided)
        return decided(policy.low.run_one(state[0], subgoal, noise))

    def _steps(self, message: Message, size: int, received_ns: int) -> bytes | Later:
        """The reply to a step of each of many robots; those whose step is not plain are answered apart, as rows."""
        session, spec, handles = self._session, self._spec, message.columns.handles
        if message.rows:
            raise ProtocolViolation("the message has rows and columns; must be either")
        seen = unpack_columns(message.columns, spec.state.dim)
        self._count(len(seen.steps), size)
        if (group := self._group) is None or (group.handles, group.version) != (handles, session.loop.version):
            group = self._group = _Group(session, handles, seen.handles, spec)
        self.prepare()
        acted, before = self._act(group, seen), group.steps
        rows, fresh = acted.rows, acted.fresh
        whole = isinstance(rows, slice)
        names, apart = group.robots, _NO_ROWS
        if not whole:
            names, apart = [names[row] for row in rows], np.delete(np.arange(len(names)), rows)
        steps, states = before[rows], seen.states[rows]
        group.advance(acted, spec.horizon)
        session.loop.version += 1
        group.version = session.loop.version
        session.heard_ns.update(dict.fromkeys(names, received_ns))
        session.states.update(zip(names, states, strict=True))
        novelty = None if session.score is None else session.score(states)
        found: list[float] = [] if novelty is None else novelty.tolist()
        if found:
            session.novelty.update(zip(names, found, strict=True))
        scores = found or [None] * len(names)
        asking = session.asks_for_help(names, states, scores)

        reply, until_ns = TWINS["ControlReply"](), valid_until_ns(seen.observed_ns, session.period_ns)
        asks = np.flatnonzero(asking) if any(asking) else _NO_ROWS
        ages, new = steps - group.planned_at[rows], group.subgoals[fresh]
        fill_columns(reply, Actions(acted.targets, ages, new, novelty, until_ns, apart, asks))
        times = _times(received_ns, *acted.reached_ns)
        stages = reply.times
        stages.decode_us, stages.plan_us, stages.act_us, stages.total_us = times
        answers = fresh if whole else np.searchsorted(rows, fresh)
        planned = [(names[at], int(steps[at]), scores[at]) for at in answers.tolist()]
        far = 0 if novelty is None else int(np.count_nonzero(novelty > FLAGGED))
        self.said = [PlainSteps(len(names), planned, far, times)]
        if not whole:
            requests = [self._request(group, seen, row) for row in apart.tolist()]
            return _reply(self._apart(requests, reply, times, received_ns))
        session.times = times
        return reply.SerializeToString()

    def _act(self, group: "_Group", seen: Observations) -> "_Acted":
        """The actions of the rows that are plain steps, and new subgoals of those that are due for one."""
        session, policy, spec = self._session, self._policy, self._spec
        steps, subgoals, noise = group.steps, group.subgoals, group.noise
        assert noise is not None
        plain = group.plain & (seen.steps == steps)
        if not spec.state.accepts(seen.states):
            low, high = spec.state.bounds
            plain &= ((seen.states >= low) & (seen.states <= high)).all(axis=1)

        decoded_ns = planned_ns = perf_counter_ns()
        fresh = np.flatnonzero(plain & (steps >= group.due))
        if session.loop.planner is not None:  # which must be asked, or has answered
            plain[fresh] = False
            plain[[row for row in group.asking if group.runs[row].answered()]] = False
            fresh = _NO_ROWS
        if len(fresh):
            runs = [group.runs[row] for row in fresh]
            goals, masks = (np.array(vectors) for vectors in zip(*(run.goal for run in runs), strict=True))
            drawn = session.loop.noise_rows("high", runs, steps[fresh], spec.high_noise)
            subgoals = subgoals.copy()
            subgoals[fresh] = policy.plan(seen.states[fresh], goals, masks, drawn)
            plain &= np.isfinite(subgoals).all(axis=1)
            planned_ns = perf_counter_ns()
        rows: np.ndarray | slice = slice(None) if plain.all() else np.flatnonzero(plain)  # a slice needs no copies
        began_ns = perf_counter_ns()
        targets = np.empty((0, spec.action.dim), np.float32)
        if plain.any():
            targets = policy.act(seen.states[rows], subgoals[rows], noise[rows])
        acted_ns = perf_counter_ns()
        if not spec.action.accepts(targets):
            low, high = spec.action.bounds
            kept = ((targets >= low) & (targets <= high)).all(axis=1)
            rows, targets = np.flatnonzero(plain)[kept], targets[kept]
        if not isinstance(rows, slice):
            fresh = np.intersect1d(fresh, rows)
        return _Acted(rows, fresh, subgoals, targets, (decoded_ns, planned_ns, began_ns, acted_ns))

    def _apart(self, rows: Rows, reply: Message, times: StageTimes, received_ns: int) -> Answering[bytes]:
        answer = yield from self._session.answering(rows, received_ns)
        self.said.append((rows, answer))
        fill_rows(reply, answer.rows)
        self._session.times = times
        return reply.SerializeToString()

    def _request(self, group: "_Group", seen: Observations, row: int) -> tuple[str, Observation | RelayError]:
        if not (robot := group.robots[row]):
            return "", ProtocolViolation(f"no run has the handle {seen.handles[row]}; send a Start first")
        return robot, Observation(int(seen.steps[row]), seen.states[row], seen.observed_ns)

    def _low_noise(self, run: Run) -> np.ndarray:
        return self._session.loop.noise.draw(run.seed or 0, run.key, "low", run.step, self._spec.low_noise)


class _Acted(NamedTuple):
    """What the policy did for a message in columns."""

    rows: np.ndarray | slice  # (P,) those that it answered; a slice: all of them
    fresh: np.ndarray  # (K,) those of them that have a new subgoal
    subgoals: np.ndarray  # (B, n) that are followed now
    targets: np.ndarray  # (P, m) of the answered rows
    reached_ns: tuple[int, int, int, int]  # when it was decoded and planned, when the low level began, and ended


class _Group:
    """The robots of a message in columns, kept for the next one, which nearly always has the same."""

    def __init__(self, session: Session, handles: bytes, numbers: np.ndarray, spec: PolicySpec) -> None:
        runs = session.loop.runs
        self.handles = handles
        self.version = session.loop.version
        self.robots = [session.handles.get(number, "") for number in numbers.tolist()]  # "": none
        self.runs = [runs.get(robot, _NOBODY) for robot in self.robots]
        twice = Counter(self.robots)
        self.plain = np.array(
            [
                run is not _NOBODY
                and not (run.override or run.resumed or run.lead or run.hand or robot in session.set_goals)
                and twice[robot] == 1
                for robot, run in zip(self.robots, self.runs, strict=True)
            ]
        )
        self.sampled = any(run.seed is not None for run in self.runs)
        self.steps = np.array([run.step for run in self.runs])
        self.planned_at = np.array([run.planned_at for run in self.runs])
        followed = np.array([run.subgoal is not None for run in self.runs])
        lasts = np.array([run.lasts or spec.horizon for run in self.runs])
        self.due = np.where(followed, self.planned_at + lasts, self.steps)  # the step of the next plan
        self.asking = [row for row, run in enumerate(self.runs) if run.asked is not None]
        self.due[self.asking] = np.where(followed[self.asking], _NEVER, 0)  # only the answer ends the subgoal
        self.subgoals = np.zeros((len(self.runs), spec.state.dim), np.float32)
        for row, run in enumerate(self.runs):
            if run.subgoal is not None:
                self.subgoals[row] = run.subgoal
        self.noise: np.ndarray | None = None  # (B, low_noise) of the next steps, drawn ahead

    def advance(self, acted: _Acted, horizon: int) -> None:
        """Go on to the next step of the rows that were answered."""
        rows, fresh, before = acted.rows, acted.fresh, self.steps
        self.subgoals = acted.subgoals
        self.planned_at[fresh], self.due[fresh] = before[fresh], before[fresh] + horizon
        for row in fresh:
            self.runs[row].follow(acted.subgoals[row])
        for run in self.runs if isinstance(rows, slice) else [self.runs[row] for row in rows]:
            run.step += 1
        self.steps = before.copy()
        self.steps[rows] += 1
        if self.sampled:
            self.noise = None


def _times(received_ns: int, decoded_ns: int, planned_ns: int, began_ns: int, acted_ns: int) -> StageTimes:
    """How long the stages of a reply took that is complete now."""
    spans_ns = decoded_ns - received_ns, planned_ns - decoded_ns, acted_ns - began_ns, perf_counter_ns() - received_ns
    return StageTimes(*(span_ns / 1e3 for span_ns in spans_ns))


def _reply(answering: Answering[bytes]) -> bytes | Later:
    """The reply, if it waits for no planner (any more)."""
    try:
        awaited = next(answering)
    except StopIteration as end:
        return end.value
    return Later(awaited, lambda: _reply(answering))


_NEVER = 2**62  # [steps]
_NO_ROWS = np.empty(0, np.intp)
_NOBODY = Run(ResolvedGoal(NOTHING, NOTHING), None, 0)
