"""The admin service of rpl.v1 as Python values, and to bytes and back.

In: what a server says of its models and robots, what an operator asks of it, or the bytes of either. Out: the other.
It does not know channels, rights, or what a server does about any of it; subgoals are plain tuples here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from rpl_runtime._pb.rpl.v1 import admin_pb2 as pb
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError
from rpl_runtime.relay.messages import StageTimes

SERVICE: str = pb.DESCRIPTOR.services_by_name["RelayAdmin"].full_name

_M = TypeVar("_M", bound=Message)


class ServedModel(NamedTuple):
    name: str  # of the policy
    digest: str  # identity of its bundle
    robots: int  # that run on it now
    is_default: bool  # whether it answers calls that name no model
    retired: bool  # kept only for the runs that began on it
    path: str  # of its folder on the server's machine


class RobotStatus(NamedTuple):
    """Where a robot's run stands."""

    robot: str
    model: str  # name of the policy
    digest: str  # identity of its bundle
    peer: str  # the client's network address, as gRPC writes it
    stream: int  # number of its Control stream, from 1
    step: int  # the next one to decide
    age: int  # [steps] of the subgoal
    subgoal: tuple[float, ...]  # (n,) followed; empty before the first step
    idle_s: float  # [s] since it was last answered
    times: StageTimes  # of the last message of its stream
    pinned: bool = False  # whether the subgoal is pinned
    vetoes: int = 0  # subgoals vetoed since its start
    novelty: float | None = None  # of its last state; None: there was none, or the bundle cannot say


# What is listed needs nothing to ask for it, and what is done to a subgoal has nothing to answer.
NOTHING = b""


def pack_models(models: Sequence[ServedModel]) -> bytes:
    """The reply of ListModels."""
    return pb.ListModelsReply(models=map(_model, models)).SerializeToString()


def unpack_models(raw: bytes) -> list[ServedModel]:
    """What the reply of ListModels says.

    Raises:
        ProtocolViolation: the bytes are no such reply.
    """
    return [_served(model) for model in _reply(pb.ListModelsReply, raw).models]


def pack_load(path: str) -> bytes:
    """A request of LoadModel: the bundle's folder on the server's machine."""
    return _ask(pb.LoadModelRequest, path=path)


def unpack_load(raw: bytes) -> str:
    """The folder that a request of LoadModel names.

    Raises:
        InvalidInput: it names none, or the bytes are no such request.
    """
    return _said("path", _request(pb.LoadModelRequest, raw).path)


def pack_loaded(model: ServedModel, replaced: str) -> bytes:
    """The reply of LoadModel: what is served now, and the digest whose place it took, or nothing."""
    return pb.LoadModelReply(model=_model(model), replaced=replaced).SerializeToString()


def unpack_loaded(raw: bytes) -> tuple[ServedModel, str]:
    """What the reply of LoadModel says.

    Raises:
        ProtocolViolation: the bytes are no such reply.
    """
    reply = _reply(pb.LoadModelReply, raw)
    return _served(reply.model), reply.replaced


def pack_unload(model: str) -> bytes:
    """A request of UnloadModel: a model's name or digest."""
    return _ask(pb.UnloadModelRequest, model=model)


def unpack_unload(raw: bytes) -> str:
    """The model that a request of UnloadModel names.

    Raises:
        InvalidInput: it names none, or the bytes are no such request.
    """
    return _said("model", _request(pb.UnloadModelRequest, raw).model)


def pack_unloaded(model: ServedModel) -> bytes:
    """The reply of UnloadModel: what is no longer served."""
    return pb.UnloadModelReply(model=_model(model)).SerializeToString()


def unpack_unloaded(raw: bytes) -> ServedModel:
    """What the reply of UnloadModel says.

    Raises:
        ProtocolViolation: the bytes are no such reply.
    """
    return _served(_reply(pb.UnloadModelReply, raw).model)


def pack_robots(robots: Sequence[RobotStatus]) -> bytes:
    """The reply of ListRobots."""
    message = pb.ListRobotsReply()
    for status in robots:
        row = message.robots.add()
        row.robot, row.model, row.digest = status.robot, status.model, status.digest
        row.peer, row.stream = status.peer, status.stream
        row.step, row.age, row.idle_s = status.step, status.age, status.idle_s
        row.subgoal.extend(status.subgoal)
        stages = row.times
        stages.decode_us, stages.plan_us, stages.act_us, stages.total_us = status.times
        row.pinned, row.vetoes = status.pinned, status.vetoes
        if status.novelty is not None:
            row.novelty = status.novelty
    return message.SerializeToString()


def unpack_robots(raw: bytes) -> list[RobotStatus]:
    """What the reply of ListRobots says.

    Raises:
        ProtocolViolation: the bytes are no such reply.
    """
    return [
        RobotStatus(
            robot=row.robot,
            model=row.model,
            digest=row.digest,
            peer=row.peer,
            stream=row.stream,
            step=row.step,
            age=row.age,
            subgoal=tuple(row.subgoal),
            idle_s=row.idle_s,
            times=StageTimes(row.times.decode_us, row.times.plan_us, row.times.act_us, row.times.total_us),
            pinned=row.pinned,
            vetoes=row.vetoes,
            novelty=row.novelty if row.HasField("novelty") else None,
        )
        for row in _reply(pb.ListRobotsReply, raw).robots
    ]


def pack_pin(robot: str, subgoal: Sequence[float]) -> bytes:
    """A request of PinSubgoal: subgoal (n,)."""
    return _ask(pb.PinSubgoalRequest, robot=robot, subgoal=subgoal)


def unpack_pin(raw: bytes) -> tuple[str, tuple[float, ...]]:
    """The robot and the subgoal (n,) of a request of PinSubgoal.

    Raises:
        InvalidInput: it names no robot, or the bytes are no such request.
    """
    request = _request(pb.PinSubgoalRequest, raw)
    return _said("robot", request.robot), tuple(request.subgoal)


def pack_robot(robot: str) -> bytes:
    """A request of ReleaseSubgoal or VetoSubgoal."""
    return _ask(pb.VetoSubgoalRequest, robot=robot)


def unpack_robot(raw: bytes) -> str:
    """The robot that a request of ReleaseSubgoal or VetoSubgoal names.

    Raises:
        InvalidInput: it names none, or the bytes are no such request.
    """
    return _said("robot", _request(pb.VetoSubgoalRequest, raw).robot)


# Every pack_ of a request raises InvalidInput for a value that does not fit its field.


def _ask(kind: type[Message], **fields: Any) -> bytes:
    try:
        return kind(**fields).SerializeToString()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the request cannot be sent: {error}") from error


def _model(model: ServedModel) -> pb.Model:
    return pb.Model(**model._asdict())


def _served(model: pb.Model) -> ServedModel:
    return ServedModel(model.name, model.digest, model.robots, model.is_default, model.retired, model.path)


def _said(what: str, value: str) -> str:
    if not value:
        raise InvalidInput(f"the request names no {what}; it needs one")
    return value


def _request(kind: type[_M], raw: bytes) -> _M:
    return _parse(kind, raw, InvalidInput)


def _reply(kind: type[_M], raw: bytes) -> _M:
    return _parse(kind, raw, ProtocolViolation)


def _parse(kind: type[_M], raw: bytes, error: type[RelayError]) -> _M:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise error(f"{len(raw)} bytes came that are not a {kind.DESCRIPTOR.full_name}") from None
