"""A server's life: listen, warm up, serve, drain, stop.

Everything runs as if in one thread, that of the event loop (transport.py).
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from rpl_runtime.auth.quotas import QuotaConfig, Quotas
from rpl_runtime.auth.server import Gate, SecurityConfig, is_local
from rpl_runtime.errors import InvalidInput
from rpl_runtime.planning.planning import Planning, PlanningConfig
from rpl_runtime.planning.port import Observe
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import CPU, check_providers
from rpl_runtime.relay.leases import Leases
from rpl_runtime.server.address import listen
from rpl_runtime.server.admin_service import AdminService
from rpl_runtime.server.admission import Admission
from rpl_runtime.server.models import Models, model_of
from rpl_runtime.server.public import Health, add_public
from rpl_runtime.server.service import Service
from rpl_runtime.server.stop import Stop, stopped_by_signals
from rpl_runtime.server.streams import Streams
from rpl_runtime.server.transport import new_server, run, way_to_serve
from rpl_runtime.server.turns import WORKER, Workers
from rpl_runtime.telemetry.call_log import CallLog
from rpl_runtime.telemetry.metrics import Metrics, exposing
from rpl_runtime.telemetry.observer import Observer
from rpl_runtime.telemetry.tracing import tracing
from rpl_runtime.wire import admin, control

_SHORT_CALLS = 64  # of one connection at once, beside its Control streams
_GOODBYE_S = 1.0  # [s] for the last answers to reach their clients, and as long again for the calls to end
_END_S = 4.0  # [s] after the drain by which the process of a server has ended, or is ended
_TIDY_S = 5.0  # [s] between looks at the memory
_SPARE_BYTES = 50 << 20  # of memory that may stay unused
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
    providers: str = CPU  # ONNX Runtime's execution providers, preferred first, separated by commas
    metrics: str | None = None  # HOST:PORT of a page for Prometheus
    traces: str | None = None  # http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector
    reflection: bool | None = None  # gRPC reflection; None: only if the address is local
    planning: PlanningConfig = field(default_factory=PlanningConfig)


Bundles = Bundle | Sequence[Bundle]  # the first is the default of calls that name no model


def serve(bundles: Bundles, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once robots may start.

    After the first signal, open runs have drain_s to end; a second signal ends them at once. A process that cannot stop
    is ended, 4 s after the drain or 1.5 s after the second signal.

    Raises:
        AddressInUse: the port is taken.
        InvalidInput: the address or a setting is not acceptable, an execution provider is not installed, or two bundles
            have the same name.
        BundleError: a bundle cannot be run.
        PlannerLost, ProtocolViolation: no planner answers at the address that was given.
    """

    stop = Stop()

    def begun(address: str) -> None:
        gc.freeze()  # what the server is made of stays; a full collection is 15 ms shorter without it
        on_ready(address)

    with stopped_by_signals(stop.request, config.drain_s + _END_S):
        run(_serve(bundles, config, begun, stop))
        Workers.join()


@contextlib.contextmanager
def serve_in_thread(bundles: Bundles, config: ServerConfig | None = None) -> Iterator[str]:
    """Serve from a thread of this process for the length of the block; its value is the address.

    Raises:
        As `serve`.
    """
    config = config or ServerConfig(address="127.0.0.1:0")
    ready: Future[str] = Future()
    stop = Stop()

    async def main() -> None:
        try:
            await _serve(bundles, config, ready.set_result, stop)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, args=(main(),), name="rpl-server")
    thread.start()
    try:
        yield ready.result()
    finally:
        stop.request()
        thread.join()


