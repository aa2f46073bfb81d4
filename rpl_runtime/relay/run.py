"""A run as values: its settings, its steps and its result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.messages import Action, Goal, Started
from rpl_runtime.relay.plans import PlanRules
from rpl_runtime.relay.run_state import POLICY


@dataclass(frozen=True)
class RunConfig:
    goal: Goal  # element names, a whole goal state (n,) or a resolved goal
    steps: int  # [control steps]
    robot_id: str = "robot"  # keys the sampling noise; a server runs each id once at a time
    seed: int | None = None  # samples the policy; None: its mode
    start_seed: int = 0  # draws the start of a simulated robot
    plan_lead: int = 0  # [steps]
    rules: PlanRules | None = None  # for plans that take time; None: a world that waits waits for them, others do not
    until: frozenset[str] = frozenset()  # the run ends early once each of these elements was done; none: it does not


class Step(NamedTuple):
    """One control step of a run."""

    step: int
    state: np.ndarray  # (n,) observed before it, in which its author decided
    action: Action
    done: frozenset[str]  # elements at their goal after it
    goal: ResolvedGoal
    reading: np.ndarray | None = None  # (n,) of the sensors, if the state was estimated from it
    author: str = POLICY  # who decided it: the policy, or the name of a pilot


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run of T steps; row t of each array belongs to step t."""

    goal: ResolvedGoal
    digest: str  # of the bundle that ran
    states: np.ndarray  # (T, n) observed before the step
    targets: np.ndarray  # (T, m)
    subgoals: np.ndarray  # (T, n) the subgoal followed
    replanned: np.ndarray  # (T,) bool, whether that subgoal was new
    done: tuple[frozenset[str], ...]  # (T,) elements at their goal after the step
    final_state: np.ndarray  # (n,) observed after the last step
    authors: tuple[str, ...]  # (T,) who decided the step

    @property
    def ever_done(self) -> frozenset[str]:
        """The elements that were at their goal after any step."""
        return frozenset().union(*self.done)

    @property
    def done_at_end(self) -> frozenset[str]:
        """The elements that were at their goal after the last step."""
        return self.done[-1] if self.done else frozenset()

    def first_done(self, element: str) -> int | None:
        """The number of steps after which an element was at its goal for the first time; None if never."""
        return next((count for count, done in enumerate(self.done, start=1) if element in done), None)


def run_result(started: Started, steps: Sequence[Step], final_state: np.ndarray, targets: int) -> RunResult:
    """The result of a run of T steps; `targets` is the number of dimensions of a target."""

    def rows(values: list[np.ndarray], dim: int) -> np.ndarray:
        return np.array(values).reshape(len(steps), dim)  # works for T = 0

    return RunResult(
        goal=started.goal,
        digest=started.digest,
        states=rows([step.state for step in steps], len(final_state)),
        targets=rows([step.action.target for step in steps], targets),
        subgoals=rows([step.action.subgoal for step in steps], len(final_state)),
        replanned=np.array([step.action.replanned for step in steps], dtype=bool),
        done=tuple(step.done for step in steps),
        final_state=final_state,
        authors=tuple(step.author for step in steps),
    )
