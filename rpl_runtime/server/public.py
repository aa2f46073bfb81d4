"""The calls that anybody may make: health checks, reflection, and calls of names that do not exist.

They take raw bytes, so that a malformed request waits for its turn and gets a status of ours.

grpc_health's own servicer holds a lock while it writes to a watcher, and sets a status under the same lock: a watcher
that takes no reply would keep the server from changing a status, and so from stopping.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from rpl_runtime.errors import InvalidInput
from rpl_runtime.server.admission import Admission
from rpl_runtime.wire.packed import read_as

_Request = health_pb2.HealthCheckRequest
_Reply = health_pb2.HealthCheckResponse


class Health:
    """The standard health check: answers what was last set, and tells watchers of changes.

    Args:
        admission: limits the checks and the watchers of each caller.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()  # set once, and replaced, at each change

    def set(self, statuses: dict[str, int]) -> None:
        """Set the status of services by name."""
        self._statuses |= statuses
        self._changed.set()
        self._changed = asyncio.Event()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """A handler for each call."""
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.Check),
            "Watch": grpc.unary_stream_rpc_method_handler(self.Watch),
        }

    async def Check(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with self._admission.open_call(context):
            service = read_as(_Request, request, InvalidInput).service
            if service not in self._statuses:
                await context.abort(grpc.StatusCode.NOT_FOUND)
            return _Reply(status=self._statuses[service]).SerializeToString()

    async def Watch(self, request: bytes, context: grpc.aio.ServicerContext) -> None:
        told = None
        async with self._admission.open_call(context):
            service = read_as(_Request, request, InvalidInput).service
            while True:
                changed = self._changed
                status = self._statuses.get(service, _Reply.SERVICE_UNKNOWN)
                if status != told:
                    await context.write(_Reply(status=status).SerializeToString())
                    told = status
                await changed.wait()


class _Reflection:
    """Reflection whose requests wait for their turn."""

    def __init__(self, names: Sequence[str], admission: Admission) -> None:
        self._answers: Any = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]
        self._admission = admission

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """A handler for its call."""
        return {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self.ServerReflectionInfo)}

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        async with self._admission.open_call(context) as turn:

            async def in_turn() -> AsyncIterator[object]:
                async for request in requests:
                    await turn.wait()
                    yield read_as(reflection_pb2.ServerReflectionRequest, request, InvalidInput)

            async for reply in self._answers.ServerReflectionInfo(in_turn(), context):
                yield reply.SerializeToString()


class _Unknown(grpc.GenericRpcHandler):
    """Refuses calls of other names, which gRPC would refuse at once, however many they are."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._admission.open_call(context):
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        return grpc.stream_stream_rpc_method_handler(refuse)


def add_public(
    server: grpc.aio.Server, admission: Admission, checks: Health, services: Sequence[str], reflected: bool
) -> None:
    """Add these calls to a server, after all others; reflection, if wanted, tells of the services."""
    handlers = {health.SERVICE_NAME: checks.handlers()}
    if reflected:
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        handlers[reflection.SERVICE_NAME] = _Reflection(names, admission).handlers()
    for name, calls in handlers.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, calls),))
    server.add_generic_rpc_handlers((_Unknown(admission),))
