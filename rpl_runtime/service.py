"""The calls of rpl.v1.RelayPolicy: bytes of a request in, bytes of a reply out.

In: a bundle. Out: a handler for each call, which an asyncio gRPC server takes. It does not know where the server
listens, nor how it starts and stops; bytes and values are codec.py's business, the runs of a stream those of runs.py.

All calls share one thread, the event loop: no lock is needed around the leases, and none is taken. The small networks
run on it as well, since handing one over to a thread costs more than running it. What could keep it from answering a
health check is bounded: a message of Control by its rows, a larger batch of Plan or Act by going to a thread.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter_ns
from typing import NoReturn

import grpc
import grpc.aio
import numpy as np

from rpl_runtime import codec, describe
from rpl_runtime.bundle import Bundle, read_files
from rpl_runtime.errors import BundleError, InvalidInput, RelayError
from rpl_runtime.messages import FileInfo, ModelInfo
from rpl_runtime.policy import OnnxPolicy
from rpl_runtime.runs import Runs
from rpl_runtime.spec import ResolvedGoal

_LOG = logging.getLogger(__name__)
_INLINE_ROWS = 64  # a larger batch of Plan or Act goes to a thread, so that no robot waits for it
_INTERNAL = "the server failed to answer; its own log says why"


class Service:
    """The five calls over raw bytes.

    Raises:
        BundleError: the bundle cannot be run.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.policy = OnnxPolicy(bundle)
        self._bundle = bundle
        self._files = read_files(bundle)
        self._leases: set[str] = set()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The call of each method, by name. Without (de)serialisers: codec errors are answered here."""
        return {
            "Describe": grpc.unary_unary_rpc_method_handler(self._guarded(self._describe)),
            "Fetch": grpc.unary_stream_rpc_method_handler(self._fetch),
            "Plan": grpc.unary_unary_rpc_method_handler(self._guarded(self._plan)),
            "Act": grpc.unary_unary_rpc_method_handler(self._guarded(self._act)),
            "Control": grpc.stream_stream_rpc_method_handler(self._control),
        }

    def _guarded(self, call: Callable[[bytes], Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
        async def guarded(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            try:
                self._check_digest(context)
                return await call(request)
            except Exception as error:
                await _abort(context, error)

        return guarded

    def _check_digest(self, context: grpc.aio.ServicerContext) -> None:
        asked = dict(context.invocation_metadata() or ()).get(codec.DIGEST_KEY)
        if asked not in (None, self._bundle.digest):
            raise BundleError(
                f"the server runs bundle {self._bundle.digest[:12]}; this call is for bundle {str(asked)[:12]} alone"
            )

    async def _describe(self, request: bytes) -> bytes:
        files = {
            name: FileInfo(len(content), hashlib.sha256(content).hexdigest()) for name, content in self._files.items()
        }
        bundle = self._bundle
        return describe.pack_model(ModelInfo(bundle.spec, bundle.digest, bundle.manifest.schema_version, files))

    async def _fetch(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            self._check_digest(context)
        except BundleError as error:
            await _abort(context, error)
        for name, content in self._files.items():
            for chunk in describe.pack_chunks(name, content):
                yield chunk

    async def _plan(self, request: bytes) -> bytes:
        spec = self._bundle.spec
        state, goal, mask, noise = codec.unpack_plan_request(request, spec)

        def plan() -> np.ndarray:
            for row in range(len(state)):
                spec.state.check("state", state[row])
                spec.check_goal(ResolvedGoal(goal[row], mask[row]))
            return self.policy.plan(state, goal, mask, _finite("noise", noise))

        return codec.pack_subgoals(await _run(plan, len(state)))

    async def _act(self, request: bytes) -> bytes:
        spec = self._bundle.spec
        state, subgoal, noise = codec.unpack_act_request(request, spec)

        def act() -> np.ndarray:
            for row in range(len(state)):
                spec.state.check("state", state[row])
                spec.state.check_finite("subgoal", subgoal[row])
            return self.policy.act(state, subgoal, _finite("noise", noise))

        return codec.pack_actions(await _run(act, len(state)))

    async def _control(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        runs = Runs(self.policy, self._bundle, self._leases)
        try:
            self._check_digest(context)
            while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                started = perf_counter_ns()
                rows = codec.unpack_request(request)
                replies, times = runs.answer(rows, started)
                await context.write(codec.pack_reply(replies, times))
        except Exception as error:
            await _abort(context, error)
        finally:
            runs.close()


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call with the status of an error; what a foreign one says stays in the server's log."""
    if not isinstance(error, RelayError):
        _LOG.error("a call failed", exc_info=error)
        error = RelayError(_INTERNAL)
    reason = (("rpl-reason", type(error).__name__),)
    await context.abort(codec.status_of(error), str(error), trailing_metadata=reason)


async def _run(level: Callable[[], np.ndarray], rows: int) -> np.ndarray:
    return level() if rows <= _INLINE_ROWS else await asyncio.to_thread(level)


def _finite(what: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InvalidInput(f"the {what} has numbers that are not finite; allowed is any finite number")
    return values
