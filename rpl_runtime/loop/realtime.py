"""One run of a robot whose world does not wait: an action in every control period, or the robot comes to rest.

Each period begins at its own deadline (clock.py): observe, ask for the action, apply it or hold, as the watchdog says
(watchdog.py). The time budget says when each is due (client/budget.py). A step that takes too long goes on in a thread
while periods pass; its action is used only while it is valid.

A stop ends the run. Only another run moves the robot again, begun by a person who has seen where it stands; nothing is
retried here. This is a software stop, not a safety-rated one.
"""

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from rpl_runtime.client.budget import TimeBudget
from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput, RelayError, RobotStopped, ServerUnavailable
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.factories import own_code_told
from rpl_runtime.loop.clock import Clock, MonotonicClock, Schedule
from rpl_runtime.loop.heartbeat import Heartbeat
from rpl_runtime.loop.pilot import Helm, Pilot
from rpl_runtime.loop.watchdog import Command, Event, Stop, Watchdog
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.process import AGAIN, interruptible
from rpl_runtime.relay.messages import Action, Noted, Request, Started
from rpl_runtime.relay.plans import PlanRules
from rpl_runtime.relay.run import RunConfig, RunResult, Step, run_result
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.robots import LiveRobot
from rpl_runtime.safety.filter import reading_fault
from rpl_runtime.wire.control import MAX_ROWS

INTERRUPTED = "interrupted by the operator"
HUNG = "the control loop hung, and was interrupted by the process that watches it"
_TIME_BUDGET = TimeBudget()
_BEAT_S = 0.5  # [s] from one period to the next, after which the loop hangs; two missed periods stop it from inside
_REST_S = 10.0  # [s] for a robot to come to rest


@dataclass(frozen=True, eq=False)
class DriveResult:
    """A run of P control periods, T of them with an action."""

    run: RunResult  # of the T steps
    stop: Stop | None  # what stopped it; None if it ran to its end
    held: int  # periods without an action
    missed: int  # periods skipped because the loop was late
    late_ns: np.ndarray  # (P,) [ns] from a period's deadline to its beginning
    answer_ns: np.ndarray  # (T,) [ns] from the beginning of a period to its command
    limit_violations: dict[str, int]  # limits that the targets would have violated, by kind
    events: tuple[Event, ...]

    @property
    def interrupted(self) -> bool:
        """Whether the operator stopped it."""
        return self.stop is not None and self.stop.cause == INTERRUPTED


def drive(
    robot: LiveRobot,
    control: Control,
    config: RunConfig,
    on_step: Callable[[Step], None] = lambda step: None,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    budget: TimeBudget = _TIME_BUDGET,
    clock: Clock | None = None,
    heartbeat: Heartbeat | None = None,
    estimator: Estimator | None = None,
    pilot: Pilot | None = None,
) -> DriveResult:
    """Drive a robot through one run; the robot is at rest when this returns or raises.

    The result says what stopped the run: missing actions, Ctrl-C or SIGTERM, an impossible reading, a refusal of the
    server, a stop by the robot itself, an error in a robot of somebody's own, objects that are no longer seen, a
    computer that slept.

    Args:
        control: must fail rather than wait for its server (`ReconnectConfig(waits=False)`). It is closed at the end.
        config: what to run; its steps are control periods, with an action or without.
        on_step: called after each command; on_event after any other event. Neither may block.
        budget: when each part of a step is due.
        clock: the system's monotonic clock by default.
        heartbeat: has a process of its own end a loop that hangs; None: nobody does.
        estimator: the policy decides in its states, and the robot gets its commands; None: in the readings.
        pilot: decides the steps for which it takes the robot in hand, with a server or without. It must answer in time,
            as the server must; it takes over when no step of the policy is under way.

    A second signal ends the process within a second where the robot, by then, is not at rest.

    Raises:
        InvalidInput: the run has no step.
        RelayError: the run did not begin.
    """
    clock = clock or MonotonicClock()
    if config.steps < 1:
        raise InvalidInput(f"a run of {config.steps} steps was asked for; must be 1 or more")
    with interruptible():
        try:
            robot.reset(config.start_seed)
            reading = robot.observe()
            if estimator is not None:
                estimator.reset()
                reading = estimator.see(reading, robot.ages)
            rules = config.rules or PlanRules()
            started = control.start(config.robot_id, config.goal, reading, config.seed, config.plan_lead, rules=rules)
            with StepThread(control, config.robot_id, clock) as steps:
                about = config, control.model.spec, started, pilot
                loop = _Loop(robot, steps, *about, on_step, on_event, budget, clock, heartbeat, estimator)
                loop.run()
        finally:
            with _undisturbed(), contextlib.suppress(RelayError), own_code_told():
                robot.stop()
    return loop.result(control.model.spec.action.dim)


