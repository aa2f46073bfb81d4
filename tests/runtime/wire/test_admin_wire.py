"""The admin service's messages: what goes in comes out, and bytes that are none are refused."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
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
    *(st.booleans(), counts, st.none() | floats),
)


@given(st.lists(models, max_size=4))
def test_models_come_back(listed: list[wire.ServedModel]) -> None:
    assert wire.unpack_models(wire.pack_models(listed)) == listed


@given(st.lists(robots, max_size=4))
def test_robots_come_back(listed: list[wire.RobotStatus]) -> None:
    assert wire.unpack_robots(wire.pack_robots(listed)) == listed


@given(models, texts)
def test_what_was_loaded_or_unloaded_comes_back(model: wire.ServedModel, replaced: str) -> None:
    assert wire.unpack_loaded(wire.pack_loaded(model, replaced)) == (model, replaced)
    assert wire.unpack_unloaded(wire.pack_unloaded(model)) == model


@given(names, st.lists(floats).map(tuple))
def test_requests_come_back(name: str, subgoal: tuple[float, ...]) -> None:
    assert wire.unpack_load(wire.pack_load(name)) == name
    assert wire.unpack_unload(wire.pack_unload(name)) == name
    assert wire.unpack_robot(wire.pack_robot(name)) == name
    assert wire.unpack_pin(wire.pack_pin(name, subgoal)) == (name, subgoal)


REQUESTS = [wire.unpack_load, wire.unpack_unload, wire.unpack_robot, wire.unpack_pin]
REPLIES = [wire.unpack_models, wire.unpack_robots, wire.unpack_loaded, wire.unpack_unloaded]


@pytest.mark.parametrize("unpack", REQUESTS, ids=lambda unpack: unpack.__name__)
@given(raw=st.binary(max_size=40))
def test_a_request_of_any_bytes_is_a_request_or_refused(unpack: Callable[[bytes], Any], raw: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert unpack(raw)


@pytest.mark.parametrize("unpack", REPLIES, ids=lambda unpack: unpack.__name__)
@given(raw=st.binary(max_size=40))
def test_a_reply_of_any_bytes_is_a_reply_or_refused(unpack: Callable[[bytes], Any], raw: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        unpack(raw)


def test_what_fits_no_message_is_not_sent() -> None:
    for pack in (
        lambda: wire.pack_pin("a", ["x"]),  # type: ignore[list-item]
        lambda: wire.pack_robot("\udcff"),
        lambda: wire.pack_load("\udcff"),
    ):
        with pytest.raises(InvalidInput, match="cannot be sent"):
            pack()
