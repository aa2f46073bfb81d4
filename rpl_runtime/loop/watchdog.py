"""The watchdog of a live robot: it decides each control period whether the robot follows the policy, holds or stops.

    FOLLOW  an action came in time
    HOLD    none came: the robot brakes to the resting place proved with its last target, unless an action comes again
    STOP    none came for `TimeBudget.hold_periods`, or something is wrong: the robot brakes to rest, for good

It does no I/O and reads no clock. This is a software stop, not a safety-rated one: it runs in a process that may hang,
on a computer that may fail, and it cuts no power. Keep the robot's own emergency stop within reach.
"""

from enum import StrEnum
from typing import NamedTuple


class Command(StrEnum):
    """What the robot does in a control period."""

    FOLLOW = "follow"
    HOLD = "hold"
    STOP = "stop"


class Event(NamedTuple):
    """An entry of the log."""

    at_ns: int  # [ns] in the run loop's clock
    kind: str  # armed, late, resumed, ramping, tripped or stopped; of a pilot: taken over or handed back
    text: str


class Stop(NamedTuple):
    """What stopped the robot."""

    cause: str
    at_ns: int  # [ns] when it happened; for missing actions, the first hold
    rest_ns: int | None  # [ns] when the robot was at rest; None while it still moves


class Watchdog:
    """Watches one run. All times are of one clock.

    Args:
        period_s: [s] one control period.
        hold_periods: [periods] without an action until the robot stops.
        now_ns: [ns] when the run begins.
    """

    def __init__(self, period_s: float, hold_periods: int, now_ns: int) -> None:
        self.events = [Event(now_ns, "armed", "the robot follows the policy")]  # the oldest first
        self.stop: Stop | None = None  # latched: only another run moves the robot again
        self._period_ns = round(period_s * 1e9)
        self._hold_periods = hold_periods
        self._missing_ns: int | None = None  # [ns] of the first hold, while no action comes

    def judge(self, now_ns: int, action_came: bool) -> Command:
        """What to do in the period whose answer is due now, given whether a valid action came."""
        if self.stop is not None:
            return Command.STOP
        if action_came:
            if self._missing_ns is not None:
                missing_ms = (now_ns - self._missing_ns) / 1e6
                self.events.append(Event(now_ns, "resumed", f"an action came after {missing_ms:.1f} ms without"))
                self._missing_ns = None
            return Command.FOLLOW
        if self._missing_ns is None:
            self._missing_ns = now_ns
            self.events.append(Event(now_ns, "late", "no action came in time"))
        # Rounded, since a period begins a little early or late.
        if round((now_ns - self._missing_ns) / self._period_ns) < self._hold_periods:
            return Command.HOLD
        self.stop = Stop(f"no action came for {self._hold_periods} control periods", self._missing_ns, None)
        self.events.append(Event(now_ns, "ramping", self.stop.cause))
        return Command.STOP

    def trip(self, now_ns: int, cause: str) -> None:
        """Stop the robot now. The first cause is kept."""
        self.events.append(Event(now_ns, "tripped", cause))
        self.stop = self.stop or Stop(cause, now_ns, None)

    def rest(self, now_ns: int) -> None:
        """Record that the robot, if it was stopped, is at rest."""
        if self.stop is not None:
            self.stop = self.stop._replace(rest_ns=now_ns)
            self.events.append(Event(now_ns, "stopped", f"at rest: {self.stop.cause}"))
