"""Plans that come later: the question to a planner, its answer, and the rules of a run for an answer that is late."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from rpl_runtime.policy.spec import ResolvedGoal

MAX_DEADLINE_S = 60.0  # [s] that a plan may take


class Fallback(StrEnum):
    """What a robot follows when no usable plan came in time."""

    KEEP = "keep"  # the old subgoal
    HOLD = "hold"  # the state in which it is
    BUNDLE = "bundle"  # a plan of the bundle's own high level
    STOP = "stop"  # nothing: the step is refused, and so are those after it


@dataclass(frozen=True)
class PlanRules:
    """The rules of one run for plans that take time."""

    wait: bool = False  # each step waits for the plan that is due, as a simulator can; otherwise only the first plan
    fallback: Fallback | None = None  # None: the server's
    deadline_s: float | None = None  # [s] from the question to the answer; None: the server's


class Source(IntEnum):
    """Who made a subgoal; the numbers are those on the wire."""

    BUNDLE = 0  # the bundle's high level
    PLANNER = 1  # another planner
    HOLD = 2  # the loop: the state in which the robot was when no plan came in time
    FALLBACK = 3  # the bundle's high level, in place of a planner


class Origin(NamedTuple):
    """Where a subgoal came from."""

    source: Source
    waited: int = 0  # [control steps] from the state it was planned in to the step at which it took effect
    lasts: int = 0  # [control steps] for which it is to be followed; 0: the horizon
    confidence: float | None = None  # 0 to 1, as the planner says


class Plan(NamedTuple):
    """A planner's answer."""

    subgoal: np.ndarray  # (n,)
    confidence: float | None = None  # 0 to 1
    lasts: int = 0  # [control steps] for which it is to be followed; 0: the horizon


class Question(NamedTuple):
    """What a planner is asked."""

    robot: str
    step: int  # [control steps] at which it is asked
    state: np.ndarray  # (n,) measured at that step
    goal: ResolvedGoal
    before: np.ndarray | None  # (n,) the subgoal that the robot follows; None: none yet
    noise: np.ndarray  # (high_noise,) standard normal for a sample, zero for the mode


class Coming(Protocol):
    """An answer that is on its way."""

    @property
    def settled(self) -> bool:
        """Whether `result` returns at once."""
        ...

    @property
    def left_s(self) -> float:
        """[s] after which it is settled, whatever the planner does."""
        ...

    def result(self) -> Plan:
        """The answer, waited for until it is settled.

        Raises:
            PlannerLost: no usable answer came in time.
        """
        ...

    def when_settled(self, call: Callable[[], object]) -> None:
        """Have something called once an answer is there, from any thread; at the deadline nothing is called."""
        ...

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        ...


class PlannerPort(Protocol):
    """Puts questions to a planner while robots move on."""

    @property
    def source(self) -> Source:
        """Who makes its subgoals."""
        ...

    def ask(self, question: Question, rules: PlanRules) -> Coming:
        """Put a question."""
        ...

    def check(self, rules: PlanRules) -> None:
        """Check that a run can have these rules.

        Raises:
            InvalidInput: it cannot.
        """
        ...

    def fallback(self, rules: PlanRules) -> Fallback:
        """What a run follows whose plan did not come."""
        ...
