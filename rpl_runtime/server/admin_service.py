"""The calls of rpl.v1.RelayAdmin: what an operator can ask of a running server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter_ns

import grpc
import grpc.aio
import numpy as np

from rpl_runtime.planning.planning import Planning
from rpl_runtime.server.admission import Admission
from rpl_runtime.server.models import Model, Models, prepare
from rpl_runtime.server.streams import Stream, Streams
from rpl_runtime.server.turns import Turn, Workers
from rpl_runtime.wire.admin import REQUESTS, STREAMED, pb, unpack_request
from rpl_runtime.wire.control import unpack_goal

_LOG = logging.getLogger(__name__)
_EVERY_NS = 20_000_000  # [ns] between two replies, at least
_SHARE = 20  # making replies takes at most one part of so many of the time
_AT_ONCE = 2  # robots that are read before steps are answered again; each takes 30 us


@dataclass(eq=False)
class AdminService:
    """The calls, each named as in admin.proto."""

    admission: Admission  # admits the calls
    models: Models  # of the server
    streams: Streams  # the open Control streams
    loads: Workers  # that load bundles
    planning: Planning  # chooses who plans for a loaded model
    on_models: Callable[[], None]  # called after the served models have changed

    def __post_init__(self) -> None:
        self._watch = _Watch(self.streams)

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

        handlers = {method: handler(method) for method in REQUESTS if method not in STREAMED}
        return handlers | {"WatchRobots": grpc.stream_stream_rpc_method_handler(self.WatchRobots)}

    def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsReply:
        return pb.ListModelsReply(models=[self._served(model) for model in self.models.all])

    async def LoadModel(self, request: pb.LoadModelRequest) -> pb.LoadModelReply:
        model = await self.loads.run(lambda: prepare(Path(request.path), self.planning, self.models.providers))
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
        return _list_reply(list(_robot_rows(self.streams)))

    async def WatchRobots(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async with self.admission.admin_call("WatchRobots", context) as turn:
            while await context.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                await turn.wait()
                self.streams.check()
                await context.write(await self._watch.latest(turn))
                await self._watch.pause()

    def SetRobotGoal(self, request: pb.SetRobotGoalRequest) -> pb.SetRobotGoalReply:
        session = self.streams.with_robot(request.robot).session
        goal = session.set_goal(request.robot, unpack_goal(request.goal.SerializeToString()))
        _log_override("changed the goal", request.robot)
        return pb.SetRobotGoalReply(goal={"state": goal.state.tolist(), "mask": goal.mask.tolist()})

    def PinSubgoal(self, request: pb.PinSubgoalRequest) -> pb.PinSubgoalReply:
        self.streams.with_robot(request.robot).session.loop.pin(request.robot, tuple(request.subgoal))
        _log_override("pinned the subgoal", request.robot)
        return pb.PinSubgoalReply()

    def ReleaseSubgoal(self, request: pb.ReleaseSubgoalRequest) -> pb.ReleaseSubgoalReply:
        self.streams.with_robot(request.robot).session.loop.release(request.robot)
        _log_override("released the subgoal", request.robot)
        return pb.ReleaseSubgoalReply()

    def VetoSubgoal(self, request: pb.VetoSubgoalRequest) -> pb.VetoSubgoalReply:
        self.streams.with_robot(request.robot).session.loop.veto(request.robot)
        _log_override("vetoed the subgoal", request.robot)
        return pb.VetoSubgoalReply()

    def TakeOverRobot(self, request: pb.TakeOverRobotRequest) -> pb.TakeOverRobotReply:
        steering = self.streams.with_robot(request.robot).session.steer(request.robot, request.by)
        _log_override(f"took over as {request.by!r} the motion", request.robot)
        return pb.TakeOverRobotReply(hand=steering.key)

    def SteerRobot(self, request: pb.SteerRobotRequest) -> pb.SteerRobotReply:
        stream = self.streams.with_robot(request.robot)
        steering = stream.session.steering(request.robot, request.hand)
        if request.target:
            target = np.array(request.target, dtype=np.float32)
            steering.target = stream.model.bundle.spec.action.check("target", target)
        return pb.SteerRobotReply(target=None if steering.target is None else steering.target.tolist())

    def HandBackRobot(self, request: pb.HandBackRobotRequest) -> pb.HandBackRobotReply:
        session = self.streams.with_robot(request.robot).session
        steering = session.steering(request.robot, request.hand)
        session.loop.let_go(request.robot)
        _log_override(f"handed back as {steering.by!r} the motion", request.robot)
        return pb.HandBackRobotReply()

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
    _LOG.warning("an operator %s of robot %r", what, robot, extra={"robot": robot})


@dataclass(eq=False)
class _Watch:
    """The view of the robots that all viewers share: the latest of each, without delaying a step.

    A reply is made when a viewer asks and the last one is old. While it is made, steps are answered after every few
    robots; making replies takes at most a twentieth of the server's time.
    """

    streams: Streams  # the open Control streams

    def __post_init__(self) -> None:
        self._making = asyncio.Lock()
        self._reply = b""
        self._due_ns = 0  # [ns] of `perf_counter_ns`, from when on that reply is old

    async def latest(self, turn: Turn) -> bytes:
        """The robots that run, as bytes of a ListRobotsReply; the time to make it counts for the caller of a turn."""
        async with self._making:
            began_ns = perf_counter_ns()
            if began_ns >= self._due_ns:
                spent_ns = await self._make(turn)
                self._due_ns = began_ns + max(_EVERY_NS, _SHARE * spent_ns)
            return self._reply

    async def pause(self) -> None:
        """Wait until the reply of `latest` is old."""
        await asyncio.sleep((self._due_ns - perf_counter_ns()) / 1e9)

    async def _make(self, turn: Turn) -> int:
        """Make a reply. Returns the time [ns] that it took from the event loop."""
        reading, rows, spent_ns = _robot_rows(self.streams), list[pb.Robot](), 0
        while True:
            began_ns = perf_counter_ns()
            with turn:
                some = list(islice(reading, _AT_ONCE))
                rows += some
                if not some:
                    self._reply = _list_reply(rows).SerializeToString()
            spent_ns += perf_counter_ns() - began_ns
            if not some:
                return spent_ns
            await asyncio.sleep(0)


def _list_reply(rows: list[pb.Robot]) -> pb.ListRobotsReply:
    """The robots in the order of their ids."""
    return pb.ListRobotsReply(robots=sorted(rows, key=lambda row: row.robot))


def _robot_rows(streams: Streams) -> Iterator[pb.Robot]:
    """What the admin service tells of each robot; runs may begin and end between two of them."""
    for stream in streams:
        for robot in list(stream.session.loop.runs):
            if robot in stream.session.loop.runs:
                yield _row(stream, robot)


def _row(stream: Stream, robot: str) -> pb.Robot:
    session = stream.session
    standing, state = session.loop.standing(robot), session.states.get(robot)
    return pb.Robot(
        robot=robot,
        model=stream.model.name,
        digest=stream.model.digest,
        peer=stream.peer,
        stream=stream.number,
        step=standing.step,
        age=standing.age,
        subgoal=None if standing.subgoal is None else standing.subgoal.tolist(),
        idle_s=(perf_counter_ns() - session.heard_ns[robot]) / 1e9,
        times=session.times._asdict(),
        pinned=standing.pinned,
        claimed=standing.claimed,
        vetoes=standing.vetoes,
        novelty=session.novelty.get(robot),
        state=None if state is None else state.tolist(),
        goal={"state": standing.goal.state.tolist(), "mask": standing.goal.mask.tolist()},
        hand=None if standing.hand is None else standing.hand.by,
        help=session.asking(robot),
    )