async def _serve(bundles: Bundles, config: ServerConfig, on_ready: Callable[[str], None], stop: Stop) -> None:
    stop.listen()
    every = [bundles] if isinstance(bundles, Bundle) else bundles
    check_providers(config.providers)
    models = Models(config.max_models, config.providers)
    leases = Leases(config.max_robots, config.quotas.robots)
    streams = Streams(models, leases)
    with contextlib.ExitStack() as around:
        observers: list[Observer] = [CallLog]
        observe: Observe | None = None
        if config.metrics:
            metrics = Metrics(leases.__len__, streams.__len__, way_to_serve())
            around.enter_context(exposing(metrics, config.metrics))
            observers.append(lambda method, metadata, peer: metrics)
            observe = metrics.planned
        if config.traces:
            observers.append(around.enter_context(tracing(config.traces)))
        admission = Admission(Gate(config.address, config.security), Quotas(config.quotas), models, observers)
        planning = around.enter_context(contextlib.closing(Planning(config.planning, observe, WORKER)))
        server, loads = new_server(_options(config.quotas)), Workers(1)
        health = Health(admission)
        readiness = _Readiness(models, health, {bundle.spec.name for bundle in every})
        services = {
            control.SERVICE: Service(admission, streams).handlers(),
            admin.SERVICE: AdminService(admission, models, streams, loads, planning, readiness.update).handlers(),
        }
        for name, handlers in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        reflected = is_local(config.address) if config.reflection is None else config.reflection
        add_public(server, admission, health, list(services), reflected)

        address = listen(server, config.address, config.security)
        readiness.update()
        await server.start()
        keeping = [asyncio.create_task(streams.reap(config.idle_s))]
        try:
            await _unless(stop.requested, _load(models, every, loads, planning))
            keeping.append(asyncio.create_task(_give_memory_back()))
            if not stop.requested.is_set():
                readiness.begin()
                on_ready(address)
            await stop.requested.wait()
        finally:
            for task in keeping:
                task.cancel()
            readiness.end()
            await streams.drain(config.drain_s, stop.hurry)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.stop(_GOODBYE_S), 2 * _GOODBYE_S)


async def _load(models: Models, bundles: Sequence[Bundle], loads: Workers, planning: Planning) -> None:
    """Load bundles, then serve them all, the first as the default."""
    for model in [await loads.run(partial(model_of, bundle, planning, models.providers)) for bundle in bundles]:
        if model.name in {served.name for served in models.active}:
            raise InvalidInput(
                f"two of the bundles to be served are named {model.name!r}; each name must be used once "
                f"(`rpl export --name` gives another)"
            )
        models.put(model)


async def _give_memory_back() -> None:
    """Return the memory of large messages to the system once they are gone; glibc would keep hundreds of MB.

    That can take longer than a step, so it is tried more and more seldom while it brings nothing.
    """
    trim, usage = getattr(ctypes.CDLL(None), "malloc_trim", None), Path("/proc/self/statm")
    if trim is None or not usage.exists():  # another system
        return

    def resident() -> int:
        return int(usage.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    at_first, wait_s = resident(), _TIDY_S
    while True:
        await asyncio.sleep(wait_s)
        before = resident()
        if before > at_first + _SPARE_BYTES:
            trim(0)
            wait_s = _TIDY_S if before - resident() > _SPARE_BYTES / 2 else 2 * wait_s


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Wait for work, or until a server is to stop. Raises the error of the work."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
    working.cancel()


class _Readiness:
    """What the health check says: "" for liveness, the service and each model's name for readiness."""

    def __init__(self, models: Models, health: Health, names: set[str]) -> None:
        self._models = models
        self._health = health
        self._live, self._ready = True, False
        self._told = names

    def begin(self) -> None:
        """The models answer from now on."""
        self._ready = True
        self.update()

    def end(self) -> None:
        """The server stops: nothing is served any more."""
        self._live = self._ready = False
        self.update()

    def update(self) -> None:
        """Report the status of every model that is or was served."""
        yes, no = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        active = {control.SERVICE} | {model.name for model in self._models.active}
        self._told |= active
        served = {name: yes if self._ready and name in active else no for name in self._told}
        self._health.set(served | {"": yes if self._live else no})


def _options(quotas: QuotaConfig) -> list[tuple[str, int]]:
    silence_ms = round(_SILENCE_S * 1e3)
    return [
        ("grpc.so_reuseport", 0),  # or a second server would silently share the port
        ("grpc.max_receive_message_length", control.MAX_MESSAGE_BYTES),
        # Of one connection. Further calls wait at the client, so short calls need room beside the streams.
        ("grpc.max_concurrent_streams", quotas.streams + _SHORT_CALLS),
        # Of each stream, 64 KiB and a message are read ahead. By default it is as much as comes in a round trip: the
        # streams of one caller would hold gigabytes.
        ("grpc.http2.bdp_probe", 0),
        # If a robot's machine vanishes, its lease must end soon enough for the robot to resume.
        ("grpc.keepalive_time_ms", silence_ms),
        ("grpc.keepalive_timeout_ms", silence_ms),
        ("grpc.http2.ping_timeout_ms", silence_ms),  # a minute by default, which overrides the above
        ("grpc.http2.max_pings_without_data", 0),  # no limit, for robots that are silent for long
        ("grpc.server_handshake_timeout_ms", silence_ms),  # two minutes by default, for a client that sends nothing
    ]
