"""A planner's contract, questions and answers (planner.proto) to bytes and back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message

from rpl_runtime._pb.rpl.v1 import planner_pb2 as pb
from rpl_runtime._pb.rpl.v1 import relay_pb2 as relay_pb
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError, printable
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.plans import Plan, Question

SERVICE: str = pb.DESCRIPTOR.services_by_name["Planner"].full_name
CONTRACT, PLAN = f"/{SERVICE}/Contract", f"/{SERVICE}/Plan"  # paths of the methods
_LONGEST_NAME = 128  # [characters]


class Contract(NamedTuple):
    """What a planner plans for."""

    name: str
    names: tuple[str, ...]  # of the dimensions of its states, in their order
    units: tuple[str, ...]


def pack_contract(name: str, spec: PolicySpec) -> bytes:
    """A planner's name, and the policy whose states it plans in."""
    return pb.ContractReply(name=name, state=relay_pb.VectorSpec(**spec.state.model_dump())).SerializeToString()


def unpack_contract(raw: bytes) -> Contract:
    """A planner's contract.

    Raises:
        ProtocolViolation: the bytes are not one.
    """
    reply = pb.ContractReply()
    _parse(reply, raw, ProtocolViolation)
    return Contract(printable(reply.name, _LONGEST_NAME), tuple(reply.state.names), tuple(reply.state.units))


def pack_question(question: Question, deadline_s: float) -> bytes:
    """A question that must be answered within a time [s]."""
    before = () if question.before is None else question.before.tolist()
    request = pb.NextSubgoalRequest(
        robot=question.robot,
        step=question.step,
        state=question.state.tolist(),
        before=before,
        noise=question.noise.tolist(),
        deadline_s=deadline_s,
    )
    request.goal.state.extend(question.goal.state.tolist())
    request.goal.mask.extend(question.goal.mask.tolist())
    return request.SerializeToString()


def unpack_question(raw: bytes) -> tuple[Question, float]:
    """A question, and the time [s] for its answer.

    Raises:
        InvalidInput: the bytes are not a question, or its vectors differ in size.
    """
    request = pb.NextSubgoalRequest()
    _parse(request, raw, InvalidInput)
    goal = ResolvedGoal(_vector(request.goal.state), _vector(request.goal.mask))
    state, before = _vector(request.state), _vector(request.before) if request.before else None
    sizes = [len(goal.state), len(goal.mask), *([] if before is None else [len(before)])]
    if set(sizes) != {len(state)}:
        raise InvalidInput(f"the question has a state of {len(state)} numbers and others of {sizes}; must be the same")
    question = Question(request.robot, request.step, state, goal, before, _vector(request.noise))
    return question, request.deadline_s


def pack_plan(plan: Plan) -> bytes:
    """An answer."""
    reply = pb.NextSubgoalReply(lasts=plan.lasts, confidence=plan.confidence)
    reply.subgoal.extend(np.asarray(plan.subgoal, dtype=np.float32).tolist())
    return reply.SerializeToString()


def unpack_plan(raw: bytes) -> Plan:
    """An answer, whose numbers may be any.

    Raises:
        ProtocolViolation: the bytes are not an answer.
    """
    reply = pb.NextSubgoalReply()
    _parse(reply, raw, ProtocolViolation)
    confidence = reply.confidence if reply.HasField("confidence") else None
    return Plan(_vector(reply.subgoal), confidence, reply.lasts)


def _parse(message: Message, raw: bytes, error: type[RelayError]) -> None:
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise error(f"{len(raw)} bytes came that are not a {message.DESCRIPTOR.full_name}") from None


def _vector(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)
