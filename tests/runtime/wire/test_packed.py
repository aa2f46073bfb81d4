"""The twins of the messages read and write the same bytes as their originals."""

import struct

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import InvalidInput
from rpl_runtime.relay.messages import Observation
from rpl_runtime.wire import control as codec
from rpl_runtime.wire.packed import has_more_fields, parse

KINDS = ("ControlRequest", "ControlReply", "PlanRequest", "PlanReply", "ActRequest", "ActReply")
floats = st.lists(st.floats(width=32), max_size=5)


@given(st.integers(0, 2**32 - 1), floats, st.integers(-(2**63), 2**63 - 1))
def test_a_twin_writes_what_its_original_writes(step: int, values: list[float], at: int) -> None:
    row = pb.RequestRow(robot="a", observation=pb.Observation(step=step, state=values, observed_ns=at))
    raw = pb.ControlRequest(rows=[row]).SerializeToString()
    assert codec.pack_request([("a", Observation(step, np.array(values, np.float32), at))]) == raw
    assert parse("ControlRequest", raw, InvalidInput).SerializeToString() == raw


def field(number: int, wire_type: int, content: bytes) -> bytes:
    return bytes([number << 3 | wire_type]) + content


def nested(number: int, content: bytes) -> bytes:
    return field(number, 2, bytes([len(content)]) + content)


ENCODINGS = {
    "number by number": b"".join(field(2, 5, struct.pack("<f", x)) for x in (1, 2, 3)),
    "in two parts": nested(2, struct.pack("<2f", 1, 2)) + nested(2, struct.pack("<f", 3)),
    "mixed": field(2, 5, struct.pack("<f", 1)) + nested(2, struct.pack("<2f", 2, 3)),
    "with a field from the future": nested(2, struct.pack("<3f", 1, 2, 3)) + field(15, 0, b"\x01"),
    "with a zero spelled out": field(1, 0, b"\x00") + nested(2, struct.pack("<3f", 1, 2, 3)),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_that_protobuf_allows_is_read(encoding: str) -> None:
    raw = nested(1, nested(1, b"a") + nested(3, ENCODINGS[encoding]))
    [(robot, seen)] = codec.unpack_request(raw)
    assert robot == "a"
    assert isinstance(seen, Observation)
    np.testing.assert_array_equal(seen.state, np.array([1, 2, 3], np.float32))


@given(st.sampled_from(KINDS), st.binary(max_size=60))
def test_what_a_twin_reads_its_original_reads_as_the_same(kind: str, raw: bytes) -> None:
    """Except a vector that ends in the middle of a number, which unpacking refuses."""
    try:
        found = getattr(pb, kind).FromString(raw)
    except DecodeError:
        return
    found.DiscardUnknownFields()
    parsed = parse(kind, raw, InvalidInput)
    parsed.DiscardUnknownFields()
    assert parsed.SerializeToString() == found.SerializeToString()


def test_a_vector_of_broken_numbers_is_refused_in_its_row() -> None:
    raw = nested(1, nested(1, b"a") + nested(3, nested(2, b"xyz")))
    [(_, error)] = codec.unpack_request(raw)
    assert "3 bytes" in str(error)


GROUP = field(3, 3, b"") + field(1, 0, b"\x05") + field(3, 4, b"")
PARTS = {
    "texts": [nested(1, b""), nested(1, b"x" * 100)] * 2,
    "numbers": [field(2, 0, b"\x80\x80\x01"), field(2, 1, b"12345678"), field(2, 5, b"1234"), field(2, 0, b"\x00")],
    "a group": [GROUP[:1], GROUP[1:3], GROUP[3:], nested(1, b"")],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_fields_are_counted_without_a_look_at_the_rest(parts: list[bytes]) -> None:
    raw = b"".join(parts)
    assert [has_more_fields(raw, most) for most in range(6)] == [True] * 4 + [False] * 2
    assert has_more_fields(raw + b"\xff" * 20, 3)  # nobody saw that it is no message


@given(st.binary(max_size=40), st.integers(0, 9))
def test_what_is_no_message_has_no_more_fields_than_it_may(raw: bytes, most: int) -> None:
    assert not has_more_fields(raw, most) or len(raw) > most
