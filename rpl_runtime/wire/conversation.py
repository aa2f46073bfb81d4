"""One Control stream, from the bytes of a message to the bytes of its reply: the path of every step, top to bottom.

A message of one plain step is answered here: its bytes are copied into the low level's bound input, and the action into
the reply, without Python values between. Everything else takes the ordinary path: requests as values (control.py) for
the session (relay/session.py). Both paths give the same bytes and leave the run in the same state.
"""

from collections.abc import Callable
from time import perf_counter_ns

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.relay.loop import Run
from rpl_runtime.relay.messages import StageTimes, valid_until_ns
from rpl_runtime.relay.session import Answer, PlainSteps, Rows, Session
from rpl_runtime.wire.control import TWINS, Message, pack_reply, parse, unpack_rows

_FLOATS = np.dtype("<f4")


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
        self._state_bytes = spec.state.dim * _FLOATS.itemsize
        self._modes = np.zeros((1, spec.high_noise), np.float32), np.zeros(spec.low_noise, np.float32)
        self._sampled: Run | None = None  # the run of the last message, if its next step needs noise
        self.said: PlainSteps | tuple[Rows, Answer] | None = None  # by the last reply, for observers

    def answer(self, raw: bytes, received_ns: int) -> bytes:
        """The reply to a message that was received at a time [ns] of `perf_counter_ns`.

        Raises:
            InvalidInput, ProtocolViolation: the message cannot be read, as `control.unpack_request` says.
            LimitReached: there are too many of them.
        """
        message = parse("ControlRequest", raw, InvalidInput)
        self._count(len(message.rows), len(raw))
        if len(message.rows) == 1 and (reply := self._plain_step(message.rows[0], received_ns)) is not None:
            return reply
        rows = unpack_rows(message)
        answer = self._session.answer(rows, received_ns)
        self.said = rows, answer
        return pack_reply(*answer)

    def prepare(self) -> None:
        """Draw the noise of the robot's next step, once the reply is on its way."""
        run, self._sampled = self._sampled, None
        if run is not None:
            run.drawn = run.step, self._low_noise(run)

    def _plain_step(self, row: Message, received_ns: int) -> bytes | None:
        """The reply to one plain step; None: it is anything else, or at fault, and nothing has changed."""
        session, policy, spec = self._session, self._policy, self._spec
        robot, seen = row.robot, row.observation
        state_bytes, step = seen.state, seen.step
        run = session.loop.runs.get(robot)
        # A row of another kind reads as an observation without a state.
        if run is None or run.step != step or len(state_bytes) != self._state_bytes or run.override or run.resumed:
            return None  # also while its subgoal is pinned, which is an override
        age, subgoal, seed = step - run.planned_at, run.subgoal, run.seed
        left = spec.horizon - age  # [steps] for which the subgoal is still followed
        replans = subgoal is None or (left == 0 and run.upcoming is None)
        if not replans and left in (0, run.lead):
            return None  # a plan made ahead takes effect, or must be made

        low = policy.low
        state, followed, noise = low.inputs
        state[0] = np.frombuffer(state_bytes, _FLOATS)
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
        followed[0] = subgoal
        if seed is None:
            noise[0] = low_mode
        elif run.drawn is not None and run.drawn[0] == step:
            noise[0] = run.drawn[1]
        else:
            noise[0] = self._low_noise(run)
        began_ns = perf_counter_ns()
        low.run_one()
        acted_ns = perf_counter_ns()
        if not spec.action.accepts(low.output):
            return None

        run.step = step + 1
        if replans:
            run.subgoal, run.planned_at, run.upcoming = subgoal, step, None
        session.heard_ns[robot] = received_ns
        novelty = None if session.score is None else session.score(state)[0].item()
        if novelty is not None:
            session.novelty[robot] = novelty

        reply = TWINS["ControlReply"]()
        action = reply.rows.add(robot=robot).action
        action.target = low.output.astype(_FLOATS, copy=False).tobytes()
        action.age = age
        action.valid_until_ns = valid_until_ns(seen.observed_ns, session.period_ns)
        if replans:
            action.replanned = True
            action.subgoal = followed.astype(_FLOATS, copy=False).tobytes()
        if novelty is not None:
            action.novelty = novelty
        times = session.times = StageTimes(
            (decoded_ns - received_ns) / 1e3,
            (planned_ns - decoded_ns) / 1e3,
            (acted_ns - began_ns) / 1e3,
            (perf_counter_ns() - received_ns) / 1e3,
        )
        stages = reply.times
        stages.decode_us, stages.plan_us, stages.act_us, stages.total_us = times
        self._sampled = None if seed is None else run
        new = ((robot, step, novelty),) if replans else ()
        self.said = PlainSteps(1, new, int(novelty is not None and novelty > FLAGGED), times)
        return reply.SerializeToString()

    def _low_noise(self, run: Run) -> np.ndarray:
        return self._session.loop.noise.draw(run.seed or 0, run.key, "low", run.step, self._spec.low_noise)
