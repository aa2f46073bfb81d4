"""A server's life: listen, warm up, serve, drain, stop.

In: a bundle and an address. Out: a server at that address, until it is told to stop. What is answered is service.py's
business; here is what surrounds it: health, reflection, connections.

One event loop serves everything. A synchronous server with a thread for each stream, uvloop, Unix domain sockets and
gRPC's own settings cost a robot the same within the noise (docs/lab-notes.md), and none of them needs fewer words.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpl_runtime import codec
from rpl_runtime.bundle import Bundle
from rpl_runtime.listening import listen
from rpl_runtime.service import Service

_SILENCE_S = 3.0  # [s] after which a client is asked for a sign of life, and again after which it counts as gone


@dataclass(frozen=True)
class ServerConfig:
    address: str = "127.0.0.1:50051"  # or unix:PATH; port 0 takes a free one
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
    service = Service(bundle)
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

    address = listen(server, config.address)
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
