"""Seeded hostile clients: arbitrary, oversized and disordered messages, and wrong, expired and missing tokens.

Each attack names the correct statuses; any other is wrong.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.auth.tokens import new_token
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.wire.control import MAX_MESSAGE_BYTES

_SERVICE = "rpl.v1.RelayPolicy"
_S, _GZIP = grpc.StatusCode, grpc.Compression.Gzip
# Correct statuses for arbitrary bytes: accepted, or wrong in form, order or number.
_OF_ANY_BYTES = {_S.OK, _S.INVALID_ARGUMENT, _S.FAILED_PRECONDITION, _S.RESOURCE_EXHAUSTED}


@dataclass
class Tally:
    """The results of the attack so far, shared by the attackers."""

    asked: int  # messages to send
    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)  # "attack STATUS" -> how often
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, attack: str, messages: int, status: grpc.StatusCode, right: set[grpc.StatusCode]) -> None:
        with self.lock:
            self.sent += messages
            self.statuses[f"{attack} {status.name}"] += 1
            if status not in right:
                self.wrong.append(f"{attack} ended with {status.name}")


class Attacker:
    """A hostile client with its own connection and seed."""

    def __init__(self, address: str, spec: PolicySpec, tokens: dict[str, str], seed: int) -> None:
        self._address, self._spec, self._tokens = address, spec, tokens
        self._rng = random.Random(seed)
        self._attacks: list[Callable[[], tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]]] = [
            self._fuzz,
            self._fuzz,
            self._mutants,
            self._mutants,
            self._out_of_order,
            self._oversized,
            self._long_names,
            self._many_names,
            self._compressed,
            self._half_closed,
            self._stranger,
            self._unary,
            self._unread,
        ]

    def run(self, tally: Tally) -> None:
        """Attack until enough messages were sent."""
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as self._channel:
            while tally.sent < tally.asked:
                tally.count(*self._rng.choice(self._attacks)())

    def _fuzz(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        messages = [self._rng.randbytes(self._rng.randrange(200)) for _ in range(5)]
        return "random bytes", len(messages), self._control(messages), _OF_ANY_BYTES

    def _mutants(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        messages = [self._mutant(raw) for raw in self._sound(20)]
        return "mutants", len(messages), self._control(messages), _OF_ANY_BYTES

    def _out_of_order(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        messages = self._sound(40)
        self._rng.shuffle(messages)  # each row is accepted, or refused in its reply
        return "out of order", len(messages), self._control(messages), {_S.OK, _S.RESOURCE_EXHAUSTED}

    def _oversized(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        status = self._control([bytes(MAX_MESSAGE_BYTES + self._rng.randrange(1, 1000))])
        return "oversized", 1, status, {_S.RESOURCE_EXHAUSTED}

    def _long_names(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        """A robot id that would fill the log, or control an operator's terminal."""
        name = self._rng.choice(["x" * self._rng.randrange(129, MAX_MESSAGE_BYTES // 2), "\x1b[2J"])
        start = pb.ControlRequest(rows=[pb.RequestRow(robot=name, finish=pb.Finish())])
        status = self._control([start.SerializeToString()])
        return "long names", 1, status, {_S.INVALID_ARGUMENT, _S.RESOURCE_EXHAUSTED}

    def _many_names(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        """A goal of so many elements that listing the unknown ones would take long."""
        goal = pb.Goal(elements=pb.ElementSet(names=["\x01"] * self._rng.randrange(1000, 300_000)))
        start = pb.ControlRequest(rows=[pb.RequestRow(robot="nobody", start=pb.Start(goal=goal))])
        status = self._control([start.SerializeToString()])
        return "many names", 1, status, {_S.OK, _S.RESOURCE_EXHAUSTED}  # refused in its reply

    def _compressed(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        """A few KiB that unpack to as many MiB."""
        bomb = bytes(self._rng.randrange(2, 6) * MAX_MESSAGE_BYTES)
        return "compressed", 1, _status(self._open(iter([bomb]), compression=_GZIP)), {_S.RESOURCE_EXHAUSTED}

    def _half_closed(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        """Close the sending side, or cancel, while replies are outstanding."""
        messages = _Counted(self._sound(self._rng.randrange(1, 10)))
        call = self._open(messages)
        if self._rng.random() < 0.5:
            call.cancel()
            return "abandoned", messages.taken, call.code(), {_S.CANCELLED, _S.OK, _S.RESOURCE_EXHAUSTED}
        status = _status(call)
        return "half closed", messages.taken, status, {_S.OK, _S.RESOURCE_EXHAUSTED}

    def _stranger(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        kind = self._rng.choice(["no", "wrong", "expired", "fetching"])
        token = {"no": None, "wrong": new_token()}.get(kind, self._tokens.get(kind))
        right = _S.PERMISSION_DENIED if kind == "fetching" else _S.UNAUTHENTICATED
        return f"{kind} token", 1, self._control(self._sound(1), token), {right, _S.RESOURCE_EXHAUSTED}

    def _unary(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        method = self._rng.choice(["Plan", "Act", "Describe"])
        call = self._channel.unary_unary(f"/{_SERVICE}/{method}")
        raw = self._rng.randbytes(self._rng.randrange(100))
        future = call.future(raw, timeout=60, metadata=_bearer(self._tokens["attacker"]))
        return method, 1, future.code(), _OF_ANY_BYTES

    def _unread(self) -> tuple[str, int, grpc.StatusCode, set[grpc.StatusCode]]:
        """Request more replies than a connection buffers, read one, and then stop reading."""
        rows = [pb.RequestRow(robot="nobody", observation=pb.Observation())] * 256  # each is refused in a sentence
        messages = _Counted([pb.ControlRequest(rows=rows).SerializeToString()] * 20)
        call = self._open(messages)
        try:
            next(call, None)
        except grpc.RpcError:
            return "slow reader", messages.taken, call.code(), {_S.RESOURCE_EXHAUSTED}
        time.sleep(0.05)  # the server's replies fill the buffers
        call.cancel()
        return "slow reader", messages.taken, call.code(), {_S.CANCELLED, _S.OK, _S.RESOURCE_EXHAUSTED}

    def _sound(self, count: int) -> list[bytes]:
        """The messages of a valid run: start, control steps, a change of goal, the end."""
        robot = f"attacker {self._rng.randrange(20)}"
        state = [0.0] * self._spec.state.dim
        goal = pb.Goal(elements=pb.ElementSet(names=[next(iter(self._spec.elements))]))
        rows = [pb.RequestRow(robot=robot, start=pb.Start(goal=goal, state=state, seed=1))]
        rows += [
            pb.RequestRow(robot=robot, observation=pb.Observation(step=step, state=state)) for step in range(count - 2)
        ]
        rows += [pb.RequestRow(robot=robot, set_goal=pb.SetGoal(goal=goal, state=state))]
        rows += [pb.RequestRow(robot=robot, finish=pb.Finish())]
        return [pb.ControlRequest(rows=[row]).SerializeToString() for row in rows[:count]]

    def _mutant(self, raw: bytes) -> bytes:
        changed = bytearray(raw)
        for _ in range(self._rng.randrange(1, 4)):
            at = self._rng.randrange(len(changed))
            match self._rng.randrange(3):
                case 0:
                    changed[at] = self._rng.randrange(256)
                case 1:
                    del changed[at : at + self._rng.randrange(1, 9)]
                    changed = changed or bytearray(1)
                case _:
                    changed[at:at] = self._rng.randbytes(self._rng.randrange(1, 9))
        return bytes(changed)

    def _control(self, messages: list[bytes], token: str | None = "") -> grpc.StatusCode:
        return _status(self._open(iter(messages), token))

    def _open(
        self, messages: Iterator[bytes], token: str | None = "", compression: grpc.Compression | None = None
    ) -> Any:
        shown = self._tokens["attacker"] if token == "" else token
        call = self._channel.stream_stream(f"/{_SERVICE}/Control")
        return call(messages, timeout=60, metadata=_bearer(shown), compression=compression)


class _Counted:
    """Messages, and the number of them that gRPC took to send."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = iter(messages)
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        message = next(self._messages)
        self.taken += 1
        return message


def _bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _status(call: Any) -> grpc.StatusCode:
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    return call.code()
