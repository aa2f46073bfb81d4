"""The admin service: messages to bytes and back.

Server and client use the generated messages (`pb`) as values. A client's user gets named tuples with the same fields.
"""

from typing import NamedTuple, TypeVar

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rpl_runtime._pb.rpl.v1 import admin_pb2 as pb
from rpl_runtime._pb.rpl.v1 import relay_pb2
from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.relay.messages import Goal, StageTimes
from rpl_runtime.wire.control import pack_goal
from rpl_runtime.wire.packed import read_as

_SERVICE = pb.DESCRIPTOR.services_by_name["RelayAdmin"]
SERVICE: str = _SERVICE.full_name
REQUESTS: dict[str, type[Message]] = {method.name: GetMessageClass(method.input_type) for method in _SERVICE.methods}
STREAMED = {method.name for method in _SERVICE.methods if method.server_streaming}

_M = TypeVar("_M", bound=Message)


class ServedModel(NamedTuple):
    name: str  # of the policy
    digest: str  # identity of its bundle
    robots: int  # number of robots that run on it now
    is_default: bool  # whether it answers calls that name no model
    retired: bool  # replaced or unloaded; kept only for runs that began on it
    path: str  # folder of the bundle on the server's machine


class RobotStatus(NamedTuple):
    """The state of a robot's run."""

    robot: str
    model: str  # name of the policy
    digest: str  # identity of its bundle
    peer: str  # the client's network address, as gRPC writes it
    stream: int  # number of its Control stream, from 1
    step: int  # the next one to decide
    age: int  # [steps] of the subgoal
    subgoal: tuple[float, ...]  # (n,) followed; empty before the first step
    idle_s: float  # [s] since the server last answered it
    times: StageTimes  # of the last message of its stream
    pinned: bool = False  # whether the subgoal is pinned
    vetoes: int = 0  # number of subgoals vetoed since its start
    novelty: float | None = None  # of its last state; None: before the first state, or the bundle cannot score states
    claimed: bool = False  # whether its client says that the subgoal was pinned, and no operator of this server did
    state: tuple[float, ...] = ()  # (n,) its last one; empty before the first
    goal: tuple[float, ...] = ()  # (n,) goal state of its run
    mask: tuple[float, ...] = ()  # (n,) 1 where a dimension of the goal counts, 0 elsewhere
    hand: str = ""  # name of the pilot or operator who has it in hand; empty: the policy decides
    help: bool = False  # whether its policy asks for help


def served_model(model: pb.Model) -> ServedModel:
    """The same as a named tuple."""
    return ServedModel._make(getattr(model, field) for field in ServedModel._fields)


def robot_status(robot: pb.Robot) -> RobotStatus:
    """The same as a named tuple."""
    return RobotStatus(
        *(getattr(robot, field) for field in ("robot", "model", "digest", "peer", "stream", "step", "age")),
        subgoal=tuple(robot.subgoal),
        idle_s=robot.idle_s,
        times=StageTimes._make(getattr(robot.times, field) for field in StageTimes._fields),
        pinned=robot.pinned,
        vetoes=robot.vetoes,
        novelty=robot.novelty if robot.HasField("novelty") else None,
        claimed=robot.claimed,
        state=tuple(robot.state),
        goal=tuple(robot.goal.state),
        mask=tuple(robot.goal.mask),
        hand=robot.hand,
        help=robot.help,
    )


def goal_message(goal: Goal) -> Message:
    """A goal as a field of a request."""
    return relay_pb2.Goal.FromString(pack_goal(goal))


def pack_request(method: str, **fields: object) -> bytes:
    """A request of a method of the service.

    Raises:
        InvalidInput: a value does not fit its field.
    """
    try:
        return REQUESTS[method](**fields).SerializeToString()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the request cannot be sent: {error}") from error


def unpack_request(method: str, raw: bytes) -> Message:
    """The request of a method that bytes hold.

    Raises:
        InvalidInput: the bytes are not such a request, or a name in it is empty.
    """
    request = read_as(REQUESTS[method], raw, InvalidInput)
    for field in request.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not getattr(request, field.name):
            raise InvalidInput(f"the request names no {field.name}; it needs one")
    return request


def unpack_reply(kind: type[_M], raw: bytes) -> _M:
    """The reply that bytes hold.

    Raises:
        ProtocolViolation: the bytes are not such a reply.
    """
    return read_as(kind, raw, ProtocolViolation)
