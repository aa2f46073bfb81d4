"""The port of a planner: it asks in threads of its own, holds answers to their deadline, and checks them.

Whatever the planner does, a question is settled at its deadline. A planner that raises, dies, or answers with a subgoal
that cannot be used has lost that plan; a late answer is not used.
"""

import logging
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from enum import StrEnum

import numpy as np

from rpl_runtime.errors import InvalidInput, PlannerLost, ProtocolViolation, RelayError
from rpl_runtime.planning.planner import Planner
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.relay.plans import MAX_DEADLINE_S, Fallback, Plan, PlanRules, Question, Source

_LOG = logging.getLogger(__name__)
_IDLE_S = 30.0  # [s] after which a thread without work ends
_MOST_LASTS = 1_000_000  # [control steps]
_EACH = 4  # threads that the questions of one robot may hold: it may be one for which the planner hangs


class Outcome(StrEnum):
    """What became of a question."""

    ANSWERED = "answered"
    LATE = "late"  # no answer by the deadline
    LOST = "lost"  # the planner could not be reached, or failed
    WRONG = "wrong"  # the answer cannot be used
    DROPPED = "dropped"  # nobody needed the answer any more


Observe = Callable[[Outcome, float], object]  # the outcome, and the time [s] that it took


class Port:
    """Asks one planner for the robots of one policy (the `PlannerPort` protocol of the relay loop).

    Args:
        planner: to ask.
        name: of the planner, for people.
        spec: of the policy; a subgoal must be a state that it accepts, or of finite numbers from the bundle itself.
        source: who the planner is.
        deadline_s: [s] that an answer may take, if the run names no other.
        fallback: of runs that name none.
        own: whether the bundle's high level may plan within a step, in place of a plan that did not come.
        threads: questions that are put at once.
        thread_name: of the threads.
        observe: is told what became of each question.
    """

    def __init__(
        self,
        planner: Planner,
        name: str,
        spec: PolicySpec,
        source: Source,
        deadline_s: float,
        fallback: Fallback,
        own: bool,
        threads: int,
        thread_name: str,
        observe: Observe | None = None,
    ) -> None:
        self.source = source
        self._planner = planner
        self._name = name
        self._check = spec.state.check if source is Source.PLANNER else spec.state.check_finite
        self.deadline_s = deadline_s
        self._fallback = fallback
        self._own = own and source is Source.PLANNER
        self._threads = _Threads(threads, thread_name)
        self._observe = observe
        weakref.finalize(self, self._threads.close)  # of a model that was replaced

    def ask(self, question: Question, rules: PlanRules) -> "_Answer":
        """Put a question."""
        deadline_s = self.deadline_s if rules.deadline_s is None else min(rules.deadline_s, MAX_DEADLINE_S)
        answer = _Answer(question, deadline_s, self._end)
        self._threads.submit(question.robot, lambda: self._answer(answer))
        return answer

    def fallback(self, rules: PlanRules) -> Fallback:
        """What a run follows whose plan did not come."""
        return self._fallback if rules.fallback is None else rules.fallback

    def check(self, rules: PlanRules) -> None:
        """Check that a run can have these rules.

        Raises:
            InvalidInput: it cannot.
        """
        if rules.fallback is Fallback.BUNDLE and not self._own:
            raise InvalidInput(
                "the run's fallback is the bundle's high level, which plans anyway or is slow; must be another"
            )

    def close(self) -> None:
        """End the threads that have no work."""
        self._threads.close()

    def _answer(self, answer: "_Answer") -> None:
        """Get the planner's answer; in a thread."""
        if answer.settled:
            return
        try:
            plan = self._planner.plan(answer.question, answer.left_s)
        except PlannerLost as error:
            answer.settle(Outcome.LATE, error)
        except ProtocolViolation as error:
            answer.settle(Outcome.WRONG, error)
        except RelayError as error:
            answer.settle(Outcome.LOST, error)
        except BaseException as error:  # anybody's planner may raise anything, also what would end a thread
            answer.settle(Outcome.LOST, RelayError(f"{type(error).__name__}: {error}"))
        else:
            try:
                answer.settle(Outcome.ANSWERED, self._usable(plan))
            except InvalidInput as error:
                answer.settle(Outcome.WRONG, error)

    def _usable(self, plan: Plan) -> Plan:
        """The plan, checked.

        Raises:
            InvalidInput: it cannot be used.
        """
        try:
            subgoal, lasts = np.asarray(plan.subgoal, dtype=np.float32), int(plan.lasts)
            confidence = None if plan.confidence is None else float(plan.confidence)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"the answer is {type(plan).__name__}, not a Plan: {error}") from None
        if not 0 <= lasts <= _MOST_LASTS:
            raise InvalidInput(f"the subgoal lasts {lasts} steps; must be 0 to {_MOST_LASTS}")
        if confidence is not None and not 0 <= confidence <= 1:
            raise InvalidInput(f"the confidence is {confidence}; must be 0 to 1")
        return Plan(self._check("subgoal", subgoal), confidence, lasts)

    def _end(self, answer: "_Answer", outcome: Outcome, why: str, spent_s: float) -> None:
        if self._observe is not None:
            self._observe(outcome, spent_s)
        if why:
            robot = answer.question.robot
            _LOG.warning("a plan of robot %r by %s is %s: %s", robot, self._name, outcome, why, extra={"robot": robot})


