"""Schedules and clocks: deadlines without drift, and what a loop is told when it misses them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_clock import FakeClock
from rpl_runtime.errors import InvalidInput
from rpl_runtime.loop.clock import Clock, MonotonicClock, Schedule

MS = 1_000_000  # [ns]
DAY = 86_400_000 * MS


class Sluggish(FakeClock):
    """A clock whose sleeps end late."""

    def __init__(self, late_ns: list[int]) -> None:
        super().__init__(now_ns=7)
        self._late_ns = late_ns

    def sleep_until(self, deadline_ns: int) -> None:
        super().sleep_until(deadline_ns)
        self.advance(self._late_ns.pop(0))


@given(
    late_ns=st.lists(st.integers(0, 9 * MS), min_size=1, max_size=50), work_ns=st.integers(0, 30 * MS), data=st.data()
)
def test_a_period_begins_at_its_deadline_or_as_late_as_the_sleep_or_the_work(
    late_ns: list[int], work_ns: int, data: st.DataObject
) -> None:
    clock = Sluggish(list(late_ns))
    schedule, last = Schedule(clock, 0.01), -1
    for sleep_late_ns in late_ns:
        called_ns = clock.now_ns()
        tick = schedule.wait()
        assert tick.deadline_ns == 7 + tick.number * 10 * MS
        assert tick.number == last + 1 + tick.missed
        assert tick.now_ns == max(called_ns, tick.deadline_ns) + sleep_late_ns
        assert tick.late_ns == tick.now_ns - tick.deadline_ns
        # The newest deadline that is past when it asks, or the next one.
        assert called_ns - tick.deadline_ns < 10 * MS
        assert tick.missed == max(0, (called_ns - (7 + (last + 1) * 10 * MS)) // (10 * MS))
        assert tick.asleep_ns == 0
        last = tick.number
        clock.advance(data.draw(st.integers(0, work_ns)))


def test_lateness_does_not_add_up() -> None:
    clock = Sluggish([MS] * 1000)
    schedule = Schedule(clock, 0.08)
    ticks = [schedule.wait() for _ in range(1000)]
    assert [tick.number for tick in ticks] == list(range(1000))
    assert {tick.late_ns for tick in ticks} == {MS}


@given(st.integers(0, DAY))
def test_a_sleep_of_the_computer_is_told_once(asleep_ns: int) -> None:
    clock = FakeClock()
    schedule = Schedule(clock, 0.08)
    schedule.wait()
    clock.fall_asleep(asleep_ns)
    # Two clocks are compared, and a difference of a few milliseconds is none.
    assert schedule.wait().asleep_ns == (asleep_ns if asleep_ns > 10 * MS else 0)
    assert schedule.wait().asleep_ns == 0


def test_a_loop_that_was_stopped_goes_on_with_the_newest_period() -> None:
    clock = FakeClock()
    schedule = Schedule(clock, 0.08)
    assert schedule.wait() == (0, 0, 0, 0, 0)
    clock.advance(1000 * MS)
    assert schedule.wait() == (12, 960 * MS, 1000 * MS, 11, 0)
    assert schedule.wait() == (13, 1040 * MS, 1040 * MS, 0, 0)


def test_the_systems_clock_is_the_monotonic_one() -> None:
    clock: Clock = MonotonicClock()
    before = time.monotonic_ns()
    now = clock.now_ns()
    assert before <= now <= time.monotonic_ns()
    assert clock.asleep_ns() >= 0
    assert abs(clock.asleep_ns() - clock.asleep_ns()) < 10 * MS


def test_the_systems_clock_sleeps_no_shorter_than_asked() -> None:
    clock = MonotonicClock()
    deadline = clock.now_ns() + 2 * MS
    clock.sleep_until(deadline)
    assert clock.now_ns() >= deadline
    clock.sleep_until(deadline - 5 * MS)  # past: at once


@pytest.mark.parametrize("period_s", [0.0, -1.0, float("nan")])
def test_a_period_is_above_zero(period_s: float) -> None:
    with pytest.raises(InvalidInput, match="must be more than 0"):
        Schedule(FakeClock(), period_s)
