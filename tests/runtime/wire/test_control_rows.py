"""Control, Plan, Act and Describe on the wire: values survive, and any other bytes give an error of this project."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

import policies
from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import InvalidGoal, InvalidInput, ProtocolViolation, RelayError, RobotLeased, StepOutOfOrder
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Applied,
    FileInfo,
    Finish,
    Finished,
    GoalSet,
    HandBack,
    HandedBack,
    ModelInfo,
    Noted,
    Observation,
    Request,
    SetGoal,
    StageTimes,
    Start,
    Started,
    TakenOver,
)
from rpl_runtime.relay.plans import Fallback, Origin, PlanRules, Source
from rpl_runtime.relay.run_state import Resume, SubgoalOverride, TakeOver
from rpl_runtime.wire import bundles as describe
from rpl_runtime.wire import control as codec
from rpl_runtime.wire import levels

TIMES = StageTimes(1.0, 2.0, 3.0, 8.0)

floats = st.floats(width=32)
vectors = st.lists(floats, max_size=8).map(lambda values: np.array(values, dtype=np.float32))
full_vectors = st.lists(floats, min_size=1, max_size=8).map(lambda values: np.array(values, dtype=np.float32))
robots = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=codec.MAX_ROBOT_NAME).filter(
    str.isprintable
)
resolved_goals = st.builds(ResolvedGoal, vectors, vectors)
names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4).map(tuple)
goals = st.one_of(names, vectors, resolved_goals)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
hands = st.builds(TakeOver, texts, texts)
resumes = st.builds(
    Resume,
    *(st.integers(0, 2**31 - 1), vectors, st.integers(0, 2**32 - 1), st.none() | full_vectors),
    st.sampled_from(SubgoalOverride),
    st.none() | hands,
    st.integers(0, 2**32 - 1),
)
rules = st.builds(PlanRules, st.booleans(), st.none() | st.sampled_from(Fallback), st.none() | st.floats(1e-9, 60))
shares = st.none() | st.floats(0, 1, width=32)
origins = st.builds(Origin, st.sampled_from(Source), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), shares)
seeds = st.none() | st.integers(0, 2**64 - 1)
leads = st.integers(0, 2**32 - 1)
requests = st.one_of(
    st.builds(Observation, st.integers(0, 2**32 - 1), vectors, st.integers(-(2**63), 2**63 - 1)),
    st.builds(Start, goals, vectors, seeds, leads, st.none(), rules),
    st.builds(Start, resolved_goals, vectors, seeds, leads, resumes, rules),
    st.builds(SetGoal, goals, vectors),
    hands,
    st.builds(Applied, st.integers(0, 2**32 - 1), vectors, vectors),
    st.just(HandBack()),
    st.just(Finish()),
)
replies = st.one_of(
    st.builds(
        Action,
        target=vectors,
        subgoal=full_vectors,
        age=st.integers(0, 2**32 - 1),
        replanned=st.just(True),
        valid_until_ns=st.integers(-(2**63), 2**63 - 1),
        novelty=st.none() | st.floats(0, width=32),
        override=st.sampled_from(SubgoalOverride),
        upcoming=st.none() | full_vectors,
        times=st.just(TIMES),
        goal=st.none() | resolved_goals,
        help=st.booleans(),
        origin=st.none() | origins,
        author=st.text(max_size=20),
    ),
    st.builds(
        Started,
        resolved_goals,
        st.text("0123456789abcdef"),
        st.floats(allow_nan=False),
        st.integers(0, 2**31),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(GoalSet, resolved_goals),
    st.builds(TakenOver, st.integers(0, 2**32 - 1)),
    st.builds(
        Noted,
        st.integers(0, 2**32 - 1),
        st.none() | st.floats(0, width=32),
        st.none() | resolved_goals,
        st.booleans(),
    ),
    st.builds(HandedBack, st.integers(0, 2**32 - 1)),
    st.builds(Finished, st.integers(0, 2**32 - 1)),
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(st.lists(st.tuples(robots, requests), min_size=1, max_size=4))
def test_requests_come_out_as_they_went_in(rows: list) -> None:
    assert same(tuple(codec.unpack_request(codec.pack_request(rows))), tuple(rows))


@given(st.lists(st.tuples(robots, replies), max_size=4))
def test_replies_come_out_as_they_went_in(rows: list) -> None:
    assert same(tuple(codec.unpack_reply(codec.pack_reply(rows, TIMES))), tuple(rows))


def test_a_subgoal_travels_only_where_it_is_new() -> None:
    action = Action(np.ones(2, np.float32), np.ones(5, np.float32), 3, False, 7)
    [(_, reply)] = codec.unpack_reply(codec.pack_reply([("a", action)], TIMES))
    assert isinstance(reply, Action)
    assert same(reply.subgoal, NOTHING)
    assert reply.upcoming is None
    action = pb.Action(subgoal=np.ones(5, np.float32).tobytes())  # sent all the same
    [(_, reply)] = codec.unpack_reply(pb.ControlReply(rows=[pb.ReplyRow(robot="a", action=action)]).SerializeToString())
    assert isinstance(reply, Action)
    assert same(reply.subgoal, NOTHING)


def test_numbers_travel_as_float32_whatever_they_were() -> None:
    values = np.array([0.1, 1 / 3, 1e10])
    [(_, request)] = codec.unpack_request(codec.pack_request([("a", Observation(0, values, 0))]))
    assert isinstance(request, Observation)
    assert same(request.state, values.astype(np.float32))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("x"), 3),
        (InvalidGoal("x"), 3),
        (StepOutOfOrder("x"), 11),
        (ProtocolViolation("x"), 9),
        (RobotLeased("x"), 6),
        (RelayError("x"), 13),
    ],
)
def test_an_error_travels_as_a_refusal_of_its_class(error: RelayError, code: int) -> None:
    raw = codec.pack_reply([("a", error)], TIMES)
    assert pb.ControlReply.FromString(raw).rows[0].refusal.code == code
    [(_, reply)] = codec.unpack_reply(raw)
    assert type(reply) is type(error)
    assert str(reply) == "x"


def test_a_refusal_of_an_unknown_kind_is_still_an_error() -> None:
    refusal = pb.Refusal(code=3, reason="FromTheFuture", message="x")
    raw = pb.ControlReply(rows=[pb.ReplyRow(robot="a", refusal=refusal)]).SerializeToString()
    [(_, reply)] = codec.unpack_reply(raw)
    assert type(reply) is RelayError


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (pb.ReplyRow(robot="a", action=pb.Action(override=9)), "a subgoal override has the number 9"),
        (pb.ReplyRow(robot="a"), "reply to robot 'a' has no kind that this client knows"),
    ],
)
def test_a_reply_of_an_unknown_kind_is_a_fault_of_the_server(row: pb.ReplyRow, sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        codec.unpack_reply(pb.ControlReply(rows=[row]).SerializeToString())


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_value_or_an_error_of_ours(raw: bytes) -> None:
    spec = policies.tiny_spec()
    for unpack in (
        codec.unpack_request,
        codec.unpack_reply,
        lambda raw: levels.unpack_plan_request(raw, spec),
        lambda raw: levels.unpack_act_request(raw, spec),
        lambda raw: levels.unpack_subgoals(raw, 1),
        lambda raw: levels.unpack_actions(raw, 1),
        describe.unpack_model,
        describe.unpack_chunk,
    ):
        with contextlib.suppress(InvalidInput, ProtocolViolation):
            unpack(raw)


@given(st.lists(st.tuples(robots, requests), min_size=1, max_size=3), st.data())
def test_damaged_requests_are_a_value_or_an_error_of_ours(rows: list, data: st.DataObject) -> None:
    raw = bytearray(codec.pack_request(rows))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput, ProtocolViolation):
        for _, request in codec.unpack_request(bytes(raw)):
            assert isinstance(request, Request | InvalidInput)


def row(robot: str = "a", **kind: Message) -> pb.RequestRow:
    return pb.RequestRow(robot=robot, **kind)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "no rows"),
        ([row(finish=pb.Finish()), row("", finish=pb.Finish())], "row 1 has no robot id"),
        ([row()], "row 0 has no kind"),
    ],
)
def test_a_message_without_meaning_is_refused_whole(rows: Sequence[pb.RequestRow], sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        codec.unpack_request(pb.ControlRequest(rows=rows).SerializeToString())


def test_more_rows_than_may_be_are_refused_before_they_are_parsed() -> None:
    """To parse a MiB of empty rows would hold up every robot."""
    row = pb.RequestRow(robot="a" * 100, finish=pb.Finish())
    most = pb.ControlRequest(rows=[row] * codec.MAX_ROWS).SerializeToString()
    assert len(codec.unpack_request(most)) == codec.MAX_ROWS
    with pytest.raises(InvalidInput, match="more than 256 rows"):
        codec.unpack_request(b"\x0a\x00" * 10_000 + b"\xff" * 10)  # nobody saw that it is no message


@pytest.mark.parametrize("robot", ["a" * 129, "a\nb", "\x1b[2J"])
def test_a_robot_id_that_nobody_should_read_is_not_said_again(robot: str) -> None:
    raw = pb.ControlRequest(rows=[row("b", finish=pb.Finish()), row(robot, finish=pb.Finish())]).SerializeToString()
    with pytest.raises(InvalidInput, match="must be 1 to 128 printable characters") as refused:
        codec.unpack_request(raw)
    assert robot not in str(refused.value)
    assert repr(robot[:128]) in str(refused.value)


def test_a_goal_may_name_256_elements() -> None:
    goal = SetGoal([f"element {number}" for number in range(256)], NOTHING)
    [(_, request)] = codec.unpack_request(codec.pack_request([("a", goal)]))
    assert isinstance(request, SetGoal)
    assert list(request.goal) == goal.goal


@pytest.mark.parametrize(
    ("sick", "error", "sentence"),
    [
        (row(start=pb.Start()), InvalidGoal, "the goal is empty"),
        (row(set_goal=pb.SetGoal()), InvalidGoal, "the goal is empty"),
        (
            row(set_goal=pb.SetGoal(goal=pb.Goal(elements=pb.ElementSet(names=["\x01"] * 300_000)))),
            InvalidGoal,
            "the goal names 300000 elements; must be 1 to 256",
        ),
        (
            row(start=pb.Start(goal=pb.Goal(elements=pb.ElementSet(names=["door"])), resume=pb.ResumePoint(step=1))),
            InvalidInput,
            "needs the resolved goal",
        ),
        (
            row(start=pb.Start(goal=pb.Goal(resolved=pb.ResolvedGoal()), resume=pb.ResumePoint(step=2**31))),
            InvalidInput,
            "must be 1 to",
        ),
        (
            row(start=pb.Start(goal=pb.Goal(resolved=pb.ResolvedGoal()), resume=pb.ResumePoint(step=1, override=9))),
            InvalidInput,
            "a subgoal override has the number 9; must be one of 0 NONE, 1 PINNED, 2 VETOED, 3 RELEASED",
        ),
    ],
)
def test_a_sick_row_leaves_its_neighbours_alone(sick: pb.RequestRow, error: type[RelayError], sentence: str) -> None:
    raw = pb.ControlRequest(rows=[row("b", finish=pb.Finish()), sick]).SerializeToString()
    [(_, sound), (_, found)] = codec.unpack_request(raw)
    assert isinstance(sound, Finish)
    assert type(found) is error
    assert sentence in str(found)


@pytest.mark.parametrize(
    "rows",
    [
        [("a", Observation(-1, NOTHING, 0))],
        [("a", Observation(2**32, NOTHING, 0))],
        [("a", Observation("first", NOTHING, 0))],
        [("\ud800", Finish())],
        [("a", Start(["door"], seed=-1))],
        [("a", Start([3]))],
    ],
)
def test_a_value_that_does_not_fit_is_not_sent(rows: list) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent"):
        codec.pack_request(rows)


@given(st.integers(1, 5), st.integers(0, 2**32))
def test_matrices_come_out_as_they_went_in(batch: int, seed: int) -> None:
    spec, rng = policies.tiny_spec(), np.random.default_rng(seed)

    def matrix(width: int) -> np.ndarray:
        return rng.normal(size=(batch, width)).astype(np.float32)

    plan, act = (matrix(5), matrix(5), matrix(5), matrix(3)), (matrix(5), matrix(5), matrix(2))
    assert same(levels.unpack_plan_request(levels.pack_plan_request(*plan), spec), plan)
    assert same(levels.unpack_act_request(levels.pack_act_request(*act), spec), act)
    assert same(levels.unpack_subgoals(levels.pack_subgoals(plan[0]), batch), plan[0])
    assert same(levels.unpack_actions(levels.pack_actions(act[2]), batch), act[2])


@pytest.mark.parametrize("change", [{"batch": 0}, {"batch": 3}, {"state": [0.0] * 9}, {"noise": []}])
def test_a_matrix_of_another_size_names_what_is_allowed(change: dict) -> None:
    sound = {"batch": 2, "state": [0.0] * 10, "subgoal": [0.0] * 10, "noise": [0.0] * 4}
    with pytest.raises(InvalidInput, match=r"for each row"):
        levels.unpack_act_request(pb.ActRequest(**(sound | change)).SerializeToString(), policies.tiny_spec())


@pytest.mark.parametrize("make", [policies.tiny_spec, lambda: policies.kitchen_spec("kitchen", 30, 4, 9)])
def test_a_description_comes_out_as_it_went_in(make) -> None:
    model = ModelInfo(make(), "0123456789abcdef" * 4, 1, {"high.onnx": FileInfo(7, "def")})
    assert describe.unpack_model(describe.pack_model(model)) == model


@pytest.mark.parametrize("digest", ["", "abc", "/etc", "../" * 20, "A" * 64, "0" * 64 + "\n"])
def test_a_description_with_a_digest_that_is_none_is_a_fault_of_the_server(digest: str) -> None:
    with pytest.raises(ProtocolViolation, match="64 hex digits"):
        describe.unpack_model(describe.pack_model(ModelInfo(policies.tiny_spec(), digest, 1, {})))


def test_a_description_of_nothing_is_a_fault_of_the_server() -> None:
    with pytest.raises(ProtocolViolation, match="cannot read"):
        describe.unpack_model(b"")


@pytest.mark.parametrize("size", [0, 1, describe.CHUNK_BYTES, describe.CHUNK_BYTES + 1])
def test_the_chunks_of_a_file_make_the_file(size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    chunks = [describe.unpack_chunk(raw) for raw in describe.pack_chunks("a", content)]
    assert b"".join(chunk for _, chunk in chunks) == content
    assert {name for name, _ in chunks} == {"a"}
