"""One run of a robot whose world does not wait: an action in every control period, or the robot comes to rest.

In: a robot, a control, what to do, and a clock. Out: a `DriveResult`: the run, what stopped it, and how punctual it
was. It does not know what kind of robot it drives, nor where the policy runs. A world that waits is run.py's.

Every period begins at a deadline of its own (clock.py): observe, ask for the action (punctual.py), apply it or go
without, as the watchdog says (watchdog.py). A period without an action is a hold: nothing is sent, and a robot to
which nothing is sent is on its way to the resting place that was proved for it with its last target. After two of them,
or at once where something is wrong, the robot is stopped, and stays so: the run is over, and the only way to arm the
robot again is another run, begun by a person who has seen where it stands. Nothing here tries again by itself.

This is a software stop, not a safety-rated one.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput, RelayError, RobotStopped
from rpl_runtime.loop.clock import Clock, MonotonicClock, Schedule
from rpl_runtime.loop.punctual import Punctual
from rpl_runtime.loop.watchdog import HOLD_PERIODS, Command, Event, Stop, Watchdog
from rpl_runtime.relay.messages import Started
from rpl_runtime.relay.run import RunConfig, RunResult, Step, run_result
from rpl_runtime.robots import LiveRobot
from rpl_runtime.safety.filter import reading_fault

INTERRUPTED = "interrupted by the operator"


@dataclass(frozen=True)
class DriveConfig:
    run: RunConfig  # whose steps are control periods, with an action or without
    patience: float = 0.75  # share of a period for which its action is waited for


@dataclass(frozen=True, eq=False)
class DriveResult:
    """A run of P control periods, in T of which there was an action."""

    run: RunResult  # of the T steps
    stop: Stop | None  # what stopped it; None where it ended as it was to
    held: int  # periods without an action
    missed: int  # periods that went by unnoticed, the loop being late
    late_ns: np.ndarray  # (P,) [ns] from a period's deadline to its beginning
    answer_ns: np.ndarray  # (T,) [ns] from the beginning of an observation to its command
    limit_violations: dict[str, int]  # limits that targets would not have kept, by kind
    events: tuple[Event, ...]

    @property
    def interrupted(self) -> bool:
        """Whether it was the operator who stopped it."""
        return self.stop is not None and self.stop.cause == INTERRUPTED


def drive(
    robot: LiveRobot,
    control: Control,
    config: DriveConfig,
    on_step: Callable[[Step], None] = lambda step: None,
    on_event: Callable[[Event], None] = lambda event: None,
    clock: Clock | None = None,
) -> DriveResult:
    """Drive a robot through one run; the robot is at rest when this returns or raises.

    What stops a run is part of its result: a late action, Ctrl-C or SIGTERM, a reading that cannot be, a refusal of
    the server, whatever ends the robot's own motion, objects that nobody sees any more, a computer that slept.

    Args:
        control: one that fails rather than wait for its server; it belongs to the run, and ends with it.
        on_step: hears of each action once it is commanded; on_event of whatever else happens. Neither may block.

    Raises:
        InvalidInput: there is no step to make.
        RelayError: the run did not begin.
    """
    run, clock = config.run, clock or MonotonicClock()
    if run.steps < 1:
        raise InvalidInput(f"a run of {run.steps} steps was asked for; must be 1 or more")
    with _interruptible():
        try:
            robot.reset(run.start_seed)
            started = control.start(run.robot_id, run.goal, robot.observe(), run.seed, run.plan_lead)
            with Punctual(control, run.robot_id, clock) as actions:
                loop = _Loop(robot, actions, config, started, on_step, on_event, clock)
                loop.run()
        finally:
            # Whatever happened. A robot that was stopped before stays so.
            with _undisturbed(), contextlib.suppress(RobotStopped):
                robot.stop()
    return loop.result(control.model.spec.action.dim)


class _Loop:
    """The control periods of one run."""

    def __init__(
        self,
        robot: LiveRobot,
        actions: Punctual,
        config: DriveConfig,
        started: Started,
        on_step: Callable[[Step], None],
        on_event: Callable[[Event], None],
        clock: Clock,
    ) -> None:
        self._robot, self._actions, self._clock, self._started = robot, actions, clock, started
        self._periods, self._patience_s = config.run.steps, config.patience * started.period_s
        self._on_step, self._on_event = on_step, on_event
        self._watchdog, self._told = Watchdog(started.period_s), 0
        self._state = robot.observe()
        self._seen_ns = clock.now_ns()  # [ns] when that was
        self._steps: list[Step] = []
        self._late_ns: list[int] = []
        self._answer_ns: list[int] = []
        self._held = self._missed = 0

    def run(self) -> None:
        """All of them, or as many as the watchdog lets pass; then the robot is at rest."""
        schedule = Schedule(self._clock, self._started.period_s)
        self._watchdog.arm(self._clock.now_ns())
        try:
            while len(self._late_ns) < self._periods and self._period(schedule) is not Command.RAMP:
                self._tell()
        except KeyboardInterrupt:
            self._trip(INTERRUPTED)
        except RelayError as error:
            self._trip(str(error))
        self._come_to_rest()
        with contextlib.suppress(KeyboardInterrupt):
            self._tell()

    def result(self, targets: int) -> DriveResult:
        """What happened, where a target has so many dimensions."""
        return DriveResult(
            run=run_result(self._started, self._steps, self._state, targets),
            stop=self._watchdog.stop,
            held=self._held,
            missed=self._missed,
            late_ns=np.array(self._late_ns, dtype=np.int64),
            answer_ns=np.array(self._answer_ns, dtype=np.int64),
            limit_violations=dict(self._robot.limit_violations),
            events=tuple(self._watchdog.events),
        )

    def _period(self, schedule: Schedule) -> Command:
        """One control period. Returns what was commanded in it.

        Raises:
            RelayError: something is wrong that stops the robot at once.
        """
        tick = schedule.wait()
        self._late_ns.append(tick.late_ns)
        self._missed += tick.missed
        if tick.asleep_ns:
            raise RobotStopped(f"the computer slept for {tick.asleep_ns / 1e9:.1f} s")
        if tick.missed >= HOLD_PERIODS:
            raise RobotStopped(f"the control loop was held up for {tick.missed} control periods")
        self._observe()
        action = self._actions.step(self._state, self._patience_s)
        fresh = action is not None and self._watchdog.action(self._clock.now_ns(), action.valid_until_ns)
        command = self._watchdog.tick(self._clock.now_ns(), at_rest=False)
        if action is not None and fresh:
            self._robot.apply(action.target)
            self._answer_ns.append(self._clock.now_ns() - tick.now_ns)
            number = self._actions.number - 1
            self._steps.append(Step(number, self._state, action, self._robot.done(), self._started.goal))
            self._on_step(self._steps[-1])
        else:
            self._held += 1
        return command

    def _observe(self) -> None:
        """A new state, unless it is one in which no robot can be.

        Raises:
            RobotStopped: it is, or the robot says that it stopped.
            ObjectsLost: nobody sees the objects.
        """
        before, before_ns = self._state, self._seen_ns
        self._seen_ns, state = self._clock.now_ns(), self._robot.observe()
        joints, elapsed_s = slice(len(self._robot.profile.low)), (self._seen_ns - before_ns) / 1e9
        fault = reading_fault(self._robot.profile, state[joints], before[joints], elapsed_s)
        if fault is not None:
            raise RobotStopped(fault)
        self._state = state

    def _trip(self, cause: str) -> None:
        self._watchdog.trip(self._clock.now_ns(), cause)

    def _come_to_rest(self) -> None:
        with _undisturbed():
            try:
                self._robot.stop()
            except RobotStopped as error:  # by itself, and not as it was told to
                self._trip(str(error))
            if self._watchdog.stop is not None:
                self._watchdog.tick(self._clock.now_ns(), at_rest=True)

    def _tell(self) -> None:
        """Tell of the events that nobody has been told of."""
        while self._told < len(self._watchdog.events):
            self._told += 1
            self._on_event(self._watchdog.events[self._told - 1])


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGTERM end a block as Ctrl-C does: the robot is to be at rest before the process ends."""

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    with _handling({signal.SIGTERM: interrupt}):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A block that neither Ctrl-C nor SIGTERM cuts short: the way to rest is short, and is gone once."""
    with _handling({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
