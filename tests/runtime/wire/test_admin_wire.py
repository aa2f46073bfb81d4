"""The admin service's messages: what goes in comes out, and bytes that are not a message are refused."""

import contextlib

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.relay.messages import StageTimes
from rpl_runtime.wire import admin as wire

texts = st.text(max_size=20)
names = st.text(min_size=1, max_size=20)
counts = st.integers(0, 2**32 - 1)
floats = st.floats(width=32, allow_nan=False)
times = st.builds(StageTimes, floats, floats, floats, floats)
models = st.builds(wire.ServedModel, texts, texts, counts, st.booleans(), st.booleans(), texts)
robots = st.builds(
    wire.RobotStatus,
    *(texts, texts, texts, texts),
    *(st.integers(0, 2**64 - 1), counts, counts),
    st.lists(floats).map(tuple),
    st.floats(0, allow_nan=False),
    times,
    *(st.booleans(), counts, st.none() | floats, st.booleans()),
    *[st.lists(floats).map(tuple)] * 3,
    *(texts, st.booleans()),
)


@given(st.lists(models, max_size=4))
def test_models_come_back(listed: list[wire.ServedModel]) -> None:
    raw = wire.pb.ListModelsReply(models=[model._asdict() for model in listed]).SerializeToString()
    assert [wire.served_model(model) for model in wire.unpack_reply(wire.pb.ListModelsReply, raw).models] == listed


@given(st.lists(robots, max_size=4))
def test_robots_come_back(listed: list[wire.RobotStatus]) -> None:
    rows = []
    for robot in listed:
        fields = robot._asdict() | {"times": robot.times._asdict()}
        rows.append(wire.pb.Robot(**fields | {"goal": {"state": fields["goal"], "mask": fields.pop("mask")}}))
    raw = wire.pb.ListRobotsReply(robots=rows).SerializeToString()
    assert [wire.robot_status(robot) for robot in wire.unpack_reply(wire.pb.ListRobotsReply, raw).robots] == listed


@given(names, st.lists(floats))
def test_requests_come_back(name: str, subgoal: list[float]) -> None:
    for method, fields in {
        "ListModels": {},
        "LoadModel": {"path": name},
        "UnloadModel": {"model": name},
        "PinSubgoal": {"robot": name, "subgoal": subgoal},
        "ReleaseSubgoal": {"robot": name},
        "VetoSubgoal": {"robot": name},
        "TakeOverRobot": {"robot": name, "by": name},
        "SteerRobot": {"robot": name, "hand": name, "target": subgoal},
        "HandBackRobot": {"robot": name, "hand": name},
    }.items():
        request = wire.unpack_request(method, wire.pack_request(method, **fields))
        assert {field: getattr(request, field) for field in fields} == fields


@pytest.mark.parametrize("method", wire.REQUESTS)
@given(raw=st.binary(max_size=40))
def test_a_request_of_any_bytes_is_a_request_or_refused(method: str, raw: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert type(wire.unpack_request(method, raw)) is wire.REQUESTS[method]


@pytest.mark.parametrize(
    ("method", "name"),
    [("LoadModel", "path"), ("UnloadModel", "model")]
    + [(method, "robot") for method in ("PinSubgoal", "ReleaseSubgoal", "VetoSubgoal")],
)
def test_a_request_that_names_nothing_is_refused(method: str, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"the request names no {name}; it needs one"):
        wire.unpack_request(method, b"")


@pytest.mark.parametrize("kind", [wire.pb.ListModelsReply, wire.pb.ListRobotsReply, wire.pb.LoadModelReply])
@given(raw=st.binary(max_size=40))
def test_a_reply_of_any_bytes_is_a_reply_or_refused(kind: type[Message], raw: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        assert type(wire.unpack_reply(kind, raw)) is kind


def test_bytes_of_another_kind_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"2 bytes came that are not a rpl\.v1\.ReleaseSubgoalRequest"):
        wire.unpack_request("ReleaseSubgoal", b"\xff\xff")
    with pytest.raises(ProtocolViolation, match=r"2 bytes came that are not a rpl\.v1\.ListRobotsReply"):
        wire.unpack_reply(wire.pb.ListRobotsReply, b"\xff\xff")


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("PinSubgoal", {"robot": "a", "subgoal": ["x"]}),
        ("VetoSubgoal", {"robot": "\udcff"}),
        ("LoadModel", {"path": "\udcff"}),
    ],
)
def test_what_fits_no_message_is_not_sent(method: str, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent"):
        wire.pack_request(method, **fields)
