"""The bytes of a stream: both ways that they can take do the same, whatever the server does."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from rpl_runtime.client.transport import Transport, open_call, way_to_call

pytestmark = pytest.mark.usefixtures("transport")

METADATA = (("key", "value"),)


def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Say a message again, or do what it says."""
    for message in requests:
        match message:
            case b"abort":
                context.set_trailing_metadata((("rpl-reason", "InvalidInput"),))
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "why")
            case b"end":
                return
            case b"silence":
                context.add_callback(SILENCE.set)
                SILENCE.wait()
            case b"metadata":
                yield dict(context.invocation_metadata())["key"].encode()
            case _:
                yield message


class Interceptor(grpc.StreamStreamClientInterceptor):
    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details, requests)


SILENCE = threading.Event()  # until it is set


@contextmanager
def call(timeout_s: float = 60.0) -> Iterator[tuple[Transport, grpc.Channel]]:
    SILENCE.clear()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        handlers = {"Say": grpc.stream_stream_rpc_method_handler(answers)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Say", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            transport = open_call(channel, "/test.Say/Say", METADATA, timeout_s)
            try:
                yield transport, channel
            finally:
                transport.cancel()
        SILENCE.set()
        server.stop(0).wait()


def test_the_fastest_way_is_taken_where_it_is_found(transport: str) -> None:
    with call() as (_, channel):
        assert way_to_call(channel) == ("calling thread" if transport == "fastest" else "public")
        assert way_to_call(grpc.intercept_channel(channel, Interceptor())) == "public"  # hides what the other needs


def test_messages_come_back_in_turn_with_the_calls_metadata() -> None:
    with call() as (transport, _):
        for message in (b"", b"a", b"x" * 100_000):
            assert transport.exchange(message) == message
        assert transport.exchange(b"metadata") == b"value"


def test_the_servers_status_is_raised_and_stays() -> None:
    with call() as (transport, _):
        assert transport.exchange(b"a") == b"a"
        for message in (b"abort", b"a"):
            with pytest.raises(grpc.RpcError) as caught:
                transport.exchange(message)
            error: grpc.Call = caught.value  # type: ignore[assignment]
            assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "why")
            assert dict(error.trailing_metadata())["rpl-reason"] == "InvalidInput"
        transport.close()


def test_a_call_that_the_server_ends_has_no_more_replies() -> None:
    with call() as (transport, _):
        assert transport.exchange(b"a") == b"a"
        assert transport.exchange(b"end") is None
        assert transport.exchange(b"a") is None
        transport.close()


def test_a_late_reply_is_not_waited_for() -> None:
    with call(timeout_s=0.2) as (transport, _):
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            transport.exchange(b"silence")
        assert caught.value.code() is grpc.StatusCode.CANCELLED  # type: ignore[attr-defined]
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("how", ["cancel", "close the channel"])
def test_another_thread_ends_an_exchange(how: str) -> None:
    with call() as (transport, channel), ThreadPoolExecutor(1) as thread:
        assert transport.exchange(b"a") == b"a"
        reply = thread.submit(transport.exchange, b"silence")
        (transport.cancel if how == "cancel" else channel.close)()
        with pytest.raises(grpc.RpcError):
            reply.result()


def test_closing_while_another_thread_waits_lets_it_have_its_reply() -> None:
    with call() as (transport, _), ThreadPoolExecutor(1) as thread:
        assert transport.exchange(b"a") == b"a"
        reply = thread.submit(transport.exchange, b"b")
        assert reply.result() == b"b"
        waiting = thread.submit(transport.exchange, b"silence")
        closing = threading.Thread(target=transport.close)
        closing.start()
        SILENCE.set()  # the server goes on, finds no more messages and ends the call
        closing.join()
        assert waiting.result() is None


def test_closing_ends_the_call_at_the_server() -> None:
    with call() as (transport, _):
        assert transport.exchange(b"a") == b"a"
        transport.close()
        transport.close()
        assert transport.exchange(b"a") is None
