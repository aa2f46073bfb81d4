"""Messages to bytes and back: the one module that knows both protobuf and numpy.

In: the values of messages.py, or bytes from anyone. Out: the other. Unpacking checks form only (is it a message of
rpl.v1, does a row name its robot and its kind); whether a value is acceptable is for the policy's spec to say.
It does not know gRPC channels, runs or policies.

What is wrong with a single row of Control comes back as an error in that row's place, so that the others go on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import InvalidGoal, InvalidInput, ProtocolViolation, RelayError, error_named
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.loop import Resume, SubgoalOverride
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Finish,
    Finished,
    Goal,
    GoalSet,
    Observation,
    Reply,
    Request,
    SetGoal,
    StageTimes,
    Start,
    Started,
)
from rpl_runtime.wire import packed

SERVICE: str = pb.DESCRIPTOR.services_by_name["RelayPolicy"].full_name
MODEL_KEY = "rpl-model"  # metadata of a call: the name of the model that it is for
DIGEST_KEY = "rpl-digest"  # metadata of a call: the bundle that must answer it
MAX_MESSAGE_BYTES = 1 << 20  # of a request: thousands of rows of Plan or Act
MAX_ROWS = 256  # of a message of Control, which keeps the server from everything else for some milliseconds
MAX_ROBOT_NAME = 128  # [characters]
MAX_ELEMENTS = 256  # of a goal

_FLOATS = np.dtype("<f4")  # a packed vector on the wire


def status_of(error: RelayError) -> grpc.StatusCode:
    """The gRPC status that carries an error."""
    return grpc.StatusCode[error.status]


# ------------------------------------------------------------------------------------------------ Control


def pack_request(rows: Sequence[tuple[str, Request]]) -> bytes:
    """One message of a Control stream, a (robot, request) for each row.

    Raises:
        InvalidInput: a value does not fit its field.
    """
    message = packed.ControlRequest()
    try:
        for robot, request in rows:
            _fill_request(message.rows.add(robot=robot), request)
        return message.SerializeToString()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the request cannot be sent: {error}") from error


def unpack_request(raw: bytes) -> list[tuple[str, Request | RelayError]]:
    """The rows of one message of a Control stream, each the robot and its request or what is wrong with it.

    Raises:
        InvalidInput: the bytes are no ControlRequest, it has too many rows, or a robot id is not acceptable.
        ProtocolViolation: there is no row, or one names no robot or no kind.
    """
    message = _parse(packed.ControlRequest, raw)
    if not message.rows:
        raise ProtocolViolation("the message has no rows; a ControlRequest carries at least one")
    if len(message.rows) > MAX_ROWS:
        raise InvalidInput(f"the message has {len(message.rows)} rows; must be 1 to {MAX_ROWS}")
    rows: list[tuple[str, Request | RelayError]] = []
    for row in message.rows:
        robot, kind = row.robot, row.WhichOneof("kind")
        if not robot or kind is None:
            missing = "kind" if robot else "robot id"
            raise ProtocolViolation(f"row {len(rows)} has no {missing}; every row names its robot and its kind")
        # Not answered in its place, for that would say it again, to logs and to operators' terminals.
        if len(robot) > MAX_ROBOT_NAME or not robot.isprintable():
            shown = repr(robot[:MAX_ROBOT_NAME])
            raise InvalidInput(f"a robot id is {shown}; must be 1 to {MAX_ROBOT_NAME} printable characters")
        try:
            rows.append((robot, _UNPACK_REQUEST[kind](getattr(row, kind))))
        except RelayError as error:
            rows.append((robot, error))
    return rows


def pack_reply(rows: Sequence[tuple[str, Reply]], times: StageTimes) -> bytes:
    """One reply of a Control stream, a (robot, reply) for each row; an error becomes a refusal."""
    message = packed.ControlReply()
    stages = message.times
    stages.decode_us, stages.plan_us, stages.act_us, stages.total_us = times
    for robot, reply in rows:
        _fill_reply(message.rows.add(robot=robot), reply)
    return message.SerializeToString()


def unpack_reply(raw: bytes) -> list[tuple[str, Reply]]:
    """The rows of one reply of a Control stream.

    Raises:
        ProtocolViolation: the bytes are no ControlReply, or a row has no kind.
    """
    message = _parse(packed.ControlReply, raw, ProtocolViolation)
    stages = message.times
    times = StageTimes(stages.decode_us, stages.plan_us, stages.act_us, stages.total_us)
    return [(row.robot, _unpack_reply_row(row, times)) for row in message.rows]


# The messages of every step are filled in place: assembling them from parts copies each part.


def _fill_request(row: Any, request: Request) -> None:
    match request:
        case Observation():
            seen = row.observation
            seen.step = request.step
            seen.state = _packed(request.state)
            seen.observed_ns = request.observed_ns
        case Start():
            row.start.plan_lead = request.plan_lead
            row.start.state = _packed(request.state)
            _fill_goal(row.start.goal, request.goal)
            if request.seed is not None:
                row.start.seed = request.seed
            if request.resume is not None:
                _fill_resume(row.start.resume, request.resume)
        case SetGoal():
            row.set_goal.state = _packed(request.state)
            _fill_goal(row.set_goal.goal, request.goal)
        case Finish():
            row.finish.SetInParent()


def _unpack_start(start: Any) -> Start:
    resume = _unpack_resume(start.resume) if start.HasField("resume") else None
    goal = _unpack_goal(start.goal)
    if resume is not None and not isinstance(goal, ResolvedGoal):
        raise InvalidInput("a resume needs the resolved goal of the run it goes on with, as Started returned it")
    seed = start.seed if start.HasField("seed") else None
    return Start(goal, _vector(start.state), seed, start.plan_lead, resume)


_UNPACK_REQUEST: dict[str, Callable[..., Request]] = {
    "observation": lambda row: Observation(row.step, _vector(row.state), row.observed_ns),
    "start": _unpack_start,
    "set_goal": lambda row: SetGoal(_unpack_goal(row.goal), _vector(row.state)),
    "finish": lambda row: Finish(),
}


def _fill_reply(row: Any, reply: Reply) -> None:
    match reply:
        case Action():
            action = row.action
            action.target = _packed(reply.target)
            action.age = reply.age
            action.valid_until_ns = reply.valid_until_ns
            if reply.replanned:
                action.replanned = True
                action.subgoal = _packed(reply.subgoal)
            if reply.upcoming is not None:
                action.upcoming = _packed(reply.upcoming)
            if reply.novelty is not None:
                action.novelty = reply.novelty
            if reply.override:
                action.override = reply.override
        case Started():
            started = row.started
            started.digest, started.period_s, started.horizon = reply.digest, reply.period_s, reply.horizon
            _fill_resolved(started.goal, reply.goal)
        case GoalSet():
            _fill_resolved(row.goal_set.goal, reply.goal)
        case Finished():
            row.finished.steps = reply.steps
            row.finished.SetInParent()  # a zero alone would leave the row without its kind
        case RelayError():
            row.refusal.code = status_of(reply).value[0]
            row.refusal.reason = type(reply).__name__
            row.refusal.message = str(reply)


def _unpack_reply_row(row: Any, times: StageTimes) -> Reply:
    match row.WhichOneof("kind"):
        case "action":
            action = row.action
            replanned, upcoming = action.replanned, action.upcoming
            return Action(  # by names it takes twice as long
                _vector(action.target).copy(),  # whoever moves the robot may change it
                _vector(action.subgoal) if replanned else NOTHING,
                action.age,
                replanned,
                action.valid_until_ns,
                _vector(upcoming) if upcoming else None,
                times,
                action.novelty if action.HasField("novelty") else None,
                _unpack_override(action.override, ProtocolViolation),
            )
        case "started":
            started = row.started
            return Started(_unpack_resolved(started.goal), started.digest, started.period_s, started.horizon)
        case "goal_set":
            return GoalSet(_unpack_resolved(row.goal_set.goal))
        case "finished":
            return Finished(row.finished.steps)
        case "refusal":
            return error_named(row.refusal.reason)(row.refusal.message)
        case _:
            raise ProtocolViolation(f"the server's reply to robot {row.robot!r} has no kind that this client knows")


def _fill_goal(field: Any, goal: Goal) -> None:
    if isinstance(goal, ResolvedGoal):
        _fill_resolved(field.resolved, goal)
    elif isinstance(goal, np.ndarray):
        field.state.SetInParent()
        field.state.values = _packed(goal)
    else:
        field.elements.SetInParent()
        field.elements.names.extend(goal)


def _unpack_goal(goal: Any) -> Goal:
    match goal.WhichOneof("kind"):
        case "elements":
            names = goal.elements.names
            if len(names) > MAX_ELEMENTS:
                raise InvalidGoal(f"the goal names {len(names)} elements; must be 1 to {MAX_ELEMENTS}")
            return tuple(names)
        case "state":
            return _vector(goal.state.values)
        case "resolved":
            return _unpack_resolved(goal.resolved)
        case _:
            raise InvalidGoal("the goal is empty; it needs elements, a whole state or a resolved goal")


def _fill_resolved(field: Any, goal: ResolvedGoal) -> None:
    field.SetInParent()
    field.state = _packed(goal.state)
    field.mask = _packed(goal.mask)


def _unpack_resolved(goal: Any) -> ResolvedGoal:
    return ResolvedGoal(_vector(goal.state), _vector(goal.mask))


def _fill_resume(field: Any, resume: Resume) -> None:
    field.step, field.age = resume.step, resume.age
    field.subgoal, field.override = _packed(resume.subgoal), resume.override
    if resume.upcoming is not None:
        field.upcoming = _packed(resume.upcoming)
    field.SetInParent()


def _unpack_resume(resume: Any) -> Resume:
    if resume.step >= 2**31:  # a run from there could outgrow its field
        raise InvalidInput(f"a resume names step {resume.step}; must be 1 to {2**31 - 1}")
    upcoming = _vector(resume.upcoming) if resume.upcoming else None
    override = _unpack_override(resume.override, InvalidInput)
    return Resume(resume.step, _vector(resume.subgoal), resume.age, upcoming, override)


def _unpack_override(number: int, error: type[RelayError]) -> SubgoalOverride:
    if not number:  # nearly always, and much sooner told than looked up
        return SubgoalOverride.NONE
    try:
        return SubgoalOverride(number)
    except ValueError:
        known = ", ".join(f"{override.value} {override.name}" for override in SubgoalOverride)
        raise error(f"an override has the number {number}; must be one of {known}") from None


def _packed(values: np.ndarray) -> bytes:
    """A vector, or a matrix row after row."""
    return np.asarray(values, _FLOATS).tobytes()


def _vector(raw: bytes) -> np.ndarray:
    """Numbers as they stand in the message: not to be written to."""
    if len(raw) % _FLOATS.itemsize:
        raise InvalidInput(f"a vector has {len(raw)} bytes; must be {_FLOATS.itemsize} for each of its numbers")
    return np.frombuffer(raw, _FLOATS)


# ------------------------------------------------------------------------------------------- Plan and Act


def pack_plan_request(state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> bytes:
    """state, goal, mask (B, n) and noise (B, high_noise)."""
    return packed.PlanRequest(
        batch=len(state), state=_packed(state), goal=_packed(goal), mask=_packed(mask), noise=_packed(noise)
    ).SerializeToString()


def unpack_plan_request(raw: bytes, spec: PolicySpec) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """state, goal, mask (B, n) and noise (B, high_noise).

    Raises:
        InvalidInput: the bytes are no PlanRequest, or a matrix is not of this policy's size.
    """
    request, n = _parse(packed.PlanRequest, raw), spec.state.dim
    return (
        _matrix("state", request.state, request.batch, n),
        _matrix("goal", request.goal, request.batch, n),
        _matrix("mask", request.mask, request.batch, n),
        _matrix("noise", request.noise, request.batch, spec.high_noise),
    )


def pack_act_request(state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> bytes:
    """state, subgoal (B, n) and noise (B, low_noise)."""
    return packed.ActRequest(
        batch=len(state), state=_packed(state), subgoal=_packed(subgoal), noise=_packed(noise)
    ).SerializeToString()


def unpack_act_request(raw: bytes, spec: PolicySpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """state, subgoal (B, n) and noise (B, low_noise).

    Raises:
        InvalidInput: the bytes are no ActRequest, or a matrix is not of this policy's size.
    """
    request, n = _parse(packed.ActRequest, raw), spec.state.dim
    return (
        _matrix("state", request.state, request.batch, n),
        _matrix("subgoal", request.subgoal, request.batch, n),
        _matrix("noise", request.noise, request.batch, spec.low_noise),
    )


def pack_subgoals(subgoal: np.ndarray) -> bytes:
    """The reply of Plan: subgoal (B, n)."""
    return packed.PlanReply(subgoal=_packed(subgoal)).SerializeToString()


def unpack_subgoals(raw: bytes, batch: int) -> np.ndarray:
    """Subgoal (B, n)."""
    return _rows(_parse(packed.PlanReply, raw, ProtocolViolation).subgoal, batch)


def pack_actions(action: np.ndarray) -> bytes:
    """The reply of Act: action (B, m)."""
    return packed.ActReply(action=_packed(action)).SerializeToString()


def unpack_actions(raw: bytes, batch: int) -> np.ndarray:
    """Action (B, m)."""
    return _rows(_parse(packed.ActReply, raw, ProtocolViolation).action, batch)


def _matrix(what: str, raw: bytes, batch: int, width: int) -> np.ndarray:
    values = _vector(raw)
    if batch < 1 or len(values) != batch * width:
        raise InvalidInput(
            f"the {what} has {len(values)} numbers for a batch of {batch}; this policy's has {width} for each row, "
            f"and a batch at least one row"
        )
    return values.reshape(batch, width)


def _rows(raw: bytes, batch: int) -> np.ndarray:
    values = _vector(raw)
    if not len(values) or len(values) % batch:
        raise ProtocolViolation(f"the server answered a batch of {batch} with {len(values)} numbers")
    return values.reshape(batch, -1)


def _parse(kind: Any, raw: bytes, error: type[RelayError] = InvalidInput) -> Any:
    try:
        return packed.parse(kind, raw)
    except DecodeError:
        raise error(f"{len(raw)} bytes came that are not a {pb.DESCRIPTOR.package}.{kind.DESCRIPTOR.name}") from None
