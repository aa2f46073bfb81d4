"""What stands before every call: who makes it, whether there is room for it, and which model it is for.

In: a call's name, metadata and peer. Out: the model and the caller's share, or why the call is refused. It does not
know what the call asks, nor gRPC.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

from rpl_runtime.auth.quotas import Quotas, Share, network_of
from rpl_runtime.auth.server import Gate
from rpl_runtime.auth.tokens import Right
from rpl_runtime.server.models import Model, Models
from rpl_runtime.wire.control import DIGEST_KEY, MODEL_KEY

_AUTHORIZATION = "authorization"

# What a call of rpl.v1.RelayPolicy needs; None: any right. Every other call needs the right to administer.
_RIGHTS: dict[str, Right | None] = {
    "Describe": None,
    "Fetch": Right.FETCH,
    "Plan": Right.ACT,
    "Act": Right.ACT,
    "Control": Right.ACT,
}
_AS_A_MESSAGE = {"Plan", "Act"}  # calls that a robot makes as often as it sends messages on a stream

Metadata = Iterable[tuple[str, str | bytes]]


class Caller(NamedTuple):
    name: str  # of a token, or a network
    share: Share


class Admission:
    """The same for every call of a server."""

    def __init__(self, gate: Gate, quotas: Quotas, models: Models) -> None:
        self._gate = gate
        self._quotas = quotas
        self._models = models

    def caller(self, method: str, metadata: Metadata, peer: str) -> Caller:
        """Who makes a call, if that one may.

        Args:
            method: the call's name, without its service.
            metadata: of the call.
            peer: the client's network address, as gRPC writes it.

        Raises:
            Unauthenticated, PermissionDenied: the caller may not.
            LimitReached: the caller makes too many.
        """
        grant = self._gate.admit(_RIGHTS.get(method, Right.ADMINISTER), _value(metadata, _AUTHORIZATION))
        name, now = network_of(peer) if grant is None else grant.name, time.monotonic()
        share = self._quotas.share(name, now)
        if method in _AS_A_MESSAGE:
            share.take_message(now)
        else:
            share.take_call(now)
        return Caller(name, share)

    def model(self, metadata: Metadata) -> Model:
        """The model that a call is for.

        Raises:
            ModelNotFound, BundleError: there is no such model.
        """
        return self._models.find(_value(metadata, MODEL_KEY), _value(metadata, DIGEST_KEY))


def _value(metadata: Metadata, key: str) -> str | None:
    found = next((value for name, value in metadata if name == key), None)
    return found.decode(errors="replace") if isinstance(found, bytes) else found
