"""What every call passes before it is answered: its caller's rights and quota, and the model that it is for.

It also reports the call to the observers, and ends a call that fails with the status of its error.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import grpc.aio

from rpl_runtime.auth.quotas import Quotas, Share, network_of
from rpl_runtime.auth.server import Gate
from rpl_runtime.auth.tokens import Right
from rpl_runtime.errors import RelayError
from rpl_runtime.server.models import Model, Models
from rpl_runtime.telemetry.observer import CallObserver, Metadata, Observer
from rpl_runtime.wire.control import DIGEST_KEY, MODEL_KEY, status_of

# The right that a call of rpl.v1.RelayPolicy needs; None: any right.
_RIGHTS: dict[str, Right | None] = {
    "Describe": None,
    "Fetch": Right.FETCH,
    "Plan": Right.ACT,
    "Act": Right.ACT,
    "Control": Right.ACT,
}
_AS_A_MESSAGE = {"Plan", "Act"}  # a robot makes these calls as often as it sends messages on a stream
_INTERNAL = "the server failed to answer; its own log says why"


class Call(NamedTuple):
    """An admitted call."""

    share: Share  # the caller's
    model: Model  # that answers
    observers: Sequence[CallObserver]  # of this call


@dataclass(eq=False)
class Admission:
    """The gate of a server's calls."""

    gate: Gate  # checks the callers' rights
    quotas: Quotas  # limit each caller's calls
    models: Models  # that calls can name
    observers: Sequence[Observer]  # each makes an observer of every call

    @asynccontextmanager
    async def policy_call(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[Call]:
        """Admit a call of rpl.v1.RelayPolicy for the length of the block; an error ends the call with its status.

        The call ends with
            Unauthenticated, PermissionDenied: the caller lacks the right.
            LimitReached: the caller exceeds its quota.
            ModelNotFound, BundleError: no such model is served.
        """
        async with self._admitted(method, _RIGHTS[method], context) as (metadata, name, share, observers):
            model = self.models.find(_value(metadata, MODEL_KEY), _value(metadata, DIGEST_KEY))
            for observer in observers:
                observer.admitted(name, model.info)
            yield Call(share, model, observers)

    @asynccontextmanager
    async def admin_call(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        """Admit a call of rpl.v1.RelayAdmin for the length of the block, as `policy_call` does."""
        async with self._admitted(method, Right.ADMINISTER, context) as (_, name, _, observers):
            for observer in observers:
                observer.admitted(name, None)
            yield

    @asynccontextmanager
    async def _admitted(
        self, method: str, right: Right | None, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[tuple[Metadata, str, Share, list[CallObserver]]]:
        metadata, peer, now = context.invocation_metadata() or (), context.peer(), time.monotonic()
        observers = [observer(method, metadata, peer) for observer in self.observers]
        try:
            grant = self.gate.admit(right, _value(metadata, "authorization"))
            name = network_of(peer) if grant is None else grant.name
            share = self.quotas.share(name, now)
            if method in _AS_A_MESSAGE:
                share.take_message(now)
            else:
                share.take_call(now)
            yield metadata, name, share, observers
        except Exception as error:
            for observer in observers:
                observer.failed(error)
            # The text of a foreign exception is for the observers only.
            shown = error if isinstance(error, RelayError) else RelayError(_INTERNAL)
            reason = (("rpl-reason", type(shown).__name__),)
            await context.abort(status_of(shown), str(shown), trailing_metadata=reason)
        finally:
            for observer in observers:
                observer.ended()


def _value(metadata: Metadata, key: str) -> str | None:
    found = next((value for name, value in metadata if name == key), None)
    return found.decode(errors="replace") if isinstance(found, bytes) else found
