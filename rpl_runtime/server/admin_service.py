"""The calls of rpl.v1.RelayAdmin: what an operator may ask of a running server.

In: the models and streams there are, and who is admitted. Out: a handler for each call, which an asyncio gRPC server
takes. It does not know the wire's form, which is admin_wire.py's, nor what a model or a run is made of.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import grpc.aio

from rpl_runtime.server.admission import Admission
from rpl_runtime.server.models import Model, Models, prepare
from rpl_runtime.server.service import watching
from rpl_runtime.server.streams import Streams
from rpl_runtime.telemetry.observer import Observer
from rpl_runtime.wire import admin as wire

_LOG = logging.getLogger(__name__)


class AdminService:
    """The calls over raw bytes.

    Args:
        admission: who may call.
        models: what is served.
        streams: the Control streams there are.
        on_models: hears that what is served has changed.
        observers: look on.
    """

    def __init__(
        self,
        admission: Admission,
        models: Models,
        streams: Streams,
        on_models: Callable[[], Awaitable[None]],
        observers: Sequence[Observer] = (),
    ) -> None:
        self._admission = admission
        self._models = models
        self._streams = streams
        self._on_models = on_models
        self._observers = observers
        self._loading = asyncio.Lock()  # one at a time: a bundle takes memory and a processor

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The call of each method, by name."""
        calls = {
            "ListModels": self._list_models,
            "LoadModel": self._load_model,
            "UnloadModel": self._unload_model,
            "ListRobots": self._list_robots,
            "PinSubgoal": self._pin,
            "ReleaseSubgoal": self._release,
            "VetoSubgoal": self._veto,
        }
        return {name: grpc.unary_unary_rpc_method_handler(self._guarded(name, call)) for name, call in calls.items()}

    def _guarded(self, method: str, call: Callable[[bytes], Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
        async def guarded(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with watching(self._observers, method, context) as watch:
                caller = self._admission.caller(method, context.invocation_metadata() or (), context.peer())
                for observer in watch:
                    observer.admitted(caller.name, None)
                return await call(request)

        return guarded

    async def _list_models(self, request: bytes) -> bytes:
        return wire.pack_models([self._served(model) for model in self._models.all])

    async def _load_model(self, request: bytes) -> bytes:
        path = Path(wire.unpack_load(request))
        async with self._loading:
            model = await asyncio.to_thread(prepare, path)
            replaced = self._models.put(model)
        await self._on_models()
        return wire.pack_loaded(
            self._served(self._models.find(model.name)), "" if replaced is None else replaced.digest
        )

    async def _unload_model(self, request: bytes) -> bytes:
        model = self._models.unload(wire.unpack_unload(request))
        await self._on_models()
        return wire.pack_unloaded(self._served(model))

    async def _list_robots(self, request: bytes) -> bytes:
        return wire.pack_robots(self._streams.robots())

    async def _pin(self, request: bytes) -> bytes:
        robot, subgoal = wire.unpack_pin(request)
        self._streams.with_robot(robot).session.loop.pin(robot, subgoal)
        return self._intervened(robot, "pinned")

    async def _release(self, request: bytes) -> bytes:
        robot = wire.unpack_robot(request)
        self._streams.with_robot(robot).session.loop.release(robot)
        return self._intervened(robot, "released")

    async def _veto(self, request: bytes) -> bytes:
        robot = wire.unpack_robot(request)
        self._streams.with_robot(robot).session.loop.veto(robot)
        return self._intervened(robot, "vetoed")

    def _intervened(self, robot: str, what: str) -> bytes:
        _LOG.warning("an operator %s the subgoal of robot %r", what, robot, extra={"robot": robot})
        return wire.NOTHING

    def _served(self, model: Model) -> wire.ServedModel:
        default = self._models.find()
        return wire.ServedModel(
            name=model.name,
            digest=model.digest,
            robots=self._streams.count(model),
            is_default=model is default,
            retired=model.retired,
            path=str(model.bundle.path),
        )
