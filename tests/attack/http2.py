"""A client that speaks HTTP/2 by hand: it can close windows, and sends faster than gRPC's own."""

import itertools
import select
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8  # types of frames
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_STREAMS_SETTING, _WINDOW_SETTING = 3, 4
WIDE = 2**31 - 1  # [bytes] the largest window


class Http2:
    """One connection.

    Args:
        address: HOST:PORT, in plain text.
        window: bytes of each stream that the server may send before this client takes more, which it never does.
        streams: calls that are open at once, at most.
    """

    def __init__(self, address: str, window: int = WIDE, streams: int = 300) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._numbers = itertools.count(1, 2)
        self._room = {0: 65_535}  # [bytes] that may still be sent, of each stream; 0: of the connection
        self._first_room = 65_535
        self._streams = streams
        self._received = b""
        widen = _frame(_WINDOW, 0, 0, struct.pack(">I", WIDE - 65_535))
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _WINDOW_SETTING, window)) + widen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def __contains__(self, stream: int) -> bool:
        """Whether a stream is open."""
        return stream in self._room

    def call(self, path: str, token: str | None = None) -> int | None:
        """Begin a call. Returns its stream; None if as many are open as may."""
        if len(self._room) > self._streams:
            return None
        stream = next(self._numbers)
        self._room[stream] = self._first_room
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        headers["content-type"] = "application/grpc"
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, stream, block))
        return stream

    def send(self, stream: int, message: bytes, last: bool = False) -> bool:
        """Send a message on a stream. Returns whether the stream is open and its window has room for it."""
        body = b"\x00" + struct.pack(">I", len(message)) + message
        if min(self._room.get(stream, 0), self._room[0]) < len(body):
            return False
        for number in (0, stream):
            self._room[number] -= len(body)
        parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        ends = [0] * (len(parts) - 1) + [_END_STREAM if last else 0]
        self._socket.sendall(b"".join(_frame(_DATA, end, stream, part) for part, end in zip(parts, ends, strict=True)))
        return True

    def hear(self, timeout_s: float = 0.0) -> int:
        """Take what has come. Returns the number of messages' frames in it.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        messages = 0
        while select.select([self._socket], [], [], timeout_s)[0]:
            timeout_s = 0.0
            received = self._socket.recv(1 << 20)
            if not received:
                raise ConnectionError("the server closed the connection")
            self._received += received
            for kind, flags, stream, content in self._frames():
                messages += kind == _DATA
                if kind == _SETTINGS and not flags & _ACK:
                    self._set(content)
                elif kind == _PING and not flags & _ACK:
                    self._socket.sendall(_frame(_PING, _ACK, 0, content))
                elif kind == _WINDOW and stream in self._room:
                    self._room[stream] += struct.unpack(">I", content)[0]
                elif kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                    self._room.pop(stream, None)
        return messages

    def _set(self, content: bytes) -> None:
        for at in range(0, len(content), 6):
            setting, value = struct.unpack(">HI", content[at : at + 6])
            if setting == _WINDOW_SETTING:
                for stream in self._room.keys() - {0}:
                    self._room[stream] += value - self._first_room
                self._first_room = value
            elif setting == _STREAMS_SETTING:
                self._streams = min(self._streams, value)
        self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        at = 0
        while len(self._received) >= at + 9:
            size = int.from_bytes(self._received[at : at + 3])
            if len(self._received) < at + 9 + size:
                break
            kind, flags, stream = struct.unpack(">BBI", self._received[at + 3 : at + 9])
            yield kind, flags, stream & WIDE, self._received[at + 9 : at + 9 + size]
            at += 9 + size
        self._received = self._received[at:]


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + content


def _text(text: str) -> bytes:
    """A string of HPACK, of less than 255 bytes."""
    raw = text.encode(errors="surrogateescape")
    return (bytes([len(raw)]) if len(raw) < 127 else bytes([127, len(raw) - 127])) + raw
