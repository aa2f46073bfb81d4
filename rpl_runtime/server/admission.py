"""What every call passes before it is answered: its caller's turn, rights and quota, and the model that it is for.

It also reports the call to the observers, and ends a call that fails with the status of its error.
"""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import grpc
import grpc.aio

from rpl_runtime.auth.quotas import Quotas, caller_of
from rpl_runtime.auth.server import Gate
from rpl_runtime.auth.tokens import Right
from rpl_runtime.errors import RelayError
from rpl_runtime.server.models import Model, Models
from rpl_runtime.server.turns import Turn, Turns
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
_WATCHING = {"ListRobots", "WatchRobots"}  # calls of rpl.v1.RelayAdmin that change nothing and tell only of robots
_AS_A_MESSAGE = {"Plan", "Act"}  # a robot makes these calls as often as it sends messages on a stream
_INTERNAL = "the server failed to answer; its own log says why"


class Call(NamedTuple):
    """An admitted call."""

    turn: Turn  # the caller's
    model: Model  # that answers
    observers: Sequence[CallObserver]  # of this call


@dataclass(eq=False)
class Admission:
    """The gate of a server's calls."""

    gate: Gate  # checks the callers' rights
    quotas: Quotas  # limit each caller's calls
    models: Models  # that calls can name
    observers: Sequence[Observer]  # each makes an observer of every call

    def __post_init__(self) -> None:
        self._turns = Turns()

    @asynccontextmanager
    async def policy_call(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[Call]:
        """Admit a call of rpl.v1.RelayPolicy for the length of the block; an error ends the call with its status.

        The call ends with
            Unauthenticated, PermissionDenied: the caller lacks the right.
            LimitReached: the caller exceeds its quota.
            ModelNotFound, BundleError: no such model is served.
        """
        async with self._admitted(method, _RIGHTS[method], context) as (metadata, turn, observers):
            model = self.models.find(_value(metadata, MODEL_KEY), _value(metadata, DIGEST_KEY))
            for observer in observers:
                observer.admitted(turn.share.caller, model.info)
            yield Call(turn, model, observers)

    @asynccontextmanager
    async def admin_call(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[Turn]:
        """Admit a call of rpl.v1.RelayAdmin for the length of the block, as `policy_call` does."""
        right = Right.WATCH if method in _WATCHING else Right.ADMINISTER
        async with self._admitted(method, right, context) as (_, turn, observers):
            for observer in observers:
                observer.admitted(turn.share.caller, None)
            yield turn

    @asynccontextmanager
    async def open_call(self, context: grpc.aio.ServicerContext) -> AsyncIterator[Turn]:
        """Admit a call that anybody may make, unobserved, for the length of the block."""
        try:
            turn = await self._guest(context)
            turn.share.take_call(time.monotonic())
            with turn.share.open_call():
                yield turn
        except RelayError as error:
            await _abort(context, error)

    @asynccontextmanager
    async def _admitted(
        self, method: str, right: Right | None, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[tuple[Metadata, Turn, list[CallObserver]]]:
        metadata = context.invocation_metadata() or ()
        observers = [observer(method, metadata, context.peer()) for observer in self.observers]
        try:
            turn = await self._guest(context)
            with turn:
                grant = self.gate.admit(right, _value(metadata, "authorization"))
            if grant is not None:
                turn = self._turns.of(self.quotas.share(grant.name, time.monotonic()))
                await turn.wait()
            if method not in _AS_A_MESSAGE:
                turn.share.take_call(time.monotonic())
            with nullcontext() if method == "Control" else turn.share.open_call():  # Streams counts those of Control
                yield metadata, turn, observers
        except Exception as error:
            for observer in observers:
                observer.failed(error)
            await _abort(context, error)
        finally:
            for observer in observers:
                observer.ended()

    async def _guest(self, context: grpc.aio.ServicerContext) -> Turn:
        """The turn of a caller that has not shown its token, once it may be served: its refusals take time too."""
        turn = self._turns.of(self.quotas.share(caller_of(context.peer()), time.monotonic()))
        await turn.wait()
        return turn


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> None:
    """End a call with the status of an error. The text of a foreign exception is for the observers only."""
    shown = error if isinstance(error, RelayError) else RelayError(_INTERNAL)
    try:
        await context.abort(status_of(shown), str(shown), trailing_metadata=(("rpl-reason", type(shown).__name__),))
    except Exception as aborted:  # as it always does
        # Circles of references keep both, and with them the frames that hold the call's message.
        for raised in (error, aborted):
            asyncio.get_running_loop().call_soon(lambda raised=raised: traceback.clear_frames(raised.__traceback__))
        raise


def _value(metadata: Metadata, key: str) -> str | None:
    found = next((value for name, value in metadata if name == key), None)
    return found.decode(errors="replace") if isinstance(found, bytes) else found
