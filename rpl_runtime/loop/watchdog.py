"""The watchdog: what is commanded when the policy's actions stay out, or something is wrong.

In: actions as they come, a tick at the start of each control period, and whatever else stops a robot, all with their
times. Out: a `Command` for each period, and a record of what happened. It does no I/O, reads no clock and moves
nothing: the safety filter knows how to hold and how to come to rest.

    FOLLOW  an action came in time: go on as the policy says
    HOLD    none came: to the last target and rest there, for at most two control periods
    RAMP    still none: the fastest way to rest inside the limits
    STOPPED at rest, and latched

An action that comes while the robot holds or ramps is followed again. Once it is latched, only an explicit re-arm lets
it go on. An operator's Ctrl-C, a limit violation, a state that jumped or a protective stop of the robot latches at
once, and the robot still ramps to rest. An action that comes after it was to be applied is refused.

This is a software stop, not a safety-rated one. It runs in a process that may hang on a computer that may fail, and
it takes power from nothing: a robot needs its own emergency stop within reach of whoever switches it on.
"""

from enum import StrEnum
from typing import NamedTuple

from rpl_runtime.errors import InvalidInput, ProtocolViolation

HOLD_PERIODS = 2


class Command(StrEnum):
    """What to command for the control period that begins."""

    FOLLOW = "follow"
    HOLD = "hold"
    RAMP = "ramp"
    STOPPED = "stopped"


class Event(NamedTuple):
    """Something that a log should say."""

    at_ns: int  # [ns] in the clock of the inputs
    kind: str  # armed, refused, late, ramping, resumed, tripped or stopped
    text: str


class Stop(NamedTuple):
    """What stopped the robot."""

    cause: str
    at_ns: int  # [ns] when it happened; for a late action, when it was missed
    rest_ns: int | None  # [ns] when the robot was found at rest; None while it still moves


class Watchdog:
    """Decides, each control period, whether the policy is followed. It begins latched.

    Arm it when the first period begins; from then on an action is due in every period, and a tick when it ends and
    the next one begins. All times are of one clock and never go back.

    Args:
        period_s: [s] one control period.

    Raises:
        InvalidInput: the period is not above 0.
    """

    def __init__(self, period_s: float) -> None:
        if not period_s > 0:
            raise InvalidInput(f"a control period of {period_s} s; must be more than 0")
        self.events: list[Event] = []  # since it was made, the oldest first
        self.command = Command.STOPPED  # for now; a tick decides it anew, a trip makes it RAMP
        self.latched = True
        self.stop: Stop | None = None  # what stopped the robot, or is about to
        self._period_ns = round(period_s * 1e9)
        self._now_ns = 0
        self._fresh = False  # whether an action came since the last tick
        self._missed_ns: int | None = None  # since when actions stay out

    def arm(self, now_ns: int) -> None:
        """Let the policy be followed, at first and again after a stop. An action is due by the next tick.

        Raises:
            ProtocolViolation: it is armed already, or the robot still moves.
        """
        self._at(now_ns)
        if not self.latched or self.command is not Command.STOPPED:
            raise ProtocolViolation(f"the watchdog is at {self.command}; it must have stopped before it is armed")
        self.latched, self.stop, self._fresh, self._missed_ns = False, None, False, None
        self._note("armed", "the policy is followed")

    def action(self, now_ns: int, valid_until_ns: int) -> bool:
        """An action came. Returns whether it may be applied; if so it is what FOLLOW means from now on.

        Raises:
            ProtocolViolation: the time went back.
        """
        self._at(now_ns)
        if self.latched:
            self._note("refused", "an action came while latched")
            return False
        if now_ns > valid_until_ns:
            self._note("refused", f"an action came {(now_ns - valid_until_ns) / 1e6:.1f} ms after it was to be applied")
            return False
        self._fresh = True
        return True

    def trip(self, now_ns: int, cause: str) -> None:
        """Latch at once, whatever the policy says. The first cause is the one that is kept.

        Raises:
            ProtocolViolation: the time went back.
        """
        self._at(now_ns)
        self._note("tripped", cause)
        if not self.latched:
            self._latch(Stop(cause, now_ns, None))

    def tick(self, now_ns: int, at_rest: bool) -> Command:
        """A control period begins. Returns what to command in it, judged by whether an action came in the one before.

        FOLLOW means to go on: the action to apply is the one that `action` lets through in this period.

        Args:
            at_rest: whether the motion commanded so far has come to rest.

        Raises:
            ProtocolViolation: the time went back.
        """
        self._at(now_ns)
        if not self.latched:
            self._judge()
            if self.command is Command.RAMP and at_rest:
                self._latch(self.stop)
        if self.latched:
            self._come_to_rest(at_rest)
        return self.command

    def _judge(self) -> None:
        """The command while armed."""
        if self._fresh:
            if self._missed_ns is not None:
                self._note("resumed", f"an action came after {(self._now_ns - self._missed_ns) / 1e6:.1f} ms without")
            self.command, self.stop, self._fresh, self._missed_ns = Command.FOLLOW, None, False, None
            return
        if self._missed_ns is None:
            self._missed_ns = self._now_ns
            self._note("late", "no action came in time")
        # Ticks come a little early or late; what counts are periods.
        if round((self._now_ns - self._missed_ns) / self._period_ns) < HOLD_PERIODS:
            self.command = Command.HOLD
        elif self.command is not Command.RAMP:
            self.command = Command.RAMP
            self.stop = Stop(f"no action came for {HOLD_PERIODS} control periods", self._missed_ns, None)
            self._note("ramping", self.stop.cause)

    def _latch(self, stop: Stop | None) -> None:
        self.latched, self.stop, self._fresh, self._missed_ns = True, stop, False, None
        self.command = Command.RAMP  # until it is found at rest

    def _come_to_rest(self, at_rest: bool) -> None:
        """The command while latched."""
        self.command = Command.STOPPED if at_rest else Command.RAMP
        if at_rest and self.stop is not None and self.stop.rest_ns is None:
            self.stop = self.stop._replace(rest_ns=self._now_ns)
            self._note("stopped", f"{self.stop.cause}; re-arm to go on")

    def _at(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise ProtocolViolation(f"the time went back from {self._now_ns} to {now_ns} ns; it must go forward")
        self._now_ns = now_ns

    def _note(self, kind: str, text: str) -> None:
        self.events.append(Event(self._now_ns, kind, text))