class _Answer:
    """An answer on its way (the `Coming` protocol of the relay loop)."""

    def __init__(
        self, question: Question, deadline_s: float, ended: Callable[["_Answer", Outcome, str, float], object]
    ) -> None:
        self.question = question
        self._deadline_s = deadline_s
        self._began = time.monotonic()
        self._ended = ended
        self._future: Future[Plan] = Future()

    @property
    def left_s(self) -> float:
        """[s] until the deadline."""
        return max(0.0, self._began + self._deadline_s - time.monotonic())

    @property
    def settled(self) -> bool:
        """Whether `result` returns at once."""
        return self._future.done() or self.left_s == 0.0

    def result(self) -> Plan:
        """The answer, waited for until the deadline.

        Raises:
            PlannerLost: it did not come, or cannot be used.
        """
        try:
            return self._future.result(self.left_s)
        except CancelledError:
            raise PlannerLost("nobody waits for this plan any more") from None
        except FutureTimeout:
            self.settle(Outcome.LATE, RelayError(f"it did not come within {self._deadline_s:g} s"))
            return self._future.result()

    def when_settled(self, call: Callable[[], object]) -> None:
        """Have something called once an answer is there, from any thread."""
        self._future.add_done_callback(lambda _: call())

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        if self._future.cancel():
            self._ended(self, Outcome.DROPPED, "", time.monotonic() - self._began)

    def settle(self, outcome: Outcome, answer: Plan | RelayError) -> None:
        """Make a plan or an error the answer, if there is none yet; after the deadline it is late."""
        if self.left_s == 0.0:
            outcome = Outcome.LATE
            answer = RelayError(f"it came after {self._deadline_s:g} s") if isinstance(answer, Plan) else answer
        with suppress(InvalidStateError):
            if isinstance(answer, Plan):
                self._future.set_result(answer)
            else:
                self._future.set_exception(PlannerLost(f"no usable plan: {answer}"))
            why = "" if isinstance(answer, Plan) else str(answer)
            self._ended(self, outcome, why, time.monotonic() - self._began)


class _Threads:
    """Threads that come with work, up to a number, and end without it after a while, or at once when closed.

    Of an owner whose work holds as many of them as it may, only the newest work waits.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: deque[tuple[str, Callable[[], object]]] = deque()
        self._begun = Counter[str]()  # work of each owner that waits for a thread or has one
        self._next: dict[
            str, Callable[[], object]
        ] = {}  # by owner, its newest work, which waits until other work of it ends
        self._news = threading.Condition()
        self._count = self._idle = 0
        self._closed = False

    def submit(self, owner: str, work: Callable[[], object]) -> None:
        with self._news:
            if self._begun[owner] == _EACH:
                self._next[owner] = work
                return
            self._begun[owner] += 1
            self._work.append((owner, work))
            if self._idle >= len(self._work):
                self._news.notify()
            elif self._count < self._most:
                self._count += 1
                # Not waited for at the end of the process: a planner may hang.
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _run(self) -> None:
        while True:
            with self._news:
                self._idle += 1
                self._news.wait_for(lambda: self._work or self._closed, _IDLE_S)
                self._idle -= 1
                if not self._work:
                    self._count -= 1
                    return
                owner, work = self._work.popleft()
            work()
            del work  # it holds the port, whose end is that of this thread
            with self._news:
                if owner in self._next:
                    self._work.append((owner, self._next.pop(owner)))
                    continue
                self._begun[owner] -= 1
                if not self._begun[owner]:
                    del self._begun[owner]
