"""The calls of rpl.v1.RelayPolicy: bytes of a request in, bytes of a reply out.

In: who is admitted, and the streams there are. Out: a handler for each call, which an asyncio gRPC server takes. It
does not know where the server listens, nor how it starts and stops; bytes and values are codec.py's business, the runs
of a stream those of relay/session.py.

All calls share one thread, the event loop: no lock is needed around the leases, and none is taken. The small networks
run on it as well, since handing one over to a thread costs more than running it. What could keep it from answering a
health check is bounded: a message of Control by its rows, a larger batch of Plan or Act by going to a thread.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import perf_counter_ns
from typing import NoReturn

import grpc
import grpc.aio
import numpy as np

from rpl_runtime.errors import InvalidInput, RelayError
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.server.admission import Admission, Caller
from rpl_runtime.server.models import Model
from rpl_runtime.server.streams import Stream, Streams
from rpl_runtime.telemetry.observer import CallObserver, Observer
from rpl_runtime.wire import bundles as describe
from rpl_runtime.wire import control as codec

_INLINE_ROWS = 64  # a larger batch of Plan or Act goes to a thread, so that no robot waits for it
_INTERNAL = "the server failed to answer; its own log says why"


class Service:
    """The five calls over raw bytes.

    Args:
        admission: who may call, and which model a call is for.
        streams: the Control streams there are.
        observers: look on.
    """

    def __init__(self, admission: Admission, streams: Streams, observers: Sequence[Observer] = ()) -> None:
        self._admission = admission
        self._streams = streams
        self._observers = observers

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The call of each method, by name. Without (de)serialisers: codec errors are answered here."""
        return {
            "Describe": grpc.unary_unary_rpc_method_handler(self._guarded("Describe", _describe)),
            "Fetch": grpc.unary_stream_rpc_method_handler(self._fetch),
            "Plan": grpc.unary_unary_rpc_method_handler(self._guarded("Plan", _plan)),
            "Act": grpc.unary_unary_rpc_method_handler(self._guarded("Act", _act)),
            "Control": grpc.stream_stream_rpc_method_handler(self._control),
        }

    def _guarded(
        self, method: str, call: Callable[[Model, bytes], Awaitable[bytes]]
    ) -> Callable[..., Awaitable[bytes]]:
        async def guarded(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with watching(self._observers, method, context) as watch:
                _, model = self._admit(method, context, watch)
                return await call(model, request)

        return guarded

    def _admit(self, method: str, context: grpc.aio.ServicerContext, watch: "Watch") -> tuple[Caller, Model]:
        metadata = context.invocation_metadata() or ()
        caller, model = self._admission.caller(method, metadata, context.peer()), self._admission.model(metadata)
        for observer in watch:
            observer.admitted(caller.name, model.info)
        return caller, model

    async def _fetch(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async with watching(self._observers, "Fetch", context) as watch:
            _, model = self._admit("Fetch", context, watch)
            for name, content in model.files.items():
                for chunk in describe.pack_chunks(name, content):
                    yield chunk

    async def _control(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async with watching(self._observers, "Control", context) as watch:
            caller, model = self._admit("Control", context, watch)
            with self._streams.open(caller, model, context.peer()) as stream:
                try:
                    await self._converse(stream, context, watch)
                except asyncio.CancelledError:
                    if stream.ended is None:
                        raise  # by the client
                    raise stream.ended from None

    async def _converse(self, stream: Stream, context: grpc.aio.ServicerContext, watch: "Watch") -> None:
        while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            stream.caller.share.take_message(time.monotonic())
            started = perf_counter_ns()
            rows = codec.unpack_request(request)
            answer = stream.session.answer(rows, started)
            await context.write(codec.pack_reply(*answer))
            for observer in watch:
                observer.answered(rows, answer, stream.model.info)
            self._streams.check(stream)


Watch = Sequence[CallObserver]  # on one call


@asynccontextmanager
async def watching(
    observers: Sequence[Observer], method: str, context: grpc.aio.ServicerContext
) -> AsyncIterator[Watch]:
    """Have a call looked on, and end it with the status of the error that comes out of it."""
    watch = [observer(method, context.invocation_metadata() or (), context.peer()) for observer in observers]
    try:
        yield watch
    except Exception as error:
        for observer in watch:
            observer.failed(error)
        await _abort(context, error)
    finally:
        for observer in watch:
            observer.ended()


async def _describe(model: Model, request: bytes) -> bytes:
    return describe.pack_model(model.info)


async def _plan(model: Model, request: bytes) -> bytes:
    spec = model.bundle.spec
    state, goal, mask, noise = codec.unpack_plan_request(request, spec)

    def plan() -> np.ndarray:
        for row in range(len(state)):
            spec.state.check("state", state[row])
            spec.check_goal(ResolvedGoal(goal[row], mask[row]))
        return model.policy.plan(state, goal, mask, _finite("noise", noise))

    return codec.pack_subgoals(await _run(plan, len(state)))


async def _act(model: Model, request: bytes) -> bytes:
    spec = model.bundle.spec
    state, subgoal, noise = codec.unpack_act_request(request, spec)

    def act() -> np.ndarray:
        for row in range(len(state)):
            spec.state.check("state", state[row])
            spec.state.check_finite("subgoal", subgoal[row])
        return model.policy.act(state, subgoal, _finite("noise", noise))

    return codec.pack_actions(await _run(act, len(state)))


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call with the status of an error; what a foreign one says is for those who look on."""
    if not isinstance(error, RelayError):
        error = RelayError(_INTERNAL)
    reason = (("rpl-reason", type(error).__name__),)
    await context.abort(codec.status_of(error), str(error), trailing_metadata=reason)


async def _run(level: Callable[[], np.ndarray], rows: int) -> np.ndarray:
    return level() if rows <= _INLINE_ROWS else await asyncio.to_thread(level)


def _finite(what: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InvalidInput(f"the {what} has numbers that are not finite; must be any finite number")
    return values
