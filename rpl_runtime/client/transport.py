"""The bytes of a Control stream at the client: a message is sent, and its reply awaited.

There are two ways. In the faster one, the thread that awaits a reply also reads it from the network. That takes names
of grpcio that are not public, so it is chosen only where they are found, and nowhere else are such names used on this
side. The other way is gRPC's public API: its own threads send and read, and hand each message over.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import grpc

from rpl_runtime.wire.control import PUBLIC_TRANSPORT

try:
    from grpc._cython import cygrpc
except ImportError:
    cygrpc = None

# cygrpc is compiled and untyped; the names of its types.
_Operation = Any  # cygrpc.Operation
_Status = Any  # cygrpc.ReceiveStatusOnClientOperation, or _Interrupted

_NAMES = (
    "ReceiveInitialMetadataOperation",
    "ReceiveMessageOperation",
    "ReceiveStatusOnClientOperation",
    "SendCloseFromClientOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
)

Metadata = tuple[tuple[str, str], ...]


class Transport(Protocol):
    """One call, message by message; for one thread, but any may cancel it."""

    def exchange(self, request: bytes, more_s: float = 0.0) -> bytes | None:
        """Send a message and await its reply, for longer [s] than others; None: the server has ended the call.

        Raises:
            grpc.RpcError: the call has failed, or no reply came in time.
        """
        ...

    def cancel(self) -> None:
        """End the call without waiting for the server."""
        ...

    def close(self) -> None:
        """End the call; returns when the server has ended it too, or takes too long."""
        ...


def open_call(channel: grpc.Channel, method: str, metadata: Metadata, timeout_s: float) -> Transport:
    """A call of a method with streams both ways, in the faster of the ways that are found.

    Args:
        channel: to the server.
        method: its path.
        metadata: of the call.
        timeout_s: [s] that a reply may take.
    """
    way = _CallingThread if way_to_call(channel) == _CallingThread.way else _Public
    return way(channel, method, metadata, timeout_s)


def way_to_call(channel: grpc.Channel) -> str:
    """The name of the way that calls on a channel take."""
    found = hasattr(getattr(channel, "_channel", None), "segregated_call") and all(hasattr(cygrpc, n) for n in _NAMES)
    return _CallingThread.way if found and not os.environ.get(PUBLIC_TRANSPORT) else _Public.way


class _CallingThread:
    """The thread that awaits a reply reads it from the network."""

    way = "calling thread"

    def __init__(self, channel: grpc.Channel, method: str, metadata: Metadata, timeout_s: float) -> None:
        assert cygrpc is not None
        self._timeout_s = timeout_s
        self._deadline = float("inf")  # [s] monotonic; while a reply is awaited
        self._status: _Status = None  # of the ended call
        self._over = threading.Event()
        self._due = {"begin", "headers", "status"}  # operations under way
        self._turn = threading.Lock()  # of the thread that reads
        self._call = channel._channel.segregated_call(  # type: ignore[attr-defined]
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            method.encode(),
            None,
            None,
            metadata,
            None,
            (
                ((cygrpc.SendInitialMetadataOperation(metadata, 0),), "begin"),
                ((cygrpc.ReceiveInitialMetadataOperation(0),), "headers"),
                ((cygrpc.ReceiveStatusOnClientOperation(0),), "status"),
            ),
            None,
        )
        self._send, self._receive = cygrpc.SendMessageOperation, cygrpc.ReceiveMessageOperation(0)
        threading.Thread(target=self._watch, name="rpl-deadline", daemon=True).start()

    def exchange(self, request: bytes, more_s: float = 0.0) -> bytes | None:
        with self._turn:
            self._deadline = time.monotonic() + self._timeout_s + more_s
            try:
                if self._started("message", self._send(request, 0), self._receive):
                    operations = self._await("message")
                    if (reply := operations[1].message()) is not None:
                        return reply
                self._await("status")
            finally:
                self._deadline = float("inf")
        if self._status.code() != grpc.StatusCode.OK.value[0]:
            raise _Failed(self._status)
        return None

    def cancel(self) -> None:
        self._over.set()
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], "cancelled by the client")
        if self._turn.acquire(blocking=False):  # or the thread that reads does the rest
            try:
                self._finish()
            finally:
                self._turn.release()

    def close(self) -> None:
        assert cygrpc is not None
        self._started("close", cygrpc.SendCloseFromClientOperation(0))  # ends an exchange in another thread too
        with self._turn:
            self._deadline = time.monotonic() + self._timeout_s
            self._finish()
        self._over.set()

    def _finish(self) -> None:
        while self._due:
            self._await(next(iter(self._due)))

    def _started(self, tag: str, *operations: _Operation) -> bool:
        """Begin operations under a tag; False: the call has ended."""
        self._due.add(tag)
        if self._status is None and self._call.operate(operations, tag):
            return True
        self._due.discard(tag)
        return False

    def _await(self, tag: str) -> Any:
        """The operations of a tag, once they are done."""
        operations = None
        while tag in self._due:
            try:
                event = self._call.next_event()
                self._due.discard(event.tag)
                if event.tag == "status":
                    self._status = event.batch_operations[0]
                    self._over.set()
                if event.tag == tag:
                    operations = event.batch_operations
            except BaseException:  # gRPC gives up a call in which Ctrl-C comes, and no other event of it follows
                self._due.clear()
                self._status = self._status or _Interrupted()
                self._over.set()
                raise
        return operations

    def _watch(self) -> None:
        """Cancel the call if a reply is late: the thread that awaits it cannot."""
        while not self._over.wait(self._timeout_s / 4):
            if time.monotonic() > self._deadline:
                self.cancel()


class _Interrupted:
    """The status of a call that Ctrl-C ended."""

    def code(self) -> int:
        return grpc.StatusCode.CANCELLED.value[0]

    def details(self) -> str:
        return "interrupted"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class _Failed(grpc.RpcError):
    """The status of a failed call, as `Connection.translate` reads it."""

    def __init__(self, status: _Status) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return next(code for code in grpc.StatusCode if code.value[0] == self._status.code())

    def details(self) -> str:
        return self._status.details()

    def trailing_metadata(self) -> Any:
        return self._status.trailing_metadata()


class _Public:
    """gRPC's threads send and read."""

    way = "public"

    def __init__(self, channel: grpc.Channel, method: str, metadata: Metadata, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline = float("inf")  # [s] monotonic; while a reply is awaited
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(method)(self._outgoing(), metadata=metadata)
        if not self._call.add_callback(self._end):
            self._end()

    def exchange(self, request: bytes, more_s: float = 0.0) -> bytes | None:
        self._deadline = time.monotonic() + self._timeout_s + more_s
        self._outbox.put(request)
        try:
            return next(self._call, None)
        finally:
            self._deadline = float("inf")

    def cancel(self) -> None:
        self._call.cancel()

    def close(self) -> None:
        ended = threading.Event()
        self._end()
        if self._call.add_callback(ended.set) and not ended.wait(self._timeout_s):
            self._call.cancel()

    def _end(self) -> None:
        self._outbox.put(None)

    def _outgoing(self) -> Iterator[bytes]:
        """The messages that gRPC's sending thread sends. While that thread is idle it also enforces the deadline."""
        while True:
            try:
                request = self._outbox.get(timeout=self._timeout_s / 4)
            except queue.Empty:
                if time.monotonic() > self._deadline:
                    self._call.cancel()
                continue
            if request is None:
                return
            yield request
