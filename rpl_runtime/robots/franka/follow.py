"""The lines that a Franka is led on: each is proved, to rest, before it may take over, and for whenever it does.

A line leads to a speed, goes on evenly, and comes to rest. franky gets the next line as a reaction to the one that it
replaces, with a window of time in which the arm moves evenly or stands: what the robot reports, and a line begins with,
is a millisecond old and more. A line whose window has passed never takes over; the one before goes on to its rest. So
the robot receives parts of proved lines, each from where the one before was left, however late anything here is.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np

from rpl_runtime.errors import RobotStopped
from rpl_runtime.robots.franka.fci import Arm, ArmState, Calls, Motion, franky
from rpl_runtime.robots.franka.line import Waypoint, line, violations
from rpl_runtime.safety.filter import LimitViolation
from rpl_runtime.safety.limits import ARM_JOINTS, ArmLimits, Profile
from rpl_runtime.safety.motion import DT, State

RAMP_MS = 70  # that a change of speed takes
# That the arm then goes on evenly, and the time in which it may begin to: the longest that keep the limits.
_EVEN_AND_WINDOW_MS = ((50, 42), (24, 16))
_SETTLED_MS = 6  # after a change, when what the robot reports is even
_HELD_MS = 15  # after a line, when what the robot reports is at rest
_AHEAD_MS = 3  # from now until a line may take over
_BRAKE_AHEAD_MS, _BRAKE_WINDOW_MS = 30, 2  # the same while the speed changes, where each millisecond is proved alone
_LAGS_MS = (1, 2, 3)  # by which what the robot reports may then be old
_REST_MARGIN_S = 0.002  # that a way to rest takes longer than the fastest
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the speed that is asked for
_CHANGE = 0.8  # share of the fastest change of speed in a ramp that is asked for
_BEGUN_MS = 4  # after franky took control, when the robot reports what it commands
_HEARD_MS = 10  # after a window, when it is known that nothing took over in it
_STANDING = 1e-3  # [rad/s] of the fastest joint, below which the arm is not moved
_AT_REST = 1e-4  # [rad/s, rad/s^2] below which a joint is commanded to stand
_ASTRAY = 5e-6  # [rad] between what the robot reports and its line, from which on it is another line
_ROUNDED = 1e-6  # [rad] of that, from which on it is followed, so that rounding does not add up
_LOOK_S = 0.002  # [s] between two looks at an arm that is on its way
_DEADLINE_S = 5.0  # [s] for an arm to come to rest
_NO_FILTER = 1000.0  # [Hz] libfranka's kMaxCutoffFrequency: its low-pass would change what is sent
_ZEROS = np.zeros(ARM_JOINTS)
_STILL = Waypoint(_ZEROS, _ZEROS)


class TakeOver(NamedTuple):
    """When the next line may take over, and what the arm does then."""

    first_ms: int  # since the line before took over
    last_ms: int | None  # None: at any time after, the arm stands
    position: np.ndarray  # (7,) [rad] of the last command before the first
    velocity: np.ndarray  # (7,) [rad/s]

    def within(self, window_ms: int) -> Self:
        """The same in a shorter window."""
        return self if self.last_ms is None else self._replace(last_ms=min(self.last_ms, self.first_ms + window_ms))

    @property
    def before(self) -> np.ndarray:
        """(3, 7) [rad] the last commands before the first millisecond."""
        return self.position - np.arange(2, -1, -1)[:, None] * DT * self.velocity

    @property
    def slides(self) -> np.ndarray:
        """(S, 7) [rad] how much further on the arm is in each millisecond."""
        number = 1 if self.last_ms is None else self.last_ms - self.first_ms + 1
        return np.arange(number)[:, None] * DT * self.velocity


class _Line(NamedTuple):
    motion: Motion  # draws it
    commands: np.ndarray  # (T, 7) [rad]
    even_ms: tuple[int, int] = (0, 0)  # from when until when the next line may take over; nothing: when it is over
    brakes: bool = False


class _Waiting(NamedTuple):
    """A line that has not taken over yet."""

    line: _Line
    take_over: TakeOver
    taken_ms: list[int]  # on the robot's clock, when it did


class Lines:
    """The lines of one arm.

    Args:
        arm: the `franky.Robot`, which has the limits `drawn`.
        call: makes the calls to it.
        profile: what no line leaves, in Franka's joint zeros.
        drawn: the velocity, acceleration and jerk with which Ruckig draws.

    Raises (every verb): what franky raises where the robot has stopped; TimeoutError where it does not return.
    """

    def __init__(self, arm: Arm, call: Calls, profile: Profile, drawn: ArmLimits) -> None:
        self._arm, self._call, self._profile, self._drawn = arm, call, profile, drawn
        self._line: _Line | None = None  # the one that the arm is on; None where franky controls nothing
        self._began_ms = 0  # on the robot's clock, when it took over
        self._waiting: _Waiting | None = None
        self._passed: _Waiting | None = None  # one whose window has passed
        self._followed = True  # whether the arm is where its line is
        self.on_motion: Callable[[Motion], None] = lambda motion: None  # called before franky gets a motion

    @property
    def moving(self) -> bool:
        """Whether franky controls the arm, if only to hold it."""
        return self._line is not None

    def state(self) -> ArmState:
        """The robot's state."""
        return self._call("state", lambda: self._arm.state)

    def begin(self) -> None:
        """Have the arm, which must be at rest, held where it is.

        Raises:
            RobotStopped: franky is not in control in time.
        """
        motion, over = self._motion([_STILL]), time.monotonic() + _DEADLINE_S
        free_ms = self.state().time.to_msec()
        self._call("move", lambda: self._arm.move(motion, asynchronous=True, cutoff_frequency=_NO_FILTER))
        # Only now it is settled where it is held.
        while (state := self.state()).time.to_msec() < free_ms + _BEGUN_MS:
            self._join(_LOOK_S)
            _check_time(over)
        self._line, self._followed = _Line(motion, np.ravel(state.q_d)[None]), True
        self._waiting = self._passed = None
        self._began_ms = state.time.to_msec()

    def abandon(self) -> None:
        """Forget the lines: the robot has stopped by itself."""
        self._line = self._waiting = self._passed = None

    def since_ms(self, state: ArmState) -> int:
        """How long the arm has been on its line at a state of the robot."""
        self._look(state)
        return self._now_ms(state)

    def position(self, state: ArmState, ahead_ms: int) -> np.ndarray:
        """Where (7,) [rad] the arm is led to in so many milliseconds, if no line takes over."""
        commands = self._look(state).commands
        if not self._followed:
            return np.ravel(state.q_d)
        return commands[min(max(0, self._now_ms(state) + ahead_ms), len(commands) - 1)]

    def take_over(self, state: ArmState) -> TakeOver | None:
        """When the next line may take over; None while one waits, or the arm is on none that is known.

        Where franky missed a millisecond it draws another line, and none is proved before that one is at rest.
        """
        current = self._look(state)
        if self._waiting is not None or not self._followed:
            return None
        earliest = self._now_ms(state) + _AHEAD_MS
        first = max(earliest, current.even_ms[0])
        last = current.even_ms[1]
        if last - first < _AHEAD_MS:
            return TakeOver(max(earliest, len(current.commands) + _HELD_MS), None, current.commands[-1], _ZEROS)
        before, position = current.commands[first - 2 : first]
        return TakeOver(first, last, position, (position - before) / DT)

    def ahead(self, take_over: TakeOver) -> np.ndarray:
        """What (T, 7) [rad] is commanded from a take-over on if no line takes over, up to rest."""
        assert self._line is not None
        commands = self._line.commands
        return commands[min(take_over.first_ms, len(commands) - 1) :]

    def follow(self, take_over: TakeOver, velocity: np.ndarray) -> set[LimitViolation]:
        """Go on at a velocity (7,) [rad/s], or at as much of it as keeps the limits; returns those that all would not.

        Where even braking leaves them, the line before goes on.
        """
        change = _CHANGE * self._drawn.acceleration * (RAMP_MS * DT - self._drawn.acceleration / self._drawn.jerk)
        lower = np.zeros(ARM_JOINTS, dtype=int)  # by how many shares a joint is slower than asked
        evens, found = list(_EVEN_AND_WINDOW_MS), set[LimitViolation]()
        while True:
            speed = np.array(_SHARES)[lower] * velocity
            speed = np.clip(speed, take_over.velocity - change, take_over.velocity + change)
            speed = np.clip(speed, -self._drawn.velocity, self._drawn.velocity)
            if abs(speed).max() < _STANDING:
                break
            even_ms, window_ms = evens[0]
            ramp = Waypoint((take_over.velocity + speed) / 2 * RAMP_MS * DT, speed, RAMP_MS)
            even = Waypoint(even_ms * DT * speed, speed, even_ms)
            until = RAMP_MS + _SETTLED_MS, RAMP_MS + even_ms - 2
            left = self._offer(take_over.within(window_ms), [ramp, even, self._rest(speed)], until)
            if not left:
                return found
            if len(evens) > 1:  # the same speed, and less time for the next line
                evens.pop(0)
                continue
            found |= left
            joints = {violation.dimension for violation in left}
            slower = np.array([None in joints or joint in joints for joint in range(ARM_JOINTS)])
            slower &= lower < len(_SHARES) - 1
            if not slower.any():
                break
            lower[slower] += 1
        if abs(take_over.velocity).max() >= _STANDING:
            self._offer(take_over, [self._rest(take_over.velocity)])
        return found

    def go(self, place: np.ndarray, share: float) -> set[LimitViolation]:
        """Go from rest to rest at a place (7,) [rad], at a share of the limits; returns those that it would leave.

        Where it would leave any, nothing moves.
        """
        take_over = self._settled(time.monotonic() + _DEADLINE_S)
        return self._offer(take_over, [Waypoint(place - take_over.position, _ZEROS)], share=share)

    def arrived(self, within_s: float) -> bool:
        """Whether the arm is where its line ends; waits so long for it."""
        self._join(within_s)
        state = self.state()
        ended = len(self._look(state).commands) <= self._now_ms(state)
        return ended and self._followed and self._waiting is None

    def end(self) -> None:
        """Come to rest as soon as a way there is proved, at the end of the line at the latest, and let go of the arm.

        Raises:
            RobotStopped: it is not at rest after five seconds.
        """
        over = time.monotonic() + _DEADLINE_S
        take_over = self._settled(over)
        assert self._line is not None
        while self._now_ms(self.state()) < len(self._line.commands):
            self._brake(take_over)
            self._join(_LOOK_S)
            take_over = self._settled(over)
            _check_time(over)
        self._offer(take_over, [_STILL], returns=True)
        while not self._join(_LOOK_S):
            _check_time(over)
        self.abandon()

    def _join(self, within_s: float) -> bool:
        """Whether franky's motion ends within a time [s]."""
        return self._call("join_motion", lambda: self._arm.join_motion(timeout=within_s))

    def _motion(self, waypoints: Sequence[Waypoint], share: float = 1.0, returns: bool = False) -> Motion:
        """franky's motion through waypoints; one that returns lets go of the arm at the last."""
        library = franky()
        motion = library.JointWaypointMotion(
            [
                library.JointWaypoint(
                    library.JointState(waypoint.way, waypoint.velocity),
                    library.ReferenceType.Relative,
                    minimum_time=None if waypoint.minimum_ms is None else library.Duration(waypoint.minimum_ms),
                )
                for waypoint in waypoints
            ],
            relative_dynamics_factor=share,
            return_when_finished=returns,
        )
        self.on_motion(motion)
        return motion

    def _settled(self, over: float) -> TakeOver:
        """The next take-over, once no line waits and the arm is on its line; `over` is when to give up."""
        while True:
            take_over = self.take_over(self.state())
            if take_over is not None:
                return take_over
            self._join(_LOOK_S)
            _check_time(over)

    def _brake(self, take_over: TakeOver) -> None:
        """Have the arm come to rest before its line does, if it can: from an even stretch that is near, or at once."""
        assert self._line is not None
        if self._line.brakes:
            return
        commands, first = self._line.commands, self._now_ms(self.state()) + _BRAKE_AHEAD_MS
        until = first + _BRAKE_WINDOW_MS
        if take_over.last_ms is not None and take_over.first_ms <= until:
            self._offer(take_over, [self._rest(take_over.velocity)], brakes=True)
        elif until < len(commands) and first > max(_LAGS_MS) + 2:
            speed, acceleration = (np.diff(commands[first - 3 : first], n=n, axis=0)[-1] / DT**n for n in (1, 2))
            # Until the acceleration is gone, and from there on.
            gone_s = abs(acceleration) / self._drawn.jerk
            rest = self._rest(speed + acceleration * gone_s / 2)
            rest = rest._replace(way=rest.way + speed * gone_s + acceleration * gone_s**2 / 3)
            starts = [
                (_reported(commands, ms, lag_ms), commands[ms - 3 : ms])
                for ms in range(first, until + 1)
                for lag_ms in _LAGS_MS
            ]
            self._offer(TakeOver(first, until, commands[first - 1], _ZEROS), [rest], brakes=True, starts=starts)

    def _rest(self, speed: np.ndarray) -> Waypoint:
        """The fastest way to rest from speeds (7,) [rad/s] that all joints take together: the arm goes nearly straight.

        It has no minimum time: franky drops that once the last waypoint is reached, and asks Ruckig again, which may
        find no way that short.
        """
        acceleration, jerk, fall = self._drawn.acceleration, self._drawn.jerk, abs(speed)
        reached = fall * jerk > acceleration**2
        durations_s = np.where(reached, fall / acceleration + acceleration / jerk, 2 * np.sqrt(fall / jerk))
        return Waypoint(speed * (durations_s.max() + _REST_MARGIN_S) / 2, _ZEROS)

    def _offer(
        self,
        take_over: TakeOver,
        waypoints: Sequence[Waypoint],
        even_ms: tuple[int, int] = (0, 0),
        *,
        share: float = 1.0,
        returns: bool = False,
        brakes: bool = False,
        starts: Sequence[tuple[State, np.ndarray]] = (),
    ) -> set[LimitViolation]:
        """Have a line take over if it keeps the limits; returns those that it leaves.

        `starts` are what it may begin with, each with the three commands (3, 7) [rad] before; it is proved for all.
        """
        assert self._line is not None
        even = State(take_over.position, take_over.velocity, _ZEROS), take_over.before
        commands = None
        for start, before in starts or [even]:
            commands = line(start, waypoints, self._drawn, share)
            if commands is None:  # none within the limits
                return {LimitViolation("acceleration", None)}
            left = violations(self._profile, np.vstack([before, commands]), take_over.slides)
            if left:
                return left
        assert commands is not None
        proved = _Line(self._motion(waypoints, share, returns), commands, even_ms, brakes)
        library = franky()
        # Half a millisecond beside the window, so that rounding decides nothing.
        since = library.Measure.REL_TIME
        window = since >= (take_over.first_ms - 0.5) * DT
        if take_over.last_ms is not None:
            window &= since <= (take_over.last_ms + 0.5) * DT
        reaction, taken_ms = library.JointPositionReaction(window, proved.motion), list[int]()
        reaction.register_callback(lambda state, *_: taken_ms.append(state.time.to_msec()))
        before = self._line.motion
        self._call("add_reaction", lambda: before.add_reaction(reaction))
        self._waiting = _Waiting(proved, take_over, taken_ms)
        return set()

    def _look(self, state: ArmState) -> _Line:
        """The line that the arm is on at a state of the robot, where the robot has it."""
        assert self._line is not None
        # One whose window has passed may have taken over all the same, and be told of late.
        for waiting in (self._passed, self._waiting):
            if waiting is not None and waiting.taken_ms:
                (proved, take_over, [taken_ms]) = waiting
                late_ms = 0 if take_over.last_ms is None else taken_ms - self._began_ms - take_over.first_ms
                commands = proved.commands + late_ms * DT * take_over.velocity
                self._line, self._began_ms = proved._replace(commands=commands), taken_ms
                self._passed = self._waiting = None
                break
        if self._waiting is not None:
            last_ms = self._waiting.take_over.last_ms
            if last_ms is not None and self._now_ms(state) > last_ms + _HEARD_MS:
                self._passed, self._waiting = self._waiting, None
        led, commands = np.ravel(state.q_d), self._line.commands
        recent = np.clip(self._now_ms(state) - np.arange(max(_LAGS_MS) + 1), 0, len(commands) - 1)
        beside = min(led - commands[recent], key=lambda distance: abs(distance).max())
        self._followed = bool(abs(beside).max() < _ASTRAY)
        if self._followed and abs(beside).max() > _ROUNDED:
            self._line = self._line._replace(commands=commands + beside)
        elif not self._followed and abs(np.concatenate([state.dq_d, state.ddq_d])).max() < _AT_REST:
            self._line, self._followed = _Line(self._line.motion, led[None]), True
        return self._line

    def _now_ms(self, state: ArmState) -> int:
        return state.time.to_msec() - self._began_ms


def _reported(commands: np.ndarray, ms: int, lag_ms: int) -> State:
    """What a line begins with that takes over in a millisecond of commands (T, 7) [rad]."""
    seen = commands[ms - lag_ms - 2 : ms - lag_ms + 1]
    return State(commands[ms - 1], (seen[2] - seen[1]) / DT, np.diff(seen, n=2, axis=0)[0] / DT**2)


def _check_time(over: float) -> None:
    """Raise RobotStopped if it is over."""
    if time.monotonic() > over:
        raise RobotStopped(f"the arm was not at rest after {_DEADLINE_S:g} s; it is left to its own stop")
