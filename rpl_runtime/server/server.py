"""A server's life: listen, warm up, serve, drain, stop.

In: bundles and an address. Out: a server at that address, until it is told to stop. What is answered is service.py's
business; here is what surrounds it: health, reflection, connections.

One event loop serves everything. A synchronous server with a thread for each stream, uvloop, Unix domain sockets and
gRPC's own settings cost a robot the same within the noise (docs/lab-notes.md), and none of them needs fewer words.
"""

import asyncio
import contextlib
import logging
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
from rpl_runtime.wire import admin as admin_wire
from rpl_runtime.wire import control as codec

_LOG = logging.getLogger(__name__)
_SHORT_CALLS = 64  # of a connection at once, beside its Control streams
_GOODBYE_S = 1.0  # [s] for the last answers to reach those they are for
_SILENCE_S = 3.0  # [s] after which a client is asked for a sign of life, and again after which it counts as gone


@dataclass(frozen=True)
class ServerConfig:
    address: str = "127.0.0.1:50051"  # or unix:PATH; port 0 takes a free one
    drain_s: float = 5.0  # [s] for which runs may go on when the server stops
    security: SecurityConfig = field(default_factory=SecurityConfig)
    quotas: QuotaConfig = field(default_factory=QuotaConfig)
    max_models: int = 8
    max_robots: int = 1024
    idle_s: float = 300.0  # [s] after which a robot that says nothing is free again
    metrics: str | None = None  # HOST:PORT of a page for Prometheus
    traces: str | None = None  # http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector
    reflection: bool | None = None  # whether the service describes itself; None: on this machine alone


Bundles = Bundle | Sequence[Bundle]  # the first is the default of calls that name no model


def serve(bundles: Bundles, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once robots may come.

    The first signal leaves the runs there are some time, a second one none.

    Raises:
        AddressInUse: the port is taken.
        InvalidInput: the address cannot be listened on, or not as the settings say; or two bundles have one name.
        BundleError: a bundle cannot be run.
    """

    async def main() -> None:
        stop = _Stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.tell)
        await _serve(bundles, config, on_ready, stop)

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
        stopper.set_result(lambda: loop.call_soon_threadsafe(stop.tell))
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
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended by itself
            stopper.result()()
        thread.join()


async def _serve(bundles: Bundles, config: ServerConfig, on_ready: Callable[[str], None], stop: "_Stop") -> None:
    models = Models(config.max_models)
    for bundle in [bundles] if isinstance(bundles, Bundle) else bundles:
        if models.put(model_of(bundle)) is not None:
            raise InvalidInput(
                f"two of the bundles to be served are named {bundle.spec.name!r}; must be one of each name "
                f"(`rpl export --name` gives another)"
            )
    leases = Leases(config.max_robots)
    streams = Streams(models, leases)
    admission = Admission(Gate(config.address, config.security), Quotas(config.quotas), models)
    readiness = Readiness(models)
    with contextlib.ExitStack() as around:
        observers = _observers(config, leases, streams, around)
        service = Service(admission, streams, observers)
        admin = AdminService(admission, models, streams, readiness.tell, observers)

        server = grpc.aio.server(options=_options(config))
        for name, handlers in ((codec.SERVICE, service.handlers()), (admin_wire.SERVICE, admin.handlers())):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
        if is_local(config.address) if config.reflection is None else config.reflection:
            names = (codec.SERVICE, admin_wire.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)

        address = listen(server, config.address, config.security)
        await readiness.tell()
        await server.start()
        reaping = asyncio.create_task(_reap(streams, config.idle_s))
        try:
            for model in models.active:
                await asyncio.to_thread(model.policy.warm_up)
            await readiness.begin()
            on_ready(address)
            await stop.told.wait()
        finally:
            reaping.cancel()
            await readiness.end()
            await streams.drain(config.drain_s, stop.hurry)
            await server.stop(_GOODBYE_S)


def _observers(
    config: ServerConfig, leases: Leases, streams: Streams, around: contextlib.ExitStack
) -> Sequence[Observer]:
    """Who looks on, for as long as what is around the server lasts."""
    observers: list[Observer] = [CallLog]
    if config.metrics:
        metrics = Metrics(leases.__len__, streams.__len__)
        around.enter_context(exposing(metrics, config.metrics))
        observers.append(lambda method, metadata, peer: metrics)
    if config.traces:
        observers.append(around.enter_context(tracing(config.traces)))
    return observers


class _Stop:
    """That the server is to stop, and that it is to stop now."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.hurry = asyncio.Event()

    def tell(self) -> None:
        (self.hurry if self.told.is_set() else self.told).set()


class Readiness:
    """What the standard health check says: "" lives, the service and each model by its name are ready."""

    def __init__(self, models: Models) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._models = models
        self._ready = False
        self._told: set[str] = set()

    async def begin(self) -> None:
        """From now on the models answer."""
        self._ready = True
        await self.tell()

    async def end(self) -> None:
        """From now on nothing is to be asked any more; which nothing changes again."""
        await self.servicer.enter_graceful_shutdown()

    async def tell(self) -> None:
        """Say of each model that there is, or was, whether it answers."""
        status = health_pb2.HealthCheckResponse
        active = {codec.SERVICE} | {model.name for model in self._models.active}
        await self.servicer.set("", status.SERVING)
        for name in active | self._told:
            await self.servicer.set(name, status.SERVING if self._ready and name in active else status.NOT_SERVING)
        self._told |= active


async def _reap(streams: Streams, idle_s: float) -> None:
    while True:
        await asyncio.sleep(idle_s / 4)
        for robot in streams.reap(idle_s):
            _LOG.warning("robot %r said nothing for %g s; its run is over", robot, idle_s, extra={"robot": robot})


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    silence_ms = round(_SILENCE_S * 1e3)
    return [
        ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
        ("grpc.max_receive_message_length", codec.MAX_MESSAGE_BYTES),
        # Of a connection; further calls wait at the client, so there is room for those that are over soon.
        ("grpc.max_concurrent_streams", config.quotas.streams + _SHORT_CALLS),
        # A robot whose machine vanished without a goodbye must not stay leased, or it could not resume in time.
        ("grpc.keepalive_time_ms", silence_ms),
        ("grpc.keepalive_timeout_ms", silence_ms),
        ("grpc.http2.ping_timeout_ms", silence_ms),  # a minute by default, which overrides the above
        ("grpc.http2.max_pings_without_data", 0),  # no limit, for robots that say nothing for long
        ("grpc.server_handshake_timeout_ms", silence_ms),  # two minutes by default, for each who says nothing
    ]
