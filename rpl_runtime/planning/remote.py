"""A planner in another process, asked over gRPC (planner.proto)."""

from collections.abc import Sequence
from itertools import islice

import grpc

from rpl_runtime.auth.client import INSECURE, Access, Connection, check_address
from rpl_runtime.auth.server import is_local
from rpl_runtime.errors import InvalidInput, PlannerLost, ProtocolViolation, ServerUnavailable
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.relay.plans import Plan, Question
from rpl_runtime.wire import planner as wire

_FIRST_ANSWER_S = 10.0  # [s] for the contract, as the server starts
_SILENCE_MS = 3000  # of silence before the planner is pinged, and again before it counts as gone
# A planner that was restarted is found again soon.
_SETTINGS: Sequence[tuple[str, int]] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.keepalive_time_ms", _SILENCE_MS),
    ("grpc.keepalive_timeout_ms", _SILENCE_MS),
)


class RemotePlanner:
    """A planner at an address (the `Planner` protocol). While it is gone, questions wait for it until their deadline.

    Args:
        address: HOST:PORT or unix:PATH.
        access: how it is reached; None reads it from the environment (auth/client.py).

    Raises:
        InvalidInput: the address is malformed, or of another machine, which would be reached in plain text.
    """

    def __init__(self, address: str, access: Access | None = None) -> None:
        check_address(address, "the planner's address")
        access = Access.from_environment() if access is None else access
        if not (is_local(address) or access.secure or access.insecure):
            raise InvalidInput(
                f"plans would come from {address} without TLS; must be over TLS, or {INSECURE}=1 in a trusted network"
            )
        self._address = address
        self._connection = Connection(address, access, _SETTINGS)

    def check(self, spec: PolicySpec) -> str:
        """Check that it plans for a policy. Returns its name.

        Raises:
            PlannerLost: no planner answers in time.
            InvalidInput: it plans for other states.
            ProtocolViolation: what answers is not a planner.
        """
        raw = self._ask(wire.CONTRACT, b"", _FIRST_ANSWER_S)
        contract, state = wire.unpack_contract(raw), spec.state
        for what, theirs, ours in (("names", contract.names, state.names), ("units", contract.units, state.units)):
            if theirs != ours:
                at = next((at for at, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
                odd = f"{len(theirs)} of them" if at is None else f"{theirs[at][:60]!r} at {at}"
                must = f"{len(ours)}" if at is None else f"{ours[at]!r}"
                raise InvalidInput(
                    f"the planner {contract.name} at {self._address} plans for states with other {what}, {odd}; "
                    f"{spec.name} has {must}"
                )
        return f"{contract.name} at {self._address}"

    def plan(self, question: Question, deadline_s: float) -> Plan:
        """As the protocol says."""
        return wire.unpack_plan(self._ask(wire.PLAN, wire.pack_question(question, deadline_s), deadline_s))

    def close(self) -> None:
        """End the connection, and every question on it."""
        self._connection.close()

    def _ask(self, path: str, request: bytes, deadline_s: float) -> bytes:
        # As a stream, so that a second answer is seen.
        call = self._connection.channel.unary_stream(path)
        try:
            replies = call(request, timeout=deadline_s, metadata=self._connection.metadata, wait_for_ready=True)
            answers = list(islice(replies, 2))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # type: ignore[attr-defined]
                raise PlannerLost(f"{self._address} has not answered within {deadline_s:.3g} s") from None
            raise self._connection.translate(error, deadline_s) from None
        except ValueError:  # the channel is closed
            raise ServerUnavailable(f"the connection to {self._address} is closed") from None
        if len(answers) != 1:
            replies.cancel()
            raise ProtocolViolation(f"{self._address} gave {len(answers) or 'no'} answers; must give one")
        return answers[0]
