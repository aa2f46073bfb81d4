"""The ways on which bytes reach a server's calls: both do the same, whatever client and handler do."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from rpl_runtime.auth.quotas import QuotaConfig, Quotas
from rpl_runtime.server.transport import SERVING_THREAD, converse, new_server, run, way_to_serve
from rpl_runtime.server.turns import Turns

pytestmark = pytest.mark.usefixtures("transport")


class Handlers:
    """Calls of one server, and what became of them."""

    def __init__(self) -> None:
        self.over: SimpleQueue[str] = SimpleQueue()  # names of calls whose handler has ended
        self.threads: set[str] = set()  # that answered messages
        self.concluded = 0  # messages

    async def Say(self, request: bytes, context: Any) -> bytes:
        return dict(context.invocation_metadata())["key"].encode() + request

    async def Count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def Refuse(self, request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "why", trailing_metadata=(("rpl-reason", "X"),))

    async def Fail(self, request: bytes, context: Any) -> None:
        raise ValueError("the inside")

    async def Wait(self, request: bytes, context: Any) -> None:
        try:
            await context.write(b"begun")
            await asyncio.Event().wait()
        finally:
            self.over.put("Wait")

    async def Talk(self, requests: AsyncIterator[bytes], context: Any) -> None:
        turn = Turns().of(Quotas(QuotaConfig()).share("a", 0.0))

        def answer(request: bytes) -> bytes:
            self.threads.add(threading.current_thread().name)
            if request == b"bad":
                raise ValueError("a bad message")
            return request

        def conclude() -> None:
            self.concluded += 1

        try:
            await converse(context, turn, answer, conclude)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self.over.put("Talk")


@contextmanager
def serving() -> Iterator[tuple[Handlers, grpc.Channel]]:
    handlers, ready = Handlers(), Future()
    kinds = {
        "Say": grpc.unary_unary_rpc_method_handler,
        "Count": grpc.unary_stream_rpc_method_handler,
        "Refuse": grpc.unary_unary_rpc_method_handler,
        "Fail": grpc.unary_unary_rpc_method_handler,
        "Wait": grpc.unary_stream_rpc_method_handler,
        "Talk": grpc.stream_stream_rpc_method_handler,
    }

    async def main() -> None:
        server, stop = new_server([]), asyncio.Event()
        methods = {name: kind(getattr(handlers, name)) for name, kind in kinds.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ready.set_result((port, lambda loop=asyncio.get_running_loop(): loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        await server.stop(0.1)

    thread = threading.Thread(target=run, args=(main(),))
    thread.start()
    port, stop = ready.result()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield handlers, channel
    finally:
        stop()
        thread.join()


def test_a_call_that_comes_as_the_server_stops_is_ended_without_a_fault() -> None:
    """The event loop is busy when the call comes, and stops the server before it looks at it."""
    faults: list[Any] = []
    answered: Future[grpc.Future] = Future()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: faults.append(what))
        server = new_server([])
        methods = {"Say": grpc.unary_unary_rpc_method_handler(Handlers().Say)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            say = channel.unary_unary("/test.Test/Say")
            await asyncio.to_thread(say, b"", metadata=(("key", "value"),))  # connected
            coming, came = getattr(server, "soon", None), threading.Event()
            if coming is not None:
                server.soon = lambda *call: (coming(*call), came.set())
                call = say.future(b"", metadata=(("key", "value"),))
                came.wait(30.0)
                answered.set_result(call)
            await server.stop(10.0)
            if coming is not None:
                await asyncio.to_thread(call.exception)

    run(main())
    assert faults == []
    if answered.done():
        assert answered.result().result() == b"value"


def test_the_network_is_read_while_the_queue_is_never_empty() -> None:
    """Whether gRPC reads it by itself then is a matter of chance: see `seldom_heard` in tests/attack/test_server.py."""
    if way_to_serve() != SERVING_THREAD:
        pytest.skip("grpc.aio's own thread reads")
    events, reads = 0, 0

    async def main() -> None:
        server, over = new_server([]), asyncio.Event()
        look = server._look

        def poll(deadline: float) -> None:
            nonlocal reads
            reads += 1
            look.poll(deadline=deadline)

        server._look = SimpleNamespace(poll=poll, shutdown=look.shutdown)

        async def fill(request: bytes, context: Any) -> bytes:
            def again(_: object) -> None:
                nonlocal events
                events += 1
                if events < 500_000 and reads < 100:
                    context._call.start_server_batch((), again)  # an event that is there at once
                else:
                    server.soon(over.set)

            context._call.start_server_batch((), again)
            await over.wait()
            return b""

        methods = {"Fill": grpc.unary_unary_rpc_method_handler(fill)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.to_thread(channel.unary_unary("/test.Test/Fill"), b"")
        await server.stop(10.0)

    run(main())
    assert reads >= 100


def test_calls_of_every_kind_are_answered() -> None:
    with serving() as (_, channel):
        assert channel.unary_unary("/test.Test/Say")(b"x", metadata=(("key", "value"),)) == b"valuex"
        assert list(channel.unary_stream("/test.Test/Count")(b"3")) == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("method", "code", "details"),
    [("Refuse", grpc.StatusCode.NOT_FOUND, "why"), ("Fail", grpc.StatusCode.UNKNOWN, None)],
)
def test_a_call_ends_with_its_status(method: str, code: grpc.StatusCode, details: str | None) -> None:
    with serving() as (_, channel):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/test.Test/{method}")(b"")
        error: Any = caught.value
        assert error.code() is code
        if details is not None:
            assert error.details() == details
            assert dict(error.trailing_metadata())["rpl-reason"] == "X"


def test_messages_are_answered_in_turn_and_in_the_thread_that_the_way_says() -> None:
    with serving() as (handlers, channel):
        messages = [b"%d" % number for number in range(50)]
        assert list(channel.stream_stream("/test.Test/Talk")(iter(messages))) == messages
        assert handlers.concluded == 50
        assert (handlers.threads == {"rpl-serving"}) == (way_to_serve() == "serving thread")


def test_a_message_that_cannot_be_answered_ends_its_call_alone() -> None:
    with serving() as (_, channel):
        talk = channel.stream_stream("/test.Test/Talk")
        replies = talk(iter([b"good", b"bad", b"good"]))
        assert next(replies) == b"good"
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.details() == "a bad message"  # type: ignore[attr-defined]
        assert list(talk(iter([b"good"]))) == [b"good"]


@pytest.mark.parametrize("method", ["Wait", "Talk"])
def test_a_handler_ends_when_its_client_is_gone(method: str) -> None:
    with serving() as (handlers, channel):
        hold = threading.Event()

        def messages() -> Iterator[bytes]:
            yield b"first"
            hold.wait()

        call = (
            channel.unary_stream("/test.Test/Wait")(b"")
            if method == "Wait"
            else channel.stream_stream("/test.Test/Talk")(messages())
        )
        next(call)
        call.cancel()
        hold.set()
        assert handlers.over.get(timeout=60.0) == method


def test_stopping_ends_calls_that_are_open() -> None:
    with serving() as (_, channel):
        call = channel.unary_stream("/test.Test/Wait")(b"")
        assert next(call) == b"begun"
    with pytest.raises(grpc.RpcError):
        next(call)
