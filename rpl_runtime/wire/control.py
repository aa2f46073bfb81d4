"""Control: its messages to bytes and back, row by row, with numpy arrays in place of protobuf's vectors.

Parsing checks the form of a message only: whether it is one of rpl.v1, and whether each row names its robot and its
kind. The policy's spec checks the values. A fault in one row of Control comes back as an error in that row's place, so
that the other rows go on.
"""

from collections.abc import Sequence

import grpc
import numpy as np

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import InvalidGoal, InvalidInput, ProtocolViolation, RelayError, error_named, printable
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Applied,
    Finish,
    Finished,
    Goal,
    GoalSet,
    HandBack,
    HandedBack,
    Noted,
    Observation,
    Reply,
    Request,
    SetGoal,
    StageTimes,
    Start,
    Started,
    TakenOver,
)
from rpl_runtime.relay.plans import MAX_DEADLINE_S, Fallback, Origin, PlanRules, Source
from rpl_runtime.relay.run_state import Resume, SubgoalOverride, TakeOver
from rpl_runtime.wire.packed import TWINS, Message, has_more_fields, packed, parse, vector

SERVICE: str = pb.DESCRIPTOR.services_by_name["RelayPolicy"].full_name
MODEL_KEY = "rpl-model"  # metadata of a call: name of the model that must answer
PUBLIC_TRANSPORT = "RPL_PUBLIC_TRANSPORT"  # environment: set to use only gRPC's public API, though it takes longer
DIGEST_KEY = "rpl-digest"  # metadata of a call: digest of the bundle that must answer
MAX_MESSAGE_BYTES = 1 << 20  # of a request: thousands of rows of Plan or Act
MAX_ROWS = 256  # of a message of Control: it blocks the server for some milliseconds
_SHORT = 1 << 14  # [bytes] of a message that is parsed at once, however many rows it has
MAX_ROBOT_NAME = 128  # [characters]
MAX_ELEMENTS = 256  # of a goal
_FALLBACKS = (None, *Fallback)  # in the order of their numbers on the wire


def status_of(error: RelayError) -> grpc.StatusCode:
    """The gRPC status that carries an error."""
    return grpc.StatusCode[error.status]


def unpack_request(raw: bytes) -> list[tuple[str, Request | RelayError]]:
    """The rows of one message of a Control stream: each robot, and its request or the fault in it.

    Raises:
        InvalidInput: the bytes are not a ControlRequest, it has too many rows, or a robot id is not acceptable.
        ProtocolViolation: there is no row, or a row names no robot or no kind.
    """
    return unpack_rows(parse_request(raw))


def parse_request(raw: bytes) -> Message:
    """The message of a Control stream that bytes hold.

    Raises:
        InvalidInput: the bytes are not a ControlRequest, or are of half a million empty rows, which take long to parse.
    """
    if len(raw) > _SHORT and has_more_fields(raw, MAX_ROWS):
        raise InvalidInput(f"the message has more than {MAX_ROWS} rows; must be 1 to {MAX_ROWS}")
    return parse("ControlRequest", raw, InvalidInput)


def unpack_rows(message: Message) -> list[tuple[str, Request | RelayError]]:
    """The same for a message that is parsed already.

    Raises:
        InvalidInput, ProtocolViolation: as `unpack_request`.
    """
    if not message.rows:
        raise ProtocolViolation("the message has no rows; must be at least one")
    if len(message.rows) > MAX_ROWS:
        raise InvalidInput(f"the message has {len(message.rows)} rows; must be 1 to {MAX_ROWS}")
    rows: list[tuple[str, Request | RelayError]] = []
    for row in message.rows:
        robot, kind = row.robot, row.WhichOneof("kind")
        if not robot or kind is None:
            missing = "kind" if robot else "robot id"
            raise ProtocolViolation(f"row {len(rows)} has no {missing}; every row names its robot and its kind")
        # Fail the whole message: a reply to this row would echo the hostile id into logs and terminals.
        if len(robot) > MAX_ROBOT_NAME or not robot.isprintable():
            raise InvalidInput(
                f"a robot id is {robot[:MAX_ROBOT_NAME]!r}; must be 1 to {MAX_ROBOT_NAME} printable characters"
            )
        try:
            if kind == "observation":
                seen = row.observation
                rows.append((robot, Observation(seen.step, vector(seen.state), seen.observed_ns)))
            elif kind == "start":
                rows.append((robot, _unpack_start(row.start)))
            elif kind == "set_goal":
                rows.append((robot, SetGoal(_unpack_goal(row.set_goal.goal), vector(row.set_goal.state))))
            elif kind == "applied":
                applied = row.applied
                rows.append((robot, Applied(applied.step, vector(applied.state), vector(applied.target))))
            elif kind == "take_over":
                rows.append((robot, TakeOver(row.take_over.by, row.take_over.why)))
            else:
                rows.append((robot, HandBack() if kind == "hand_back" else Finish()))
        except RelayError as error:
            rows.append((robot, error.as_reply()))
    return rows


