"""The calls of rpl.v1.RelayPolicy, from the bytes of a request to the bytes of a reply.

All calls run as if in one thread (transport.py), so they need no locks. So do the small networks: handing one over to a
thread costs more than running it. Three bounds keep the server responsive: a caller waits for its turn, a message of
Control has a limited number of rows, and a larger batch of Plan or Act runs in a thread.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter_ns

import grpc
import grpc.aio
import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.planning.planning import FAST_S
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.session import Answer, PlainSteps, Rows, checked
from rpl_runtime.server.admission import Admission
from rpl_runtime.server.streams import Streams
from rpl_runtime.server.transport import converse
from rpl_runtime.server.turns import Turn, Workers
from rpl_runtime.telemetry.observer import CallObserver
from rpl_runtime.wire import bundles, levels
from rpl_runtime.wire.conversation import Later, Undecided

_INLINE_ROWS = 64  # a larger or slower batch of Plan or Act runs in a thread, so that no robot waits for it

Context = grpc.aio.ServicerContext


@dataclass(eq=False)
class Service:
    """The five calls, each named as in relay.proto."""

    admission: Admission  # admits the calls
    streams: Streams  # the open Control streams

    def __post_init__(self) -> None:
        self._batches = Workers(1)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """A handler for each call. They take raw bytes, so that a malformed request gets a status of ours."""
        return {
            "Describe": grpc.unary_unary_rpc_method_handler(self.Describe),
            "Fetch": grpc.unary_stream_rpc_method_handler(self.Fetch),
            "Plan": grpc.unary_unary_rpc_method_handler(self.Plan),
            "Act": grpc.unary_unary_rpc_method_handler(self.Act),
            "Control": grpc.stream_stream_rpc_method_handler(self.Control),
        }

    async def Control(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """For each message of the stream: parse, decide, reply."""
        async with self.admission.policy_call("Control", context) as call:
            with self.streams.open(call.turn.share, call.model, context.peer()) as stream:
                conversation = stream.conversation

                def conclude() -> None:
                    conversation.prepare()
                    _tell(call.observers, conversation.said, call.model.info)
                    self.streams.check(stream)

                def answer(request: bytes, decide_first: Callable[[], None] | None) -> bytes | Later | Undecided:
                    return conversation.answer(request, perf_counter_ns(), decide_first)

                await converse(context, call.turn, answer, conclude)

    async def Describe(self, request: bytes, context: Context) -> bytes:
        """The policy's spec, its digest and its files."""
        async with self.admission.policy_call("Describe", context) as call:
            return bundles.pack_model(call.model.info)

    async def Fetch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Every file of the bundle, in chunks."""
        async with self.admission.policy_call("Fetch", context) as call:
            for name, content in call.model.bundle.files.items():
                for chunk in bundles.pack_chunks(name, content):
                    await call.turn.wait()
                    yield chunk

    async def Plan(self, request: bytes, context: Context) -> bytes:
        """The high level once."""
        async with self.admission.policy_call("Plan", context) as call:
            policy, spec = call.model.policy, call.model.bundle.spec
            with call.turn:
                state, goal, mask, noise = levels.unpack_plan_request(request, spec)
                call.turn.share.take_rows(len(state), len(request), time.monotonic())
                if len(state) > policy.most_plans():
                    got, most = len(state), policy.most_plans()
                    each_s = policy.plan_time_s()
                    raise InvalidInput(f"the batch is {got}, and a row takes {each_s:.2g} s; must be at most {most}")

            def plan() -> np.ndarray:
                for row in range(len(state)):
                    spec.state.check("state", state[row])
                    spec.check_goal(ResolvedGoal(goal[row], mask[row]))
                _check_noise(noise)
                return policy.plan(state, goal, mask, noise)

            inline = len(state) <= _INLINE_ROWS and policy.plan_time_s() <= FAST_S
            return levels.pack_subgoals(await self._run(plan, inline, call.turn))

    async def Act(self, request: bytes, context: Context) -> bytes:
        """The low level once."""
        async with self.admission.policy_call("Act", context) as call:
            policy, spec = call.model.policy, call.model.bundle.spec
            with call.turn:
                state, subgoal, noise = levels.unpack_act_request(request, spec)
                call.turn.share.take_rows(len(state), len(request), time.monotonic())

            def act() -> np.ndarray:
                for row in range(len(state)):
                    spec.state.check("state", state[row])
                    spec.state.check_finite("subgoal", subgoal[row])
                _check_noise(noise)
                return checked(policy.act(state, subgoal, noise), spec.action)

            return levels.pack_actions(await self._run(act, len(state) <= _INLINE_ROWS, call.turn))

    async def _run(self, level: Callable[[], np.ndarray], inline: bool, turn: Turn) -> np.ndarray:
        if not inline:
            return await turn.batch(self._batches, level)
        with turn:
            return level()


def _tell(
    observers: Iterable[CallObserver], said: Iterable[PlainSteps | tuple[Rows, Answer]], model: ModelInfo
) -> None:
    """Tell observers of a reply."""
    for observer in observers:
        for part in said:
            if isinstance(part, PlainSteps):
                observer.stepped(part, model)
            else:
                observer.answered(*part, model)


def _check_noise(noise: np.ndarray) -> None:
    if not np.isfinite(noise).all():
        raise InvalidInput("the noise has numbers that are not finite; must be finite numbers")
