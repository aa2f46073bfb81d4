"""The gRPC server: relay loops for robots that speak rpl.v1.

In: a bundle and an address. Out: a service that plans, acts, and runs the relay loop of every robot on a Control
stream. It does not know simulators or robots; bytes and values are codec.py's business.

The small networks run on the event loop itself: handing one over to a thread costs more than running it.
"""

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter_ns
from typing import NoReturn

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpl_runtime import codec, describe
from rpl_runtime.bundle import Bundle, read_files
from rpl_runtime.errors import AddressInUse, BundleError, InvalidInput, RelayError
from rpl_runtime.messages import FileInfo, ModelInfo
from rpl_runtime.policy import OnnxPolicy
from rpl_runtime.runs import Runs
from rpl_runtime.spec import ResolvedGoal

_LOG = logging.getLogger(__name__)
_INLINE_ROWS = 64  # a larger batch of Plan or Act goes to a thread, so that no robot waits for it
_SILENCE_S = 3.0  # [s] after which a client is asked for a sign of life, and again after which it counts as gone
_INTERNAL = "the server failed to answer; its own log says why"


@dataclass(frozen=True)
class ServerConfig:
    address: str = "127.0.0.1:50051"  # port 0 takes a free one
    drain_s: float = 5.0  # [s] how long calls under way may take to end when the server stops


def serve(bundle: Bundle, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once robots may come.

    Raises:
        AddressInUse: the port is taken.
        InvalidInput: the address cannot be listened on.
        BundleError: the bundle cannot be run.
    """

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _serve(bundle, config, on_ready, stop)

    asyncio.run(main())


@contextlib.contextmanager
def serving(bundle: Bundle, config: ServerConfig | None = None) -> Iterator[str]:
    """Serve from a thread of this process for the length of the block; its value is the address.

    Raises:
        As `serve`.
    """
    config = config or ServerConfig(address="127.0.0.1:0")
    ready: Future[str] = Future()
    stopper: Future[Callable[[], object]] = Future()

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stopper.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            await _serve(bundle, config, ready.set_result, stop)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="rpl-server")
    thread.start()
    try:
        yield ready.result()
    finally:
        if thread.is_alive():
            stopper.result()()
        thread.join()


async def _serve(bundle: Bundle, config: ServerConfig, on_ready: Callable[[str], None], stop: asyncio.Event) -> None:
    service = _Service(bundle)
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
            ("grpc.max_receive_message_length", codec.MAX_MESSAGE_BYTES),
            # A robot whose machine vanished without a goodbye must not stay leased, or it could not resume in time.
            ("grpc.keepalive_time_ms", round(_SILENCE_S * 1e3)),
            ("grpc.keepalive_timeout_ms", round(_SILENCE_S * 1e3)),
            ("grpc.http2.ping_timeout_ms", round(_SILENCE_S * 1e3)),  # a minute by default, which overrides the above
            ("grpc.http2.max_pings_without_data", 0),  # no limit, for robots that say nothing for long
        ]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(codec.SERVICE, service.handlers()),))
    readiness = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    reflection.enable_server_reflection((codec.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    address = _listen(server, config.address)
    names = (codec.SERVICE, bundle.spec.name)
    for name in names:
        await readiness.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    await server.start()
    await readiness.set("", health_pb2.HealthCheckResponse.SERVING)
    await asyncio.to_thread(service.policy.warm_up)
    for name in names:
        await readiness.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        on_ready(address)
        await stop.wait()
    finally:
        await readiness.enter_graceful_shutdown()
        await server.stop(config.drain_s)


class _Service:
    """The five calls of rpl.v1.RelayPolicy over raw bytes."""

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


def _listen(server: grpc.aio.Server, address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"the address is {address!r}; allowed is HOST:PORT with a port from 0 to 65535")
    try:
        return f"{host}:{server.add_insecure_port(address)}"
    except RuntimeError as error:
        raise _why_not(host, int(port)) from error


def _why_not(host: str, port: int) -> RelayError:
    """What stands against listening on an address: gRPC itself only says that it failed."""
    host = host.strip("[]")
    try:
        family, *_ = socket.getaddrinfo(host, port)[0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return AddressInUse(f"{host}:{port} is taken by another program; choose another port, or 0 for a free one")
        why = os.strerror(error.errno or errno.EADDRNOTAVAIL)
        return InvalidInput(f"cannot listen on {host}:{port}: {why}; allowed is an address of this machine")
    return AddressInUse(f"{host}:{port} was taken by another program just now; try again")