class StepThread:
    """Asks for the steps of one started run in a thread, for the length of a block; the control is closed at its end.

    It also tells the server of the steps that a pilot decided, in their order, without anybody waiting for it.

    Args:
        control: one that fails rather than wait for its server.
        robot: the id with which the run was started.
        clock: the clock of the actions' validity; the system's monotonic clock by default.
    """

    def __init__(self, control: Control, robot: str, clock: Clock | None = None) -> None:
        self.number = 0  # of the step that is under way, or the next one
        self.goal: ResolvedGoal | None = None  # that an operator gave the robot last
        self._control = control
        self._robot = robot
        self._clock = clock or MonotonicClock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="steps")
        self._under_way: Future[Action] | None = None
        self._untold = deque[Request]()  # the thread takes them from the left when they are told
        self._telling: Future[Noted | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()  # aborts the step under way
        self._thread.shutdown()

    @property
    def waiting(self) -> bool:
        """Whether a step of the policy is under way."""
        return self._under_way is not None

    def tell(self, requests: Sequence[Request]) -> Noted | None:
        """Tell the server of a pilot's deeds, as soon as one is there. Returns what it said to an earlier one, if new.

        Raises:
            RelayError: an earlier one was refused.
        """
        self._untold.extend(requests)
        noted = None
        if self._telling is not None and self._telling.done():
            with contextlib.suppress(ServerUnavailable):  # they are told again
                noted = self._telling.result()
            self._telling = None
        if self._telling is None and self._untold:
            self._telling = self._thread.submit(self._tell)
        return noted

    def step(self, state: np.ndarray, timeout_s: float) -> Action | None:
        """The action for a state (n,) measured now, or a late one that is still valid; None after a time [s].

        Raises:
            RelayError: the step was refused, or the server has another bundle now.
        """
        deadline_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        while True:
            carried_over = self._under_way is not None
            asked = self._under_way or self._thread.submit(self._ask, self.number, state)
            self._under_way = asked
            try:
                action = asked.result(max(0, deadline_ns - self._clock.now_ns()) / 1e9)
            except TimeoutError:
                return None
            except RelayError as error:
                self._under_way = None
                if not isinstance(error, ServerUnavailable):
                    raise
                if not carried_over:
                    return None
                continue
            self._under_way = None
            self.number += 1
            self.goal = action.goal or self.goal  # also of an action that comes too late
            if self._clock.now_ns() <= action.valid_until_ns:
                return action

    def _ask(self, number: int, state: np.ndarray) -> Action:
        self._tell()
        return self._control.step(self._robot, number, state)

    def _tell(self) -> Noted | None:
        noted = None
        while self._untold:
            requests = [self._untold[at] for at in range(min(len(self._untold), MAX_ROWS))]
            for reply in self._control.ask(self._robot, requests):
                self._untold.popleft()
                if isinstance(reply, Noted):
                    noted = reply
                    self.goal = reply.goal or self.goal
        return noted


@dataclass(eq=False)
class _Loop:
    """The control periods of one run."""

    robot: LiveRobot
    step_thread: StepThread
    config: RunConfig
    spec: PolicySpec
    started: Started
    pilot: Pilot | None
    on_step: Callable[[Step], None]
    on_event: Callable[[Event], None]
    budget: TimeBudget
    clock: Clock
    heartbeat: Heartbeat | None
    estimator: Estimator | None

    def __post_init__(self) -> None:
        self._state = self.robot.observe()
        self._seen_ns = self.clock.now_ns()  # [ns] of that observation
        self._watchdog = Watchdog(self.started.period_s, self.budget.hold_periods, self._seen_ns)
        self._helm = Helm(self.pilot, self.spec, self._watchdog.events.append)
        self._told = 0  # events of which `on_event` was told
        self._steps: list[Step] = []
        self._late_ns: list[int] = []
        self._answer_ns: list[int] = []
        self._held = self._missed = 0
        self._missing = self.config.until

    def run(self) -> None:
        """Run until the last period or a stop; the robot is at rest afterwards."""
        schedule = Schedule(self.clock, self.started.period_s)
        try:
            while len(self._late_ns) < self.config.steps:
                with own_code_told():  # a robot's or a pilot's; a listener's error goes through
                    command = self._period(schedule)
                if command is Command.STOP:
                    break
                if command is Command.FOLLOW:
                    self.on_step(self._steps[-1])
                    self._missing -= self._steps[-1].done
                self._tell()
                if self.config.until and not self._missing:
                    break
        except KeyboardInterrupt:
            hung = self.heartbeat is not None and self.heartbeat.late
            self._watchdog.trip(self.clock.now_ns(), HUNG if hung else INTERRUPTED)
        except RelayError as error:
            self._watchdog.trip(self.clock.now_ns(), str(error))
        with _undisturbed():
            try:
                self._beat(_REST_S)
                with own_code_told():
                    self.robot.stop()
            except RelayError as error:  # the robot stopped by itself, or cannot
                self._watchdog.trip(self.clock.now_ns(), str(error))
            self._beat(None)
            self._watchdog.rest(self.clock.now_ns())
        with contextlib.suppress(KeyboardInterrupt):
            self._tell()

    def result(self, action_dim: int) -> DriveResult:
        return DriveResult(
            run=run_result(self.started, self._steps, self._state, action_dim),
            stop=self._watchdog.stop,
            held=self._held,
            missed=self._missed,
            late_ns=np.array(self._late_ns, dtype=np.int64),
            answer_ns=np.array(self._answer_ns, dtype=np.int64),
            limit_violations=dict(self.robot.limit_violations),
            events=tuple(self._watchdog.events),
        )

    def _period(self, schedule: Schedule) -> Command:
        """One control period. Returns what the robot does in it.

        Raises:
            RelayError: a fault that stops the robot at once.
        """
        if not self._beat(_BEAT_S):
            raise RobotStopped("the process that watches the control loop has ended; must watch it to the end")
        tick = schedule.wait()
        self._late_ns.append(tick.late_ns)
        self._missed += tick.missed
        if tick.asleep_ns:
            raise RobotStopped(f"the computer slept for {tick.asleep_ns / 1e9:.1f} s")
        if tick.missed >= self.budget.hold_periods:
            raise RobotStopped(f"the control loop was held up for {tick.missed} control periods")
        before, before_ns = self._state, self._seen_ns
        self._seen_ns, reading = self.clock.now_ns(), self.robot.observe()
        joints, elapsed_s = slice(len(self.robot.profile.low)), (self._seen_ns - before_ns) / 1e9
        fault = reading_fault(self.robot.profile, reading[joints], before[joints], elapsed_s)
        if fault is not None:
            raise RobotStopped(fault)
        self._state = reading
        estimator = self.estimator
        state = reading if estimator is None else estimator.see(reading, self.robot.ages)
        action = self._decided(state)
        command = self._watchdog.judge(self.clock.now_ns(), action is not None)
        if action is None or command is not Command.FOLLOW:
            self._held += 1
            if estimator is not None:
                estimator.hold()
        else:
            self.robot.apply(action.target if estimator is None else estimator.command(action.target))
            self._answer_ns.append(self.clock.now_ns() - tick.now_ns)
            by_hand = self._helm.author != POLICY
            self.step_thread.number += by_hand  # the thread counts the policy's own
            number = self.step_thread.number - 1
            self._helm.applied(number, state, action)
            self._note()
            goal = self.step_thread.goal or self.started.goal
            sensed = None if estimator is None else reading
            author = action.author or self._helm.author
            self._steps.append(Step(number, state, action, self.robot.done(), goal, sensed, author))
        return command

    def _decided(self, state: np.ndarray) -> Action | None:
        """The action of this period, by the pilot or the policy; None: it did not come in time."""
        began_ns, due_s = self.clock.now_ns(), self.budget.answer_due * self.started.period_s
        if not self.step_thread.waiting:
            goal = self.step_thread.goal or self.started.goal
            action = self._helm.take(self.step_thread.number, state, goal, self._seen_ns)
            if action is not None:
                return action if self.clock.now_ns() <= began_ns + due_s * 1e9 else None
            self._note()
        return self.step_thread.step(state, due_s - (self.clock.now_ns() - began_ns) / 1e9)

    def _note(self) -> None:
        """Tell the server of the pilot's deeds, and hear what it said to earlier ones."""
        noted = self.step_thread.tell(self._helm.untold)
        self._helm.untold.clear()
        if noted is not None:
            self._helm.heard(noted)

    def _beat(self, next_s: float | None) -> bool:
        return self.heartbeat is None or self.heartbeat.beat(next_s)

    def _tell(self) -> None:
        for event in self._watchdog.events[self._told :]:
            self._told += 1
            self.on_event(event)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A block that neither Ctrl-C nor SIGTERM cuts short: braking is short, and there is no second try."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, AGAIN)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
