"""The ways on which bytes reach a server's calls: both do the same, whatever client and handler do."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from rpl_runtime.auth.quotas import QuotaConfig, Quotas
from rpl_runtime.server import transport as transport_module
from rpl_runtime.server import turns as turns_module
from rpl_runtime.server.transport import SERVING_THREAD, converse, new_server, run, way_to_serve
from rpl_runtime.server.turns import Turn, Turns
from rpl_runtime.wire.conversation import Later, Undecided

pytestmark = pytest.mark.usefixtures("transport")


class Handlers:
    """Calls of one server, and what became of them."""

    def __init__(self) -> None:
        self.over: SimpleQueue[str] = SimpleQueue()  # names of calls whose handler has ended
        self.threads: set[str] = set()  # that answered messages
        self.concluded = 0  # messages
        self.talking: asyncio.Task[None] | None = None  # the task of the last `Talk`
        self.coming = 0  # messages of `Join` that are still to come before any is decided
        self.low = SimpleNamespace(run_one=lambda row: row[None])  # of the policy of `Join`
        self.shared: list[int] = []  # the numbers of messages of `Join` that shared a call
        self.turns = [Turns().of(Quotas(QuotaConfig()).share(str(number), 0.0)) for number in range(8)]  # of `Join`
        self.answers: list[Future[None]] = []  # that are waited for

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
        self.talking = asyncio.current_task()

        def answer(request: bytes, decide_first: object) -> bytes:
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

    def read(self) -> None:
        """What a message of `Join` takes before anything is decided."""

    def act(self, rows: np.ndarray) -> np.ndarray:
        """Of the policy of `Join`."""
        self.shared.append(len(rows))
        return rows

    async def Join(self, requests: AsyncIterator[bytes], context: Any) -> None:
        turn = self.turns.pop()
        policy: Any = self

        def decided(row: np.ndarray) -> bytes:
            if row[0, 0] < 0:
                raise ValueError("a bad action")
            return b"%d" % row[0, 0]

        def answer(request: bytes, decide_first: Callable[[], None] | None) -> bytes | Later | Undecided:
            self.coming -= 1
            self.read()
            if request == b"bad":
                raise ValueError("a bad message")
            if request == b"later":
                self.answers.append(later := Future())
                coming: Any = SimpleNamespace(
                    when_settled=lambda call: later.add_done_callback(lambda _: call()), left_s=60
                )
                return Later([coming], lambda: b"at last")
            if request == b"first":
                if decide_first is not None:
                    decide_first()
                return b"%d" % len(self.shared)
            row = np.array([float(request)])
            return decided(row[None]) if decide_first is None else Undecided(policy, (row,), decided)

        try:
            await converse(context, turn, answer, lambda: None)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


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
        "Join": grpc.stream_stream_rpc_method_handler,
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


def test_a_message_that_is_to_wait_for_its_turn_is_not_answered_once_its_call_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server ends the call in the moment in which the message comes, as it does when it stops."""
    if way_to_serve() != SERVING_THREAD:
        pytest.skip("on one thread nothing comes between")
    with serving() as (handlers, channel):

        def ready(turn: Turn) -> bool:
            assert handlers.talking is not None
            handlers.talking.cancel()
            return False

        monkeypatch.setattr(Turn, "ready", ready)
        with pytest.raises(grpc.RpcError):
            list(channel.stream_stream("/test.Test/Talk")(iter([b"late"])))
        assert handlers.over.get(timeout=60.0) == "Talk"
        channel.unary_unary("/test.Test/Say")(b"", metadata=(("key", "value"),))  # what was to be done then is done
        assert handlers.threads == set()


