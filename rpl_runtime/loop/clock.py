"""Deadlines of a control loop on a monotonic clock, at t0 + k * period, so that lateness does not add up.

A loop that overran learns how many periods it missed and goes on with the newest one instead of catching up in a burst.
A second clock, which runs on while the computer sleeps, shows that it slept.
"""

import time
from typing import NamedTuple, Protocol

from rpl_runtime.errors import InvalidInput

_NOT_ASLEEP_NS = 10_000_000  # [ns] two clocks cannot be read at the same moment; up to this they agree


class Clock(Protocol):
    """The clock of a `Schedule`."""

    def now_ns(self) -> int:
        """[ns] a time that never goes back, and stands still while the computer sleeps."""
        ...

    def asleep_ns(self) -> int:
        """[ns] how long the computer has slept in total."""
        ...

    def sleep_until(self, deadline_ns: int) -> None:
        """Return when `now_ns` reaches a deadline [ns]; at once if it is past."""
        ...


class MonotonicClock:
    """The system's monotonic clock, in which observations are timed."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def asleep_ns(self) -> int:
        """[ns] by how much CLOCK_BOOTTIME is ahead; 0 on a system without it."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        if boottime is None:
            return 0
        while True:  # until the process was not interrupted between the readings
            before_ns = time.monotonic_ns()
            asleep_ns = time.clock_gettime_ns(boottime) - before_ns
            if time.monotonic_ns() - before_ns < _NOT_ASLEEP_NS:
                return asleep_ns

    def sleep_until(self, deadline_ns: int) -> None:
        # In a loop: a sleep may end early when a signal was handled.
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)


class Tick(NamedTuple):
    """The beginning of a control period."""

    number: int  # of the period, from 0; with a gap after missed periods
    deadline_ns: int  # [ns] when it was due
    now_ns: int  # [ns] when it began
    missed: int  # periods without a tick since the last one
    asleep_ns: int  # [ns] how long the computer slept since the last tick

    @property
    def late_ns(self) -> int:
        """[ns] from the deadline to the beginning."""
        return self.now_ns - self.deadline_ns


class Schedule:
    """Deadlines at t0 + k * period, the first one now.

    Args:
        clock: the time.
        period_s: [s] one control period.

    Raises:
        InvalidInput: the period is not above 0.
    """

    def __init__(self, clock: Clock, period_s: float) -> None:
        if not period_s > 0:
            raise InvalidInput(f"the control period is {period_s} s; must be more than 0")
        self._clock = clock
        self._period_ns = round(period_s * 1e9)
        self._start_ns = clock.now_ns()
        self._asleep_ns = clock.asleep_ns()
        self._next = 0

    def wait(self) -> Tick:
        """Sleep until the next deadline. A deadline that is past by less than a period begins at once, late."""
        late_ns = self._clock.now_ns() - (self._start_ns + self._next * self._period_ns)
        missed = max(0, late_ns // self._period_ns)
        number = self._next + missed
        deadline_ns = self._start_ns + number * self._period_ns
        self._clock.sleep_until(deadline_ns)
        asleep_ns = self._clock.asleep_ns()
        slept_ns = asleep_ns - self._asleep_ns
        self._asleep_ns, self._next = asleep_ns, number + 1
        slept_ns = slept_ns if slept_ns > _NOT_ASLEEP_NS else 0
        return Tick(number, deadline_ns, self._clock.now_ns(), missed, slept_ns)
