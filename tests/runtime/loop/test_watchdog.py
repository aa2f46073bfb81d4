"""The watchdog over sequences of whatever may happen to a robot."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from rpl_runtime.loop.watchdog import Command, Watchdog

MS = 1_000_000  # [ns]
PERIOD = 80 * MS
FOLLOW, HOLD, STOP = Command


def watching() -> Watchdog:
    return Watchdog(0.08, 2, 0)


class Round(NamedTuple):
    """What happens in one control period."""

    action: bool
    trip: bool
    missed: int  # periods that the loop leaves out before it
    early_ns: int = 0  # by which it begins early, or late


rounds = st.lists(
    st.builds(
        Round,
        action=st.booleans(),
        trip=st.integers(0, 15).map(lambda number: number == 0),
        missed=st.sampled_from([0, 0, 0, 0, 1, 2, 5]),
        early_ns=st.integers(-10 * MS, 10 * MS),
    ),
    max_size=40,
)


@given(rounds)
@settings(max_examples=300)
def test_every_command_is_what_the_rules_say(history: list[Round]) -> None:
    watchdog, now = watching(), 0
    stopped, missing_since = False, None
    for each in history:
        now += PERIOD * (1 + each.missed)
        if each.trip:
            watchdog.trip(now - 1, "a test")
            stopped = True
        missing_since = None if each.action else now if missing_since is None else missing_since
        stopped = stopped or (missing_since is not None and now - missing_since >= 2 * PERIOD)
        assert watchdog.judge(now, each.action) is (STOP if stopped else FOLLOW if each.action else HOLD)
        assert (watchdog.stop is not None) == stopped


@given(rounds)
def test_no_more_than_two_periods_in_a_row_are_held(history: list[Round]) -> None:
    watchdog, now, held = watching(), 0, 0
    for each in history:
        now += PERIOD * (1 + each.missed) + each.early_ns
        held = held + 1 if watchdog.judge(now, each.action) is HOLD else 0
        assert held <= 2


@given(rounds)
def test_nothing_moves_a_robot_again_that_was_stopped(history: list[Round]) -> None:
    watchdog, now = watching(), 0
    watchdog.trip(now, "Ctrl-C")
    for each in history:
        now += PERIOD
        assert watchdog.judge(now, each.action) is STOP
    assert watchdog.stop == ("Ctrl-C", 0, None)


def test_actions_that_stay_out_hold_then_stop_then_the_robot_rests() -> None:
    watchdog = watching()
    commands = [watchdog.judge(PERIOD * number, number == 1) for number in range(1, 6)]
    assert commands == [FOLLOW, HOLD, HOLD, STOP, STOP]
    watchdog.rest(7 * PERIOD)
    assert watchdog.stop == ("no action came for 2 control periods", 2 * PERIOD, 7 * PERIOD)
    assert [event.kind for event in watchdog.events] == ["armed", "late", "ramping", "stopped"]


def test_an_action_before_the_stop_is_followed_and_the_holds_begin_anew() -> None:
    watchdog = watching()
    commands = [watchdog.judge(PERIOD * number, number in (3, 6)) for number in range(1, 10)]
    assert commands == [HOLD, HOLD, FOLLOW, HOLD, HOLD, FOLLOW, HOLD, HOLD, STOP]
    assert [event.text for event in watchdog.events if event.kind == "resumed"] == [
        "an action came after 160.0 ms without"
    ] * 2


def test_how_long_a_robot_may_hold_is_the_budget_s() -> None:
    watchdog = Watchdog(0.08, 4, 0)
    assert [watchdog.judge(PERIOD * number, False) for number in range(1, 6)] == [HOLD, HOLD, HOLD, HOLD, STOP]
    assert watchdog.stop is not None
    assert watchdog.stop.cause == "no action came for 4 control periods"


def test_a_trip_stops_at_once_and_keeps_its_first_cause() -> None:
    watchdog = watching()
    assert watchdog.judge(PERIOD, True) is FOLLOW
    watchdog.trip(PERIOD + 2 * MS, "the robot's protective stop")
    watchdog.trip(PERIOD + 3 * MS, "Ctrl-C")
    assert watchdog.judge(2 * PERIOD, True) is STOP
    watchdog.rest(3 * PERIOD)
    assert watchdog.stop == ("the robot's protective stop", PERIOD + 2 * MS, 3 * PERIOD)
    assert [(event.kind, event.text) for event in watchdog.events] == [
        ("armed", "the robot follows the policy"),
        ("tripped", "the robot's protective stop"),
        ("tripped", "Ctrl-C"),
        ("stopped", "at rest: the robot's protective stop"),
    ]


def test_a_run_that_nothing_stopped_ends_without_a_stop() -> None:
    watchdog = watching()
    watchdog.judge(PERIOD, True)
    watchdog.rest(2 * PERIOD)
    assert watchdog.stop is None
    assert [event.kind for event in watchdog.events] == ["armed"]
