"""How bytes reach the calls of a server, and how its event loop runs.

There are two ways. In the faster one, the thread that reads a message of Control from the network also answers it. That
takes names of grpcio that are not public, so it is chosen only where they are found, and nowhere else are such names
used on this side. The other way is grpc.aio, whose own thread reads and wakes the event loop for each message.

On both, all code of the server runs as if in one thread. On the faster way the event loop holds a lock, which it leaves
only while it waits; the thread that reads answers under the same lock. There, steps of several streams share a call of
the low level if their messages have come; nothing waits for more to come.
"""

import asyncio
import logging
import os
import selectors
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import grpc
import grpc.aio

from rpl_runtime.policy.graphs import TOGETHER
from rpl_runtime.server.turns import Turn
from rpl_runtime.wire.control import PUBLIC_TRANSPORT
from rpl_runtime.wire.conversation import Later, Undecided, decide

try:
    from grpc._cython import cygrpc
except ImportError:
    cygrpc = None

# cygrpc is compiled and untyped; the names of its types.
_Event = Any  # cygrpc.RequestCallEvent or cygrpc.BatchOperationEvent
_Operation = Any  # cygrpc.Operation

_LOG = logging.getLogger(__name__)
_NAMES = (
    "CompletionQueue",
    "ReceiveCloseOnServerOperation",
    "ReceiveMessageOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "Server",
)
_LOCK: ContextVar["_FairLock"] = ContextVar("_LOCK")  # of the running event loop
_Metadata = tuple[tuple[str, str | bytes], ...]  # of a call
_UNREAD_S, _CONNECTIONS = 0.005, 8  # [s] until the network is read again; connections of which each time one is read
_TOGETHER_S = 0.001  # [s] after which no more messages are taken to share a call of the low level
_Answer = Callable[[bytes, Callable[[], None] | None], bytes | Later | Undecided]
_Make = Callable[[], bytes | Later | Undecided]  # makes a reply
SERVING_THREAD, PUBLIC = "serving thread", "public"


def way_to_serve() -> str:
    """The name of the way that servers of this process take."""
    found = all(hasattr(cygrpc, name) for name in _NAMES)
    return SERVING_THREAD if found and not os.environ.get(PUBLIC_TRANSPORT) else PUBLIC


def run(main: Coroutine[object, object, None]) -> None:
    """Run a server's coroutine in an event loop of its own."""
    lock = _FairLock()
    _LOCK.set(lock)
    with lock, asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Leaving(lock))) as runner:
        runner.run(main)


def new_server(options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """A server for the running event loop, in the faster of the ways that are found."""
    if way_to_serve() == PUBLIC:
        return grpc.aio.server(options=options)
    return _Server(options)  # type: ignore[return-value]


async def converse(
    context: grpc.aio.ServicerContext,
    turn: Turn,
    answer: _Answer,
    conclude: Callable[[], None],
) -> None:
    """Answer the messages of a call, in its caller's turn, until the client sends no more.

    Args:
        context: of the call.
        turn: of its caller.
        answer: from a message to its reply, which may come later; what it raises ends the call. If given a function, it
            may leave the reply undecided, or call the function, which decides those that were left so before.
        conclude: called when the reply is on its way. What it raises ends the call.
    """
    if isinstance(context, _Call):
        await context.converse(turn, answer, conclude)
        return
    while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
        await turn.wait()
        with turn:
            reply = answer(request, None)
        assert not isinstance(reply, Undecided)
        while isinstance(reply, Later):
            await _settled(reply)
            with turn:
                reply = reply.go_on()
        await context.write(reply)
        with turn:
            conclude()


async def _settled(reply: Later) -> None:
    """Wait until the answers that a reply waits for are settled."""
    loop = asyncio.get_running_loop()
    for coming in reply.awaited:
        there = asyncio.Event()

        def tell(there: asyncio.Event = there) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(there.set)

        coming.when_settled(tell)
        with suppress(TimeoutError):
            await asyncio.wait_for(there.wait(), max(0.0, coming.left_s))


class _FairLock:
    """A lock that two threads take by turns if both want it."""

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._wanted = threading.Lock()  # by the thread that gets it next

    def __enter__(self) -> None:
        with self._wanted:
            self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


class _Leaving(selectors.DefaultSelector):
    """The selector of an event loop that leaves a lock while it waits."""

    def __init__(self, lock: _FairLock) -> None:
        super().__init__()
        self._lock = lock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._lock.__exit__()
        try:
            return super().select(timeout)
        finally:
            self._lock.__enter__()


class _Details(NamedTuple):
    """A `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: _Metadata


class _Aborted(Exception):
    """A handler ends its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: _Metadata) -> None:
        self.status = code.value[0], details, trailing_metadata


