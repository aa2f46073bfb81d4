"""What one caller can send without end, each from a process of its own at a low priority.

They share a machine: the priority leaves the attacker the processor time that server and robot do not want.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from attack.http2 import WIDE, Http2
from attack.served import Served
from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.process import own_process

_POLICY = "/rpl.v1.RelayPolicy/"
_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

Messages = Iterator[bytes]  # of one stream


@contextmanager
def flood(attack: str, served: Served) -> Iterator[None]:
    """Attack a server for the length of the block."""
    with own_process(_run, attack, served.address, served.tokens.get("attacker", ""), str(served.bundle.path)):
        yield


def _run(on_ready: Callable[[str], None], attack: str, address: str, token: str, bundle: str) -> None:
    os.nice(10)
    with ExitStack() as stack, suppress(OSError):  # the server has ended
        FLOODS[attack](Attack(stack, address, token or None, load_bundle(bundle).spec), lambda: on_ready(""))


class Attack:
    """An attacker's connections."""

    def __init__(self, stack: ExitStack, address: str, token: str | None, spec: PolicySpec) -> None:
        self._stack, self._address, self.token, self.spec = stack, address, token, spec

    def connect(self, window: int = WIDE) -> Http2:
        connection = self._stack.enter_context(Http2(self._address, window))
        connection.hear(5.0)  # the server's limits
        return connection

    def observation(self, robot: str, step: int) -> pb.RequestRow:
        return pb.RequestRow(robot=robot, observation=pb.Observation(step=step, state=[0.0] * self.spec.state.dim))

    def start(self, robot: str) -> pb.RequestRow:
        goal = pb.Goal(elements=pb.ElementSet(names=[next(iter(self.spec.elements))]))
        state = [0.0] * self.spec.state.dim
        return pb.RequestRow(robot=robot, start=pb.Start(goal=goal, state=state))


def _streams(attack: Attack, messages: list[Messages], begun: Callable[[], None]) -> None:
    """A Control stream for each sequence of messages, as fast as the server takes them, opened anew when it ends."""
    connection = attack.connect()
    streams: dict[int, tuple[int | None, bytes]] = dict.fromkeys(range(len(messages)), (None, b""))
    for turn in range(1_000_000_000):
        for at, (stream, message) in streams.items():
            if stream is None or stream not in connection:
                stream = connection.call(f"{_POLICY}Control", attack.token)
            message = message or next(messages[at])
            sent = stream is not None and connection.send(stream, message)
            streams[at] = stream, b"" if sent else message
        if turn == 3:
            begun()
        connection.hear(0.001)


def _calls(attack: Attack, path: str, request: bytes, token: str | None, begun: Callable[[], None]) -> None:
    """As many calls at once as the server takes, again and again."""
    connection = attack.connect()
    for turn in range(1_000_000_000):
        while (stream := connection.call(path, token)) is not None:
            if not connection.send(stream, request, last=True):
                break
        if turn == 3:
            begun()
        connection.hear(0.01)


def _rows(attack: Attack, begun: Callable[[], None], streams: int, rows: int) -> None:
    def messages(stream: int) -> Messages:
        robots = [f"attacker {stream}-{row}" for row in range(rows)]
        yield pb.ControlRequest(rows=[attack.start(robot) for robot in robots]).SerializeToString()
        for step in range(2**31):
            yield pb.ControlRequest(rows=[attack.observation(robot, step) for robot in robots]).SerializeToString()

    _streams(attack, [messages(stream) for stream in range(streams)], begun)


def _refused(attack: Attack, begun: Callable[[], None]) -> None:
    """Rows of robots that never began."""
    message = pb.ControlRequest(rows=[attack.observation("nobody", 0)] * 256).SerializeToString()
    _streams(attack, [iter(lambda: message, None) for _ in range(16)], begun)


