"""Faults between a robot and its server: a server that dies, messages and packets that are lost."""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import grpc
import numpy as np

from rpl_runtime.wire import control as codec

# ------------------------------------------------------------------------------------------ servers that are killed


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Imitate a full disk: writing past `size` bytes of any file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Inside(NamedTuple):
    """The death of a server during a call of the policy."""

    level: str  # "plan" or "act"
    call: int  # the call in which it happens, counted from 1
    computed: bool  # whether the network has run, so that only the answer is lost


Death = Inside | float  # or a time [s] after the server was ready


class Mortal:
    """A server process at one address, killed once for each of `deaths` and restarted each time."""

    def __init__(self, bundle: Path, deaths: Sequence[Death]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.died = 0
        self._bundle = bundle
        self._deaths = iter(deaths)
        self._ready, self._over = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep)

    def __enter__(self) -> "Mortal":
        self._keeper.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._now.pid, signal.SIGKILL)
        self._keeper.join()

    def _keep(self) -> None:
        try:
            self._begin_anew()
        finally:
            self._ready.set()  # or the test would wait for a server that failed to start

    def _begin_anew(self) -> None:
        spare: subprocess.Popen[bytes] | None = self._prepare()
        while spare is not None and not self._over.is_set():
            death = next(self._deaths, None)
            # The next process imports while this one serves.
            self._now, spare = spare, None if death is None else self._prepare()
            order = {"bundle": str(self._bundle), "address": self.address}
            inside = death._asdict() if isinstance(death, Inside) else None
            assert self._now.stdin is not None
            assert self._now.stdout is not None
            self._now.stdin.write(json.dumps(order | {"death": inside}).encode() + b"\n")
            self._now.stdin.flush()
            said = self._now.stdout.readline()
            # The end of the block kills it, ready or not; and a robot that waits may call, and so end it, before that.
            assert said == b"ready\n" or self._over.is_set() or inside is not None
            self._ready.set()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._now.wait(death if isinstance(death, float) else None)
            self._now.kill()
            assert self._now.wait() == -signal.SIGKILL
            self._now.communicate()
            self.died += death is not None and not self._over.is_set()
        if spare is not None:
            spare.kill()
            spare.communicate()

    @staticmethod
    def _prepare() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _serve() -> None:
    """The server's process: reads its order, serves, and dies as ordered."""
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.policy.trial import tried_by_parent
    from rpl_runtime.server.server import ServerConfig, serve

    raw = sys.stdin.readline()
    if not raw:  # the spare process was not needed
        return
    order = json.loads(raw)
    threading.Thread(target=_end_with_the_test, daemon=True).start()

    if order["death"] is not None:
        _doom(**order["death"])  # before the server listens: a waiting robot calls at once
    bundle = load_bundle(Path(order["bundle"]))
    tried_by_parent([bundle.digest])  # without a trial, which has tests of its own
    serve(bundle, ServerConfig(order["address"]), _say_ready)


def _say_ready(address: str) -> None:
    print("ready", flush=True)


def _end_with_the_test() -> None:
    sys.stdin.read()
    os._exit(1)