class _Joining(NamedTuple):
    """A message of Control whose reply may share a call of the low level."""

    reply: Undecided
    turn: Turn
    reply_with: Callable[[_Make], None]  # sends what is made


class _Server:
    """The part of grpc.aio's server that this project uses, over the completion queue of gRPC's core."""

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        assert cygrpc is not None
        self.loop = asyncio.get_running_loop()
        self.lock = _LOCK.get()
        self.calls: set[asyncio.Task[None]] = set()
        self.talking = 0  # calls in `converse`
        self.joining: list[_Joining] = []  # messages that the serving thread has read, until it looks for no more
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        self._look = cygrpc.CompletionQueue()  # always empty: to wait for its next event is to read the network
        self._over: asyncio.Future[None] = self.loop.create_future()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="rpl-serving", daemon=True)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers += handlers

    def add_insecure_port(self, address: str) -> int:
        return self._bound(self._server.add_http2_port(address.encode()))

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        return self._bound(self._server.add_http2_port(address.encode(), credentials._credentials))  # type: ignore[attr-defined]

    async def start(self) -> None:
        self._server.start()
        self._thread.start()
        self._accept()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those that are open may go on for a time [s]."""
        if not self._thread.is_alive():
            return
        self._stopping = True
        self._server.shutdown(self._queue, lambda event: self.soon(self._over.set_result, None))
        await asyncio.wait((self._over,), timeout=grace)
        self._server.cancel_all_calls()
        for call in self.calls:
            call.cancel()
        await self._over
        if self.calls:
            await asyncio.wait(self.calls)
        self._server.destroy()
        self._queue.shutdown()
        await asyncio.to_thread(self._thread.join)
        self._look.shutdown()

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Have the event loop call something; for the serving thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(call, *arguments)

    def _serve(self) -> None:
        assert cygrpc is not None
        looked, kinds = time.monotonic(), cygrpc.CompletionType
        while (event := self._queue.poll()).completion_type != kinds.queue_shutdown:
            with self.lock:
                self._safely(event.tag, event)  # each batch of operations has its continuation as its tag
                del event  # it may hold the last reference to a call
                if self.joining:
                    until = time.monotonic() + _TOGETHER_S
                    while 0 < len(self.joining) < TOGETHER and time.monotonic() < until:
                        if (event := self._queue.poll(deadline=0)).completion_type != kinds.operation_complete:
                            break
                        self._safely(event.tag, event)
                        del event
                    self._safely(self.decide)
            # A queue with an event in it is not polled. Whoever keeps it full would keep all others from being read.
            if time.monotonic() > looked + _UNREAD_S:
                for _ in range(_CONNECTIONS):
                    self._look.poll(deadline=0)
                looked = time.monotonic()

    @staticmethod
    def _safely(call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception:
            _LOG.exception("an event of gRPC was not handled")

    def decide(self) -> None:
        """Reply to the messages that join; each caller's turn counts its part of the time."""
        joining, self.joining = self.joining, []
        began = time.monotonic()
        makes = decide([message.reply for message in joining])
        each_s = (time.monotonic() - began) / max(1, len(joining))
        for message, make in zip(joining, makes, strict=True):
            message.turn.spend(each_s)
            message.reply_with(make)

    def _accept(self) -> None:
        if self._stopping:  # a call that came just before is still answered
            return
        self._server.request_call(self._queue, self._queue, lambda event: self.soon(self._begin, event))

    def _begin(self, event: _Event) -> None:
        if not event.success:
            return  # the server stops
        self._accept()
        details = _Details(event.call_details.method.decode(errors="replace"), event.invocation_metadata)
        handler = next(filter(None, (handlers.service(details) for handlers in self._handlers)))  # type: ignore[arg-type]
        call = _Call(self, event, handler)
        task = self.loop.create_task(call.run())
        call.ends_with(task)
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)

    @staticmethod
    def _bound(port: int) -> int:
        if not port:
            raise RuntimeError("the address cannot be bound")
        return port