def _sizes(attack: Attack, begun: Callable[[], None]) -> None:
    """Messages of very different sizes on many streams, some of which end a stream."""
    row, rng = attack.observation("nobody", 0), random.Random(0)
    messages = [pb.ControlRequest(rows=[row] * rows).SerializeToString() for rows in (1, 3, 17, 100, 256)]
    messages.append(pb.ControlRequest(rows=[pb.RequestRow()] * 100_000).SerializeToString())
    _streams(attack, [iter(lambda: rng.choice(messages), None) for _ in range(200)], begun)


def _empty(attack: Attack, begun: Callable[[], None]) -> None:
    """Messages of nearly a MiB with half a million rows that hold nothing."""
    message = pb.ControlRequest(rows=[pb.RequestRow()] * 500_000).SerializeToString()
    _streams(attack, [iter(lambda: message, None) for _ in range(8)], begun)


def _names(attack: Attack, begun: Callable[[], None]) -> None:
    """Messages of nearly a MiB with very many fields."""
    goal = pb.Goal(elements=pb.ElementSet(names=["\x01"] * 300_000))
    message = pb.ControlRequest(rows=[pb.RequestRow(robot="nobody", start=pb.Start(goal=goal))]).SerializeToString()
    _streams(attack, [iter(lambda: message, None) for _ in range(8)], begun)


def _garbage(attack: Attack, begun: Callable[[], None]) -> None:
    """The same, spoiled at its end, so that each is a call that fails."""
    goal = pb.Goal(elements=pb.ElementSet(names=["\x01"] * 300_000))
    row = pb.RequestRow(robot="\x01", start=pb.Start(goal=goal))
    _streams(attack, [iter(lambda: pb.ControlRequest(rows=[row]).SerializeToString(), None) for _ in range(8)], begun)


def _batches(attack: Attack, begun: Callable[[], None]) -> None:
    spec, rows = attack.spec, 1000
    floats = random.Random(0).choices([0.0, 0.01], k=rows * spec.state.dim)
    request = pb.PlanRequest(
        batch=rows, state=floats, goal=floats, mask=[1.0] * len(floats), noise=[0.0] * (rows * spec.high_noise)
    )
    _calls(attack, f"{_POLICY}Plan", request.SerializeToString(), attack.token, begun)


def _watchers(attack: Attack, begun: Callable[[], None]) -> None:
    """A thousand health watchers that take no reply."""
    connections = [attack.connect(window=0) for _ in range(4)]
    for number in range(1000):
        connection = connections[number % 4]
        stream = connection.call(f"{_HEALTH}Watch")
        if stream is not None:
            connection.send(stream, b"")
    begun()
    while True:
        for connection in connections:
            connection.hear(0.1)


FLOODS: dict[str, Callable[[Attack, Callable[[], None]], None]] = {
    "240 streams of 4 rows": lambda attack, begun: _rows(attack, begun, 240, 4),
    "8 streams of 256 rows": lambda attack, begun: _rows(attack, begun, 8, 256),
    "refused rows": _refused,
    "rows of all sizes": _sizes,
    "empty rows": _empty,
    "endless names": _names,
    "garbage": _garbage,
    "large batches": _batches,
    "Describe": lambda attack, begun: _calls(attack, f"{_POLICY}Describe", b"", attack.token, begun),
    "Fetch": lambda attack, begun: _calls(attack, f"{_POLICY}Fetch", b"", attack.token, begun),
    "no token": lambda attack, begun: _calls(attack, f"{_POLICY}Describe", b"", None, begun),
    "admin": lambda attack, begun: _calls(attack, "/rpl.v1.RelayAdmin/ListRobots", b"", attack.token, begun),
    "health": lambda attack, begun: _calls(attack, f"{_HEALTH}Check", b"", None, begun),
    "reflection": lambda attack, begun: _calls(attack, _REFLECTION, b"\x3a\x00", None, begun),
    "unknown calls": lambda attack, begun: _calls(attack, "/nothing/Nothing", b"", None, begun),
    "watchers without a window": _watchers,
}