def pack_reply(rows: Sequence[tuple[str, Reply]], times: StageTimes) -> bytes:
    """One reply of a Control stream, a (robot, reply) for each row; an error becomes a refusal."""
    message = TWINS["ControlReply"]()
    stages = message.times
    stages.decode_us, stages.plan_us, stages.act_us, stages.total_us = times
    fill_rows(message, rows)
    return message.SerializeToString()


def fill_rows(message: Message, rows: Sequence[tuple[str, Reply]]) -> None:
    """Write rows into a reply."""
    for robot, reply in rows:
        row = message.rows.add(robot=robot)
        match reply:
            case Action():  # filled in place: assembling a message from parts copies each part
                action = row.action
                action.target = packed(reply.target)
                action.age = reply.age
                action.valid_until_ns = reply.valid_until_ns
                if reply.replanned:
                    action.replanned = True
                    action.subgoal = packed(reply.subgoal)
                if reply.upcoming is not None:
                    action.upcoming = packed(reply.upcoming)
                if reply.novelty is not None:
                    action.novelty = reply.novelty
                if reply.override:
                    action.override = reply.override
                if reply.goal is not None:
                    _fill_resolved(action.goal, reply.goal)
                if reply.help:
                    action.help = True
                if reply.origin is not None:
                    source, waited, lasts, confidence = reply.origin
                    action.origin.source, action.origin.waited, action.origin.lasts = source, waited, lasts
                    action.origin.SetInParent()
                    if confidence is not None:
                        action.origin.confidence = confidence
                if reply.author:
                    action.author = reply.author
            case Started():
                started = row.started
                started.digest, started.period_s, started.horizon = reply.digest, reply.period_s, reply.horizon
                started.handle = reply.handle
                _fill_resolved(started.goal, reply.goal)
            case GoalSet():
                _fill_resolved(row.goal_set.goal, reply.goal)
            case TakenOver():
                row.taken_over.step = reply.step
                row.taken_over.SetInParent()  # a zero alone would leave the row without its kind
            case Noted():
                row.noted.step, row.noted.help = reply.step, reply.help
                row.noted.SetInParent()
                if reply.novelty is not None:
                    row.noted.novelty = reply.novelty
                if reply.goal is not None:
                    _fill_resolved(row.noted.goal, reply.goal)
            case HandedBack():
                row.handed_back.step = reply.step
                row.handed_back.SetInParent()
            case Finished():
                row.finished.steps = reply.steps
                row.finished.SetInParent()
            case RelayError():
                row.refusal.code = status_of(reply).value[0]
                row.refusal.reason = type(reply).__name__
                row.refusal.message = str(reply)


