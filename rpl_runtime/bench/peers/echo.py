"""A peer that only echoes: gRPC alone, with a stream like Control's and the bytes of its requests."""

import asyncio
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio

from rpl_runtime.bench.load import Exchange, main
from rpl_runtime.bench.peers.control import middle
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.relay.messages import Observation
from rpl_runtime.wire.control import pack_request


@contextmanager
def connect(address: str, path: Path, stream: str, batch: int) -> Iterator[Exchange]:
    """A stream that works like `Control`: bytes from a queue, and a reply to each."""
    seen = Observation(0, middle(load_bundle(path).spec), time.monotonic_ns())
    payload = pack_request([(f"{stream}-robot-{number}", seen) for number in range(batch)])
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        replies: Iterator[bytes] = channel.stream_stream("/echo.Echo/Echo")(iter(outbox.get, None))  # type: ignore[assignment]

        def exchange(step: int) -> bytes:
            outbox.put(payload)
            return next(replies)

        yield exchange
        outbox.put(None)


def serve(path: Path, on_ready: Callable[[str], None]) -> None:
    asyncio.run(_serve(on_ready))


async def _serve(on_ready: Callable[[str], None]) -> None:
    async def echo(_: object, context: grpc.aio.ServicerContext) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            await context.write(request)

    server = grpc.aio.server()
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    on_ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


if __name__ == "__main__":
    main(serve, connect)
