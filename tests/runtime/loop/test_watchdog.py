"""The watchdog over sequences of whatever may happen to a robot."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.loop.watchdog import Command, Watchdog

MS = 1_000_000  # [ns]
PERIOD = 80 * MS
FOLLOW, HOLD, RAMP, STOPPED = Command


def armed() -> Watchdog:
    watchdog = Watchdog(0.08)
    watchdog.arm(0)
    return watchdog


class Round(NamedTuple):
    """What happens in one control period, before the tick that ends it."""

    action: bool
    trip: bool
    rearm: bool
    missed: int  # ticks that are left out
    at_rest: bool
    early_ns: int = 0  # by which the tick comes early, or late


rounds = st.lists(
    st.builds(
        Round,
        action=st.booleans(),
        trip=st.integers(0, 15).map(lambda number: number == 0),
        rearm=st.integers(0, 4).map(lambda number: number == 0),
        missed=st.sampled_from([0, 0, 0, 0, 1, 2, 5]),
        at_rest=st.booleans(),
        early_ns=st.integers(-10 * MS, 10 * MS),
    ),
    max_size=40,
)


@given(rounds)
@settings(max_examples=300)
def test_every_command_is_what_the_rules_say(history: list[Round]) -> None:
    watchdog, now = armed(), 0
    latched, missing_since, command = False, None, None
    for each in history:
        now += PERIOD * (1 + each.missed)
        if each.trip:
            watchdog.trip(now - 1, "a test")
            latched, command = True, command if latched else RAMP
        if each.rearm:
            if latched and command is STOPPED:
                watchdog.arm(now - 1)
                latched, missing_since = False, None
            else:
                with pytest.raises(ProtocolViolation, match="it must have stopped"):
                    watchdog.arm(now - 1)
        taken = each.action and watchdog.action(now - 1, now)
        assert taken == (each.action and not latched)
        if not latched:
            missing_since = None if taken else now if missing_since is None else missing_since
        too_long = missing_since is not None and now - missing_since >= 2 * PERIOD
        latched = latched or (too_long and each.at_rest)
        armed_command = FOLLOW if taken else RAMP if too_long else HOLD
        expected = (STOPPED if each.at_rest else RAMP) if latched else armed_command
        command = watchdog.tick(now, each.at_rest)
        assert command is expected
        assert watchdog.latched == latched
        assert (watchdog.stop is not None) == (latched or expected is RAMP)


@given(rounds)
def test_no_more_than_two_periods_in_a_row_are_held(history: list[Round]) -> None:
    watchdog, now, held = armed(), 0, 0
    for each in history:
        now += PERIOD * (1 + each.missed) + each.early_ns
        if each.action:
            watchdog.action(now - 1, now)
        held = held + 1 if watchdog.tick(now, each.at_rest) is HOLD else 0
        assert held <= 2


@given(rounds)
def test_once_latched_nothing_but_an_arming_lets_it_go_on(history: list[Round]) -> None:
    watchdog, now = armed(), 0
    watchdog.trip(now, "Ctrl-C")
    for each in history:
        now += PERIOD
        if each.action:
            assert not watchdog.action(now, now + PERIOD)
        assert watchdog.tick(now, each.at_rest) is (STOPPED if each.at_rest else RAMP)
    assert watchdog.stop is not None
    assert watchdog.stop.cause == "Ctrl-C"


def test_actions_that_stay_out_hold_then_ramp_then_latch() -> None:
    watchdog = armed()
    assert watchdog.action(10 * MS, PERIOD)
    commands = [watchdog.tick(PERIOD * number, at_rest=number >= 7) for number in range(1, 9)]
    assert commands == [FOLLOW, HOLD, HOLD, RAMP, RAMP, RAMP, STOPPED, STOPPED]
    assert watchdog.latched
    assert watchdog.stop == ("no action came for 2 control periods", 2 * PERIOD, 7 * PERIOD)


@pytest.mark.parametrize("silent", [1, 2, 3, 4])
def test_an_action_before_it_latches_is_followed(silent: int) -> None:
    watchdog = armed()
    for number in range(silent):
        watchdog.tick(PERIOD * number, at_rest=False)
    now = PERIOD * silent
    assert watchdog.action(now - MS, now)
    assert watchdog.tick(now, at_rest=False) is FOLLOW
    assert watchdog.stop is None
    assert [event.kind for event in watchdog.events][-1] == "resumed"


def test_an_arm_that_rests_where_it_holds_latches_when_it_would_ramp() -> None:
    watchdog = armed()
    assert [watchdog.tick(PERIOD * number, at_rest=True) for number in range(3)] == [HOLD, HOLD, STOPPED]
    assert watchdog.latched


def test_an_action_past_its_time_is_refused_and_counts_as_none() -> None:
    watchdog = armed()
    assert not watchdog.action(PERIOD + MS, PERIOD)
    assert watchdog.action(PERIOD + MS, PERIOD + MS)
    assert watchdog.tick(2 * PERIOD, at_rest=False) is FOLLOW
    assert not watchdog.action(3 * PERIOD, 3 * PERIOD - 1)
    assert watchdog.tick(3 * PERIOD, at_rest=False) is HOLD
    refused = [event.text for event in watchdog.events if event.kind == "refused"]
    assert refused[0] == "an action came 1.0 ms after it was to be applied"


def test_a_trip_ramps_at_once_and_keeps_its_first_cause() -> None:
    watchdog = armed()
    watchdog.action(MS, PERIOD)
    watchdog.tick(PERIOD, at_rest=False)
    watchdog.action(PERIOD + MS, 2 * PERIOD)
    watchdog.trip(PERIOD + 2 * MS, "the robot's protective stop")
    watchdog.trip(PERIOD + 3 * MS, "Ctrl-C")
    assert watchdog.tick(2 * PERIOD, at_rest=False) is RAMP
    assert watchdog.tick(3 * PERIOD, at_rest=True) is STOPPED
    assert watchdog.stop == ("the robot's protective stop", PERIOD + 2 * MS, 3 * PERIOD)
    assert [(event.kind, event.text) for event in watchdog.events] == [
        ("armed", "the policy is followed"),
        ("tripped", "the robot's protective stop"),
        ("tripped", "Ctrl-C"),
        ("stopped", "the robot's protective stop; re-arm to go on"),
    ]


def test_it_is_armed_again_only_at_rest() -> None:
    watchdog = armed()
    watchdog.tick(0, at_rest=False)
    watchdog.trip(0, "a state that jumped")
    with pytest.raises(ProtocolViolation, match="it must have stopped before it is armed"):
        watchdog.arm(0)
    assert watchdog.tick(PERIOD, at_rest=False) is RAMP
    with pytest.raises(ProtocolViolation, match="it must have stopped before it is armed"):
        watchdog.arm(PERIOD)
    watchdog.tick(2 * PERIOD, at_rest=True)
    watchdog.arm(2 * PERIOD)
    assert watchdog.stop is None
    assert watchdog.action(2 * PERIOD, 3 * PERIOD)
    assert watchdog.tick(3 * PERIOD, at_rest=True) is FOLLOW


def test_it_begins_latched() -> None:
    watchdog = Watchdog(0.08)
    assert not watchdog.action(0, PERIOD)
    assert watchdog.tick(0, at_rest=True) is STOPPED


def test_time_does_not_go_back() -> None:
    watchdog = armed()
    watchdog.tick(PERIOD, at_rest=False)
    for call in (
        lambda: watchdog.tick(PERIOD - 1, at_rest=False),
        lambda: watchdog.action(PERIOD - 1, PERIOD),
        lambda: watchdog.trip(PERIOD - 1, "late"),
    ):
        with pytest.raises(ProtocolViolation, match="time went back"):
            call()


@pytest.mark.parametrize("period_s", [0.0, -0.08, float("nan")])
def test_a_period_is_above_zero(period_s: float) -> None:
    with pytest.raises(InvalidInput, match="must be more than 0"):
        Watchdog(period_s)