def pack_request(rows: Sequence[tuple[str, Request]]) -> bytes:
    """One message of a Control stream, a (robot, request) for each row.

    Raises:
        InvalidInput: a value does not fit its field.
    """
    message = TWINS["ControlRequest"]()
    try:
        for robot, request in rows:
            row = message.rows.add(robot=robot)
            match request:
                case Observation():
                    seen = row.observation
                    seen.step = request.step
                    seen.state = packed(request.state)
                    seen.observed_ns = request.observed_ns
                case Start():
                    row.start.plan_lead = request.plan_lead
                    row.start.state = packed(request.state)
                    _fill_goal(row.start.goal, request.goal)
                    if request.seed is not None:
                        row.start.seed = request.seed
                    if (resume := request.resume) is not None:
                        point = row.start.resume
                        point.step, point.age, point.override = resume.step, resume.age, resume.override
                        point.lasts = resume.lasts
                        point.subgoal = packed(resume.subgoal)
                        if resume.upcoming is not None:
                            point.upcoming = packed(resume.upcoming)
                        if resume.hand is not None:
                            point.hand.by, point.hand.why = resume.hand
                            point.hand.SetInParent()
                        point.SetInParent()
                    if (rules := request.rules) != PlanRules():
                        plans = row.start.plans
                        plans.wait, plans.deadline_s = rules.wait, rules.deadline_s or 0.0
                        plans.fallback = 0 if rules.fallback is None else _FALLBACKS.index(rules.fallback)
                case SetGoal():
                    row.set_goal.state = packed(request.state)
                    _fill_goal(row.set_goal.goal, request.goal)
                case TakeOver():
                    row.take_over.by, row.take_over.why = request
                    row.take_over.SetInParent()
                case Applied():
                    applied = row.applied
                    applied.step = request.step
                    applied.state, applied.target = packed(request.state), packed(request.target)
                    applied.SetInParent()
                case HandBack():
                    row.hand_back.SetInParent()
                case Finish():
                    row.finish.SetInParent()
        return message.SerializeToString()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the request cannot be sent: {error}") from error


def pack_step(robot: str, seen: Observation) -> bytes:
    """`pack_request` of one observation, in half its time.

    Raises:
        InvalidInput: a value does not fit its field.
    """
    message = TWINS["ControlRequest"]()
    row = message.rows.add(robot=robot)
    fields = row.observation
    try:
        fields.step, fields.state, fields.observed_ns = seen.step, packed(seen.state), seen.observed_ns
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the request cannot be sent: {error}") from error
    return message.SerializeToString()


def unpack_step(raw: bytes, robot: str, followed: np.ndarray) -> Action | None:
    """The action that a reply holds for one robot, which follows a subgoal (n,); None: it holds anything else.

    Raises:
        ProtocolViolation: the bytes are not a ControlReply.
    """
    message = parse("ControlReply", raw, ProtocolViolation)
    rows, times = message.rows, message.times
    if len(rows) != 1 or (row := rows[0]).robot != robot or not row.HasField("action"):
        return None
    return _unpack_action(
        row.action, StageTimes(times.decode_us, times.plan_us, times.act_us, times.total_us), followed
    )


def unpack_reply(raw: bytes) -> list[tuple[str, Reply]]:
    """The rows of one reply of a Control stream.

    Raises:
        ProtocolViolation: the bytes are not a ControlReply, or a row has no kind.
    """
    message = parse("ControlReply", raw, ProtocolViolation)
    stages = message.times
    times = StageTimes(stages.decode_us, stages.plan_us, stages.act_us, stages.total_us)
    return [(row.robot, unpack_reply_row(row, times)) for row in message.rows]


def unpack_reply_row(row: Message, times: StageTimes) -> Reply:
    match row.WhichOneof("kind"):
        case "action":
            return _unpack_action(row.action, times, NOTHING)
        case "started":
            started = row.started
            goal = _unpack_resolved(started.goal)
            return Started(goal, started.digest, started.period_s, started.horizon, started.handle)
        case "goal_set":
            return GoalSet(_unpack_resolved(row.goal_set.goal))
        case "taken_over":
            return TakenOver(row.taken_over.step)
        case "noted":
            noted = row.noted
            novelty = noted.novelty if noted.HasField("novelty") else None
            goal = _unpack_resolved(noted.goal) if noted.HasField("goal") else None
            return Noted(noted.step, novelty, goal, noted.help)
        case "handed_back":
            return HandedBack(row.handed_back.step)
        case "finished":
            return Finished(row.finished.steps)
        case "refusal":
            return error_named(row.refusal.reason)(printable(row.refusal.message))
        case _:
            raise ProtocolViolation(f"the server's reply to robot {row.robot!r} has no kind that this client knows")


def _unpack_action(action: Message, times: StageTimes, followed: np.ndarray) -> Action:
    replanned, upcoming = action.replanned, action.upcoming
    return Action(  # by names it takes twice as long
        vector(action.target).copy(),  # the robot's loop may change it
        vector(action.subgoal) if replanned else followed,
        action.age,
        replanned,
        action.valid_until_ns,
        vector(upcoming) if upcoming else None,
        times,
        action.novelty if action.HasField("novelty") else None,
        _unpack_override(action.override, ProtocolViolation),
        _unpack_resolved(action.goal) if action.HasField("goal") else None,
        action.help,
        _unpack_origin(action.origin) if action.HasField("origin") else None,
        action.author,
    )