def test_stopping_ends_calls_that_are_open() -> None:
    with serving() as (_, channel):
        call = channel.unary_stream("/test.Test/Wait")(b"")
        assert next(call) == b"begun"
    with pytest.raises(grpc.RpcError):
        next(call)


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sequence[bytes]], tuple[Handlers, list[Any]]]]:
    """Give messages of streams, one of each, at once. Returns their replies, or what ended the stream.

    On the serving thread, the queue waits for the messages that are still to come.
    """
    with serving_patiently(monkeypatch) as (handlers, channel):

        def join(messages: Sequence[bytes]) -> tuple[Handlers, list[Any]]:
            outboxes = [SimpleQueue[bytes | None]() for _ in messages]
            calls = [channel.stream_stream("/test.Test/Join")(iter(outbox.get, None)) for outbox in outboxes]
            for outbox, call in zip(outboxes, calls, strict=True):
                outbox.put(b"0")
                assert next(call) == b"0"
            handlers.shared.clear()
            handlers.coming = len(messages)
            for number, (outbox, message) in enumerate(zip(outboxes, messages, strict=True), 1):
                outbox.put(message)
                while handlers.coming > len(messages) - number:
                    time.sleep(0.001)
            # Those that wait are read last: the others do not wait for them.
            found: dict[int, Any] = {}
            for at in sorted(range(len(messages)), key=lambda at: messages[at] == b"later"):
                if messages[at] == b"later":
                    handlers.answers.pop().set_result(None)
                try:
                    found[at] = next(calls[at])
                except grpc.RpcError as error:
                    found[at] = error.details()  # type: ignore[attr-defined]
            for outbox in outboxes:
                outbox.put(None)
            for at, call in enumerate(calls):
                if isinstance(found[at], bytes):
                    assert list(call) == []
            return handlers, [found[at] for at in range(len(messages))]

        yield join


@contextmanager
def serving_patiently(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Handlers, grpc.Channel]]:
    if way_to_serve() != SERVING_THREAD:
        with serving() as served:
            yield served
        return
    served_by: list[Handlers] = []

    class Patient(transport_module.cygrpc.CompletionQueue):
        def poll(self, deadline: float | None = None) -> Any:
            if deadline == 0 and served_by and served_by[0].coming > 0:
                deadline = time.time() + 60.0
            return super().poll(deadline=deadline)

    monkeypatch.setattr(transport_module, "cygrpc", Names(transport_module.cygrpc, Patient))
    for name in ("_TOGETHER_S", "_UNREAD_S"):
        monkeypatch.setattr(transport_module, name, 60.0)
    with serving() as served:
        served_by.append(served[0])
        yield served


class Names:
    """The names of cygrpc, with another queue."""

    def __init__(self, names: Any, queue: type) -> None:
        self._names, self.CompletionQueue = names, queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._names, name)


def test_messages_that_are_there_at_once_share_a_call(join: Any) -> None:
    handlers, replies = join([b"1", b"2", b"3", b"4"])
    assert replies == [b"1", b"2", b"3", b"4"]
    assert handlers.shared == ([4] if way_to_serve() == SERVING_THREAD else [])


@pytest.mark.parametrize(("odd", "ends"), [(b"bad", "a bad message"), (b"-1", "a bad action"), (b"later", b"at last")])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_message_that_fails_or_waits_holds_up_no_other_that_came_with_it(
    odd: bytes, ends: str | bytes, at: int, join: Any
) -> None:
    messages = [b"1", b"2"]
    messages.insert(at, odd)
    handlers, replies = join(messages)
    assert replies == [ends if message == odd else message for message in messages]
    if way_to_serve() == SERVING_THREAD:
        assert handlers.shared == [3 if odd == b"-1" else 2]


def test_a_message_finds_those_that_came_before_it_decided(join: Any) -> None:
    handlers, replies = join([b"1", b"2", b"first", b"3", b"4"])
    shared = [2, 2] if way_to_serve() == SERVING_THREAD else []
    assert replies == [b"1", b"2", b"%d" % len(shared[:1]), b"3", b"4"]
    assert handlers.shared == shared


def test_each_callers_turn_counts_its_part_of_a_shared_call(join: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if way_to_serve() != SERVING_THREAD:
        pytest.skip("no call is shared")
    now, spent = [0.0], list[tuple[Turn, float]]()

    def act(handlers: Handlers, rows: np.ndarray) -> np.ndarray:
        now[0] += 6.0
        return rows

    monkeypatch.setattr(Handlers, "act", act)
    monkeypatch.setattr(transport_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Turn, "spend", lambda turn, seconds: spent.append((turn, seconds)))
    join([b"1", b"2", b"3"])
    counted = [turn for turn, seconds in spent if seconds == 2.0]
    assert len(counted) == len(set(counted)) == 3


def test_what_a_message_takes_before_the_others_are_decided_counts_for_its_caller(
    join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what they take does not: all of the time is counted once."""
    now, spent = [0.0], list[float]()

    def work(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(Handlers, "read", lambda handlers: work(1.0))
    monkeypatch.setattr(Handlers, "act", lambda handlers, rows: (work(8.0), rows)[1])
    for module in (transport_module, turns_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Turn, "spend", lambda turn, seconds: spent.append(seconds))
    join([b"1", b"2", b"first"])
    assert sum(spent) == now[0] == (14.0 if way_to_serve() == SERVING_THREAD else 6.0)
