"""Time for control loops: absolute deadlines on a monotonic clock, and a fake one.

In: a control period. Out: a `Tick` for each of its deadlines, t0 + k * period, so that no lateness adds up. It does
not know what is done in a period, nor what is to be done about one that was missed.

A loop that overran finds its deadlines gone by: it is told how many, and goes on with the newest one instead of
catching up in a burst. A computer that slept is noticed by a clock that went on.
"""

import time
from typing import NamedTuple, Protocol

from rpl_runtime.errors import InvalidInput

_NO_SLEEP_NS = 10_000_000  # [ns] two clocks are not read at one moment; a difference up to this is no sleep


class Clock(Protocol):
    """What a schedule needs of a clock."""

    def now_ns(self) -> int:
        """[ns] a time that never goes back, and stands still while the computer sleeps."""
        ...

    def asleep_ns(self) -> int:
        """[ns] for how long the computer has slept, ever."""
        ...

    def sleep_until(self, deadline_ns: int) -> None:
        """Return when `now_ns` is at a deadline [ns], or at once if it is past."""
        ...


class MonotonicClock:
    """The system's monotonic clock, the one of an observation's time."""

    def now_ns(self) -> int:
        """[ns] the system's monotonic time."""
        return time.monotonic_ns()

    def asleep_ns(self) -> int:
        """[ns] how far the clock that goes on in sleep is ahead; 0 on a system without one."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        if boottime is None:
            return 0
        while True:  # until nothing came between the readings
            before_ns = time.monotonic_ns()
            asleep_ns = time.clock_gettime_ns(boottime) - before_ns
            if time.monotonic_ns() - before_ns < _NO_SLEEP_NS:
                return asleep_ns

    def sleep_until(self, deadline_ns: int) -> None:
        """Sleep until a deadline [ns]."""
        # What is left is asked for anew: a sleep may end early where a signal was handled.
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)


class FakeClock:
    """A clock that goes on only when it is told to, or slept on."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._asleep_ns = 0

    def now_ns(self) -> int:
        """[ns] where it was put."""
        return self._now_ns

    def asleep_ns(self) -> int:
        """[ns] the sum of its sleeps."""
        return self._asleep_ns

    def sleep_until(self, deadline_ns: int) -> None:
        """Be at a deadline [ns] at once."""
        self._now_ns = max(self._now_ns, deadline_ns)

    def advance(self, duration_ns: int) -> None:
        """Let a time [ns] go by."""
        self._now_ns += duration_ns

    def fall_asleep(self, duration_ns: int) -> None:
        """As a computer that sleeps for a time [ns]: the monotonic time stands still."""
        self._asleep_ns += duration_ns


class Tick(NamedTuple):
    """A control period that begins."""

    number: int  # of the period, from 0; with a gap where periods were missed
    deadline_ns: int  # [ns] when it was to begin
    now_ns: int  # [ns] when it began
    missed: int  # periods that went by without a tick since the last one
    asleep_ns: int  # [ns] for how long the computer slept since the last one

    @property
    def late_ns(self) -> int:
        """[ns] how much later than its deadline it began."""
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
            raise InvalidInput(f"a control period of {period_s} s; must be more than 0")
        self._clock = clock
        self._period_ns = round(period_s * 1e9)
        self._start_ns = clock.now_ns()
        self._asleep_ns = clock.asleep_ns()
        self._next = 0

    def wait(self) -> Tick:
        """Sleep until the next deadline. One that is past by less than a period begins at once, and late."""
        missed = max(0, (self._clock.now_ns() - self._deadline_ns(self._next)) // self._period_ns)
        number = self._next + missed
        self._clock.sleep_until(self._deadline_ns(number))
        asleep_ns = self._clock.asleep_ns()
        slept_ns = asleep_ns - self._asleep_ns
        self._asleep_ns, self._next = asleep_ns, number + 1
        slept_ns = slept_ns if slept_ns > _NO_SLEEP_NS else 0
        return Tick(number, self._deadline_ns(number), self._clock.now_ns(), missed, slept_ns)

    def _deadline_ns(self, number: int) -> int:
        return self._start_ns + number * self._period_ns