def _unpack_start(start: Message) -> Start:
    resume = None
    if start.HasField("resume"):
        point = start.resume
        if point.step >= 2**31:  # a run from there could outgrow its field
            raise InvalidInput(f"a resume names step {point.step}; must be 1 to {2**31 - 1}")
        upcoming = vector(point.upcoming) if point.upcoming else None
        override = _unpack_override(point.override, InvalidInput)
        hand = TakeOver(point.hand.by, point.hand.why) if point.HasField("hand") else None
        resume = Resume(point.step, vector(point.subgoal), point.age, upcoming, override, hand, point.lasts)
    goal = _unpack_goal(start.goal)
    if resume is not None and not isinstance(goal, ResolvedGoal):
        raise InvalidInput("a resume needs the resolved goal of its run, as Started returned it")
    rules = _unpack_rules(start.plans) if start.HasField("plans") else PlanRules()
    seed = start.seed if start.HasField("seed") else None
    return Start(goal, vector(start.state), seed, start.plan_lead, resume, rules)


def _unpack_rules(rules: Message) -> PlanRules:
    if not 0 <= rules.fallback < len(_FALLBACKS):
        known = ", ".join(f"{number} {name or 'as the server'}" for number, name in enumerate(_FALLBACKS))
        raise InvalidInput(f"the rules for plans name fallback {rules.fallback}; must be one of {known}")
    if not 0 <= rules.deadline_s <= MAX_DEADLINE_S:  # also false for NaN
        raise InvalidInput(
            f"the rules for plans have a deadline of {rules.deadline_s} s; must be 0 to {MAX_DEADLINE_S:g}"
        )
    return PlanRules(rules.wait, _FALLBACKS[rules.fallback], rules.deadline_s or None)


def _unpack_origin(origin: Message) -> Origin:
    try:
        source = Source(origin.source)
    except ValueError:
        raise ProtocolViolation(f"a subgoal comes from source {origin.source}; must be 0 to {max(Source)}") from None
    confidence = origin.confidence if origin.HasField("confidence") else None
    return Origin(source, origin.waited, origin.lasts, confidence)


def _fill_goal(field: Message, goal: Goal) -> None:
    if isinstance(goal, ResolvedGoal):
        _fill_resolved(field.resolved, goal)
    elif isinstance(goal, np.ndarray):
        field.state.SetInParent()
        field.state.values = packed(goal)
    else:
        field.elements.SetInParent()
        field.elements.names.extend(goal)


def pack_goal(goal: Goal) -> bytes:
    """A goal by itself."""
    message = TWINS["Goal"]()
    _fill_goal(message, goal)
    return message.SerializeToString()


def unpack_goal(raw: bytes) -> Goal:
    """The goal that bytes hold.

    Raises:
        InvalidInput: the bytes are not a Goal, or a vector is damaged.
        InvalidGoal: it is empty, or names too many elements.
    """
    return _unpack_goal(parse("Goal", raw, InvalidInput))


def _unpack_goal(goal: Message) -> Goal:
    match goal.WhichOneof("kind"):
        case "elements":
            names = goal.elements.names
            if len(names) > MAX_ELEMENTS:
                raise InvalidGoal(f"the goal names {len(names)} elements; must be 1 to {MAX_ELEMENTS}")
            return tuple(names)
        case "state":
            return vector(goal.state.values)
        case "resolved":
            return _unpack_resolved(goal.resolved)
        case _:
            raise InvalidGoal("the goal is empty; it needs elements, a whole state or a resolved goal")


def _fill_resolved(field: Message, goal: ResolvedGoal) -> None:
    field.SetInParent()
    field.state, field.mask = packed(goal.state), packed(goal.mask)


def _unpack_resolved(goal: Message) -> ResolvedGoal:
    return ResolvedGoal(vector(goal.state), vector(goal.mask))


def _unpack_override(number: int, error: type[RelayError]) -> SubgoalOverride:
    if not number:  # nearly always, and much faster than the look-up
        return SubgoalOverride.NONE
    try:
        return SubgoalOverride(number)
    except ValueError:
        known = ", ".join(f"{override.value} {override.name}" for override in SubgoalOverride)
        raise error(f"a subgoal override has the number {number}; must be one of {known}") from None
