"""The calls of rpl.v1.RelayAdmin: what an operator can ask of a running server."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

import grpc
import grpc.aio

from rpl_runtime.server.admission import Admission
from rpl_runtime.server.models import Model, Models, prepare
from rpl_runtime.server.streams import Streams
from rpl_runtime.server.turns import Workers
from rpl_runtime.wire.admin import REQUESTS, pb, unpack_request

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class AdminService:
    """The calls, each named as in admin.proto."""

    admission: Admission  # admits the calls
    models: Models  # of the server
    streams: Streams  # the open Control streams
    loads: Workers  # that load bundles
    on_models: Callable[[], None]  # called after the served models have changed

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """A handler for each call. They take raw bytes, so that a malformed request gets a status of ours."""

        def handler(method: str) -> grpc.RpcMethodHandler:
            answer = getattr(self, method)

            async def call(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
                async with self.admission.admin_call(method, context) as turn:
                    request = unpack_request(method, raw)
                    if answer == self.LoadModel:
                        return (await answer(request)).SerializeToString()
                    with turn:
                        return answer(request).SerializeToString()

            return grpc.unary_unary_rpc_method_handler(call)

        return {method: handler(method) for method in REQUESTS}

    def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsReply:
        return pb.ListModelsReply(models=[self._served(model) for model in self.models.all])

    async def LoadModel(self, request: pb.LoadModelRequest) -> pb.LoadModelReply:
        model = await self.loads.run(lambda: prepare(Path(request.path)))
        replaced = self.models.put(model)
        self.on_models()
        _LOG.warning("an operator loaded model %r, bundle %s, from %r", model.name, model.digest[:12], request.path)
        served = self._served(self.models.find(model.name))
        return pb.LoadModelReply(model=served, replaced="" if replaced is None else replaced.digest)

    def UnloadModel(self, request: pb.UnloadModelRequest) -> pb.UnloadModelReply:
        model = self.models.unload(request.model)
        self.on_models()
        _LOG.warning("an operator unloaded model %r, bundle %s", model.name, model.digest[:12])
        return pb.UnloadModelReply(model=self._served(model))

    def ListRobots(self, request: pb.ListRobotsRequest) -> pb.ListRobotsReply:
        now_ns = perf_counter_ns()
        robots: list[pb.Robot] = []
        for stream in self.streams:
            for robot in stream.session.loop.robots:
                standing = stream.session.loop.standing(robot)
                row = pb.Robot(
                    robot=robot,
                    model=stream.model.name,
                    digest=stream.model.digest,
                    peer=stream.peer,
                    stream=stream.number,
                    step=standing.step,
                    age=standing.age,
                    subgoal=None if standing.subgoal is None else standing.subgoal.tolist(),
                    idle_s=(now_ns - stream.session.heard_ns[robot]) / 1e9,
                    times=stream.session.times._asdict(),
                    pinned=standing.pinned,
                    claimed=standing.claimed,
                    vetoes=standing.vetoes,
                    novelty=stream.session.novelty.get(robot),
                )
                robots.append(row)
        return pb.ListRobotsReply(robots=sorted(robots, key=lambda row: row.robot))

    def PinSubgoal(self, request: pb.PinSubgoalRequest) -> pb.PinSubgoalReply:
        self.streams.with_robot(request.robot).session.loop.pin(request.robot, tuple(request.subgoal))
        _log_override("pinned", request.robot)
        return pb.PinSubgoalReply()

    def ReleaseSubgoal(self, request: pb.ReleaseSubgoalRequest) -> pb.ReleaseSubgoalReply:
        self.streams.with_robot(request.robot).session.loop.release(request.robot)
        _log_override("released", request.robot)
        return pb.ReleaseSubgoalReply()

    def VetoSubgoal(self, request: pb.VetoSubgoalRequest) -> pb.VetoSubgoalReply:
        self.streams.with_robot(request.robot).session.loop.veto(request.robot)
        _log_override("vetoed", request.robot)
        return pb.VetoSubgoalReply()

    def _served(self, model: Model) -> pb.Model:
        return pb.Model(
            name=model.name,
            digest=model.digest,
            robots=self.streams.count(model),
            is_default=model is self.models.find(),
            retired=model.retired,
            path=str(model.bundle.path),
        )


def _log_override(what: str, robot: str) -> None:
    _LOG.warning("an operator %s the subgoal of robot %r", what, robot, extra={"robot": robot})