class _Call:
    """The part of grpc.aio's context that this project uses, and `converse`."""

    def __init__(self, server: _Server, event: _Event, handler: grpc.RpcMethodHandler) -> None:
        self._server = server
        self._call = event.call
        self._metadata = event.invocation_metadata
        self._handler: Any = handler
        self._headers = (cygrpc.SendInitialMetadataOperation((), 0),)  # type: ignore[union-attr]  # until they are sent

    def ends_with(self, task: "asyncio.Task[None]") -> None:
        """Cancel a task if the client goes away."""

        def closed(event: _Event) -> None:
            if event.batch_operations[0].cancelled():
                self._server.soon(task.cancel)

        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), closed)  # type: ignore[union-attr]

    async def run(self) -> None:
        """Let the handler answer, and end the call with its status."""
        handler, last, status = self._handler, (), (0, "", ())
        try:
            if handler.request_streaming:
                answer = (handler.stream_stream or handler.stream_unary)(self._requests(), self)
            elif (request := await self.read()) is grpc.aio.EOF:  # type: ignore[attr-defined]
                raise _Aborted(grpc.StatusCode.UNIMPLEMENTED, "the call needs a request", ())
            else:
                answer = (handler.unary_stream or handler.unary_unary)(request, self)
            if hasattr(answer, "__aiter__"):
                async for reply in answer:
                    await self.write(reply)
            elif (reply := await answer) is not None:
                last = (self._message(reply),)
        except _Aborted as aborted:
            status = aborted.status
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED.value[0], "the call was cancelled", ()
        except Exception:
            _LOG.exception("a call failed")
            status = grpc.StatusCode.UNKNOWN.value[0], "the server failed to answer", ()
        code, details, trailing = status
        end = cygrpc.SendStatusFromServerOperation(trailing, code, details.encode(), 0)  # type: ignore[union-attr]
        self._call.start_server_batch((*self._opening(), *last, end), _ignore)

    def invocation_metadata(self) -> _Metadata:
        return self._metadata

    def peer(self) -> str:
        return self._call.peer().decode()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: _Metadata = ()) -> None:
        raise _Aborted(code, details, trailing_metadata)

    async def read(self) -> object:
        operations = await self._batch(cygrpc.ReceiveMessageOperation(0))  # type: ignore[union-attr]
        message, parse = operations[0].message(), self._handler.request_deserializer
        if message is None:
            return grpc.aio.EOF  # type: ignore[attr-defined]
        return message if parse is None else parse(message)

    async def write(self, reply: object) -> None:
        await self._batch(*self._opening(), self._message(reply))

    async def converse(self, turn: Turn, answer: _Answer, conclude: Callable[[], None]) -> None:
        """As the function does; messages are answered in the serving thread."""
        send, receive = cygrpc.SendMessageOperation, cygrpc.ReceiveMessageOperation(0)  # type: ignore[union-attr]
        done: asyncio.Future[None] = self._server.loop.create_future()
        ended, fault = False, None

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def end(error: Exception | None = None) -> None:
            nonlocal ended, fault
            ended, fault = True, error
            self._server.soon(settle)

        def received(event: _Event) -> None:
            request = event.batch_operations[-1].message()
            if ended:
                return
            if request is None:
                end()
            elif turn.ready():
                reply_with(partial(answer, request, decide_first if self._server.talking > 1 else None))
            else:
                self._server.soon(wait, turn.served, partial(answer, request, None))

        def decide_first() -> None:
            turn.__exit__(None, None, None)  # the time of the others is theirs
            self._server.decide()
            turn.__enter__()

        def reply_with(make: _Make) -> None:
            try:
                with turn:
                    reply = make()
                if isinstance(reply, Undecided):
                    self._server.joining.append(_Joining(reply, turn, reply_with))
                    return
                if isinstance(reply, Later):
                    self._server.soon(wait, partial(_settled, reply), reply.go_on)
                    return
                # The next message is received once this reply is sent: a client that reads nothing gets nothing.
                self._call.start_server_batch((send(reply, 0), receive), received)
                with turn:
                    conclude()
            except Exception as error:
                end(error)

        def wait(until: Callable[[], Awaitable[None]], make: _Make) -> None:
            nonlocal waiting
            if ended:  # before the event loop came to this
                return

            async def reply_then() -> None:
                try:
                    await until()
                except Exception as error:
                    end(error)
                else:
                    reply_with(make)

            waiting = self._server.loop.create_task(reply_then())

        waiting: asyncio.Task[None] | None = None
        opening = self._opening()
        if opening:
            self._call.start_server_batch(opening, _ignore)
        self._call.start_server_batch((receive,), received)
        self._server.talking += 1
        try:
            await done
            if fault is not None:
                raise fault
        finally:
            self._server.talking -= 1
            # These functions refer to each other, so what they hold is not freed at once; an error holds its message.
            ended, fault = True, None
            if waiting is not None:
                waiting.cancel()
                waiting = None

    def _opening(self) -> tuple[_Operation, ...]:
        headers, self._headers = self._headers, ()
        return headers

    def _message(self, reply: object) -> _Operation:
        write = self._handler.response_serializer
        return cygrpc.SendMessageOperation(reply if write is None else write(reply), 0)  # type: ignore[union-attr]

    async def _requests(self) -> AsyncIterator[object]:
        while (request := await self.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            yield request

    def _batch(self, *operations: _Operation) -> "asyncio.Future[tuple[_Operation, ...]]":
        done = self._server.loop.create_future()

        def settle(event: _Event) -> None:
            if not done.done():
                done.set_result(event.batch_operations)

        self._call.start_server_batch(operations, lambda event: self._server.soon(settle, event))
        return done


def _ignore(event: _Event) -> None:
    """Nothing waits for these operations."""
