"""A server's life: listen, warm up, serve, drain, stop.

One event loop serves everything. A synchronous server with a thread for each stream, uvloop, Unix domain sockets and
other gRPC settings were measured to cost a robot the same within the noise (docs/lab-notes.md).
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpl_runtime.auth.quotas import QuotaConfig, Quotas
from rpl_runtime.auth.server import Gate, SecurityConfig, is_local
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.relay.leases import Leases
from rpl_runtime.server.address import listen
from rpl_runtime.server.admin_service import AdminService
from rpl_runtime.server.admission import Admission
from rpl_runtime.server.models import Models, model_of
from rpl_runtime.server.service import Service
from rpl_runtime.server.streams import Streams
from rpl_runtime.telemetry.call_log import CallLog
from rpl_runtime.telemetry.metrics import Metrics, exposing
from rpl_runtime.telemetry.observer import Observer
from rpl_runtime.telemetry.tracing import tracing
from rpl_runtime.wire import admin, control

_SHORT_CALLS = 64  # of one connection at once, beside its Control streams
_GOODBYE_S = 1.0  # [s] for the last answers to reach their clients
_SILENCE_S = 3.0  # [s] of silence before a client is pinged, and again before it counts as gone


@dataclass(frozen=True)
class ServerConfig:
    address: str = "127.0.0.1:50051"  # or unix:PATH; port 0 takes a free one
    drain_s: float = 5.0  # [s] that runs have to end when the server stops
    security: SecurityConfig = field(default_factory=SecurityConfig)
    quotas: QuotaConfig = field(default_factory=QuotaConfig)
    max_models: int = 8  # in memory, including replaced ones still in use
    max_robots: int = 1024  # that run at once
    idle_s: float = 300.0  # [s] of silence after which a robot's run ends
    metrics: str | None = None  # HOST:PORT of a page for Prometheus
    traces: str | None = None  # http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector
    reflection: bool | None = None  # gRPC reflection; None: only if the address is local


Bundles = Bundle | Sequence[Bundle]  # the first is the default of calls that name no model


def serve(bundles: Bundles, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once robots may start.

    After the first signal, open runs have drain_s to end; a second signal ends them at once.

    Raises:
        AddressInUse: the port is taken.
        InvalidInput: the address or a setting is not acceptable, or two bundles have the same name.
        BundleError: a bundle cannot be run.
    """

    async def main() -> None:
        stop = _Stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.request)
        await _serve(bundles, config, on_ready, stop)

    for bundle in [bundles] if isinstance(bundles, Bundle) else bundles:
        open_policy(bundle)  # no signal is handled yet, so each ends the trial of a bundle
    asyncio.run(main())


@contextlib.contextmanager
def serve_in_thread(bundles: Bundles, config: ServerConfig | None = None) -> Iterator[str]:
    """Serve from a thread of this process for the length of the block; its value is the address.

    Raises:
        As `serve`.
    """
    config = config or ServerConfig(address="127.0.0.1:0")
    ready: Future[str] = Future()
    stopper: Future[Callable[[], object]] = Future()

    async def main() -> None:
        stop, loop = _Stop(), asyncio.get_running_loop()
        stopper.set_result(lambda: loop.call_soon_threadsafe(stop.request))
        try:
            await _serve(bundles, config, ready.set_result, stop)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="rpl-server")
    thread.start()
    try:
        yield ready.result()
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended already
            stopper.result()()
        thread.join()


async def _serve(bundles: Bundles, config: ServerConfig, on_ready: Callable[[str], None], stop: "_Stop") -> None:
    models = Models(config.max_models)
    for bundle in [bundles] if isinstance(bundles, Bundle) else bundles:
        if models.put(model_of(bundle)) is not None:
            raise InvalidInput(
                f"two of the bundles to be served are named {bundle.spec.name!r}; each name must be used once "
                f"(`rpl export --name` gives another)"
            )
    leases = Leases(config.max_robots)
    streams = Streams(models, leases)
    readiness = _Readiness(models)
    with contextlib.ExitStack() as around:
        observers: list[Observer] = [CallLog]
        if config.metrics:
            metrics = Metrics(leases.__len__, streams.__len__)
            around.enter_context(exposing(metrics, config.metrics))
            observers.append(lambda method, metadata, peer: metrics)
        if config.traces:
            observers.append(around.enter_context(tracing(config.traces)))
        admission = Admission(Gate(config.address, config.security), Quotas(config.quotas), models, observers)
        services = {
            control.SERVICE: Service(admission, streams).handlers(),
            admin.SERVICE: AdminService(admission, models, streams, readiness.update).handlers(),
        }

        server = grpc.aio.server(options=_options(config.quotas))
        for name, handlers in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
        if is_local(config.address) if config.reflection is None else config.reflection:
            reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

        address = listen(server, config.address, config.security)
        await readiness.update()
        await server.start()
        reaping = asyncio.create_task(streams.reap(config.idle_s))
        try:
            await readiness.begin()
            on_ready(address)
            await stop.requested.wait()
        finally:
            reaping.cancel()
            await readiness.servicer.enter_graceful_shutdown()  # NOT_SERVING from here on
            await streams.drain(config.drain_s, stop.hurry)
            await server.stop(_GOODBYE_S)


class _Stop:
    """Requests to stop the server; a second request means at once."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurry = asyncio.Event()

    def request(self) -> None:
        (self.hurry if self.requested.is_set() else self.requested).set()


class _Readiness:
    """The standard health check: "" for liveness, the service and each model's name for readiness."""

    def __init__(self, models: Models) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._models = models
        self._ready = False
        self._told: set[str] = set()

    async def begin(self) -> None:
        """The models answer from now on."""
        self._ready = True
        await self.update()

    async def update(self) -> None:
        """Report the status of every model that is or was served."""
        status = health_pb2.HealthCheckResponse
        active = {control.SERVICE} | {model.name for model in self._models.active}
        await self.servicer.set("", status.SERVING)
        for name in active | self._told:
            await self.servicer.set(name, status.SERVING if self._ready and name in active else status.NOT_SERVING)
        self._told |= active


def _options(quotas: QuotaConfig) -> list[tuple[str, int]]:
    silence_ms = round(_SILENCE_S * 1e3)
    return [
        ("grpc.so_reuseport", 0),  # or a second server would silently share the port
        ("grpc.max_receive_message_length", control.MAX_MESSAGE_BYTES),
        # Of one connection. Further calls wait at the client, so short calls need room beside the streams.
        ("grpc.max_concurrent_streams", quotas.streams + _SHORT_CALLS),
        # If a robot's machine vanishes, its lease must end soon enough for the robot to resume.
        ("grpc.keepalive_time_ms", silence_ms),
        ("grpc.keepalive_timeout_ms", silence_ms),
        ("grpc.http2.ping_timeout_ms", silence_ms),  # a minute by default, which overrides the above
        ("grpc.http2.max_pings_without_data", 0),  # no limit, for robots that are silent for long
        ("grpc.server_handshake_timeout_ms", silence_ms),  # two minutes by default, for a client that sends nothing
    ]