def _doom(level: str, call: int, computed: bool) -> None:
    """Die at a call of a level for one robot."""
    from rpl_runtime.policy.graphs import Graph, OnnxPolicy

    # Count only the calls of robots.
    OnnxPolicy.warm_up = lambda self: None  # type: ignore[method-assign]
    OnnxPolicy.find_joint = lambda self: None  # type: ignore[method-assign]
    OnnxPolicy.plan_time_s = lambda self: 0.0  # type: ignore[method-assign]
    original, calls, count = Graph.run_one, iter(range(1, call + 1)), {"plan": 4, "act": 3}[level]

    def doomed(graph: Graph, *inputs: np.ndarray) -> np.ndarray:
        last = len(inputs) == count and next(calls) == call
        if last and not computed:
            os.kill(os.getpid(), signal.SIGKILL)
        output = original(graph, *inputs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return output

    Graph.run_one = doomed  # type: ignore[method-assign]


def free_port() -> int:
    """A free port outside the range of outgoing connections, which could take it while its server is down."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, ephemeral)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


# ------------------------------------------------------------------------------------------------------ messages

METHODS = {"Describe": "unary_unary", "Fetch": "unary_stream", "Plan": "unary_unary", "Control": "stream_stream"}


class Meddler:
    """A proxy between a robot and its server that passes messages on, except for the given faults.

    Args:
        upstream: the address of the server.
        faults: number of a message of Control or Plan, counted from 0 over all streams -> its fault.
    """

    def __init__(self, upstream: str, faults: dict[int, str]) -> None:
        self.calls: list[str] = []
        self.happened: list[str] = []
        self.held = threading.Event()  # set to let a held plan go
        self._faults = dict(faults)
        self._messages = 0
        self._channel = grpc.insecure_channel(upstream)
        self._workers = futures.ThreadPoolExecutor(16)
        self._server = grpc.server(self._workers)
        handlers = {
            "Describe": grpc.unary_unary_rpc_method_handler(self._unary("Describe")),
            "Fetch": grpc.unary_stream_rpc_method_handler(self._fetch),
            "Plan": grpc.unary_unary_rpc_method_handler(self._unary("Plan")),
            "Control": grpc.stream_stream_rpc_method_handler(self._control),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(codec.SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "Meddler":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self._server.stop(None).wait()
        self._channel.close()
        self._workers.shutdown()

    def _fault(self) -> str | None:
        fault = self._faults.pop(self._messages, None)
        self._messages += 1
        if fault is not None:
            self.happened.append(fault)
        return fault

    def _call(self, method: str) -> Any:
        kind = METHODS[method]
        return getattr(self._channel, kind)(f"/{codec.SERVICE}/{method}")

    def _unary(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls.append(method)
            fault = self._fault() if method == "Plan" else None
            metadata = _pinned(context)
            if fault == "hold":
                self.held.wait()
            if fault == "duplicate request":
                self._call(method)(request, metadata=metadata)
            if fault != "drop request":
                reply = self._call(method)(request, metadata=metadata)
                if fault is None or not fault.startswith("drop"):
                    return reply
            _wait_for_end(context)
            return b""

        return call

    def _fetch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.calls.append("Fetch")
        yield from self._call("Fetch")(request, metadata=_pinned(context))

    def _control(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.calls.append("Control")
        outbox: SimpleQueue[bytes | None] = SimpleQueue()
        replies = self._call("Control")(iter(outbox.get, None), metadata=_pinned(context))
        context.add_callback(lambda: outbox.put(None))
        context.add_callback(replies.cancel)

        def ask(request: bytes) -> bytes:
            outbox.put(request)
            return next(replies)

        before = b""
        for request in requests:
            match self._fault():
                case "drop request":
                    continue
                case "drop reply":
                    ask(request)
                    continue
                case "duplicate request":
                    yield ask(request)
                    yield ask(request)
                    continue
                case "cut":
                    context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                case "late":
                    reply = ask(request)
                    _wait_for_end(context)
                case "duplicate reply":
                    reply = ask(request)
                    yield reply
                case "older reply first":
                    yield before
                    reply = ask(request)
                case _:
                    reply = ask(request)
            yield reply
            before = reply
        outbox.put(None)


def _pinned(context: grpc.ServicerContext) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in context.invocation_metadata() if key == codec.DIGEST_KEY]


def _wait_for_end(context: grpc.ServicerContext) -> None:
    """Return when the client has given up."""
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait()


# ------------------------------------------------------------------------------------------------------- packets


class Cable:
    """A TCP proxy whose cable can be pulled: neither end notices, and new connections work."""

    def __init__(self, upstream: str) -> None:
        host, port = upstream.split(":")
        self._upstream = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._cut = 0  # connections with a lower number are dead
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "Cable":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def pull(self) -> None:
        """From now on no data passes through the existing connections."""
        self._cut = len(self._ends)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(self._upstream)
                number = len(self._ends)
                self._ends += [here, there]
                for source, target in ((here, there), (there, here)):
                    thread = threading.Thread(target=self._pump, args=(number, source, target))
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, number: int, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if number >= self._cut:
                    target.sendall(data)
            if number >= self._cut:
                target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    _serve()
