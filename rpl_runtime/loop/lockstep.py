"""One run of a robot: observe, ask for the action, apply it, until the steps are over.

In: a robot whose world waits for it, a control stream, and what to do. Out: a `RunResult` with everything that
happened. It does not know what kind of robot it drives, nor where the policy runs. A world that does not wait is
drive.py's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rpl_runtime.client.client import Action, Control
from rpl_runtime.errors import InvalidGoal, InvalidInput
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.messages import Goal, Started
from rpl_runtime.robots import Robot


@dataclass(frozen=True)
class RunConfig:
    goal: Goal  # element names, a whole goal state (n,) or a resolved goal
    steps: int
    robot_id: str = "robot"  # keys the sampling noise; one run at a time for each id on a server
    seed: int | None = None  # samples the policy; None takes its mode
    start_seed: int = 0  # where a simulated robot starts
    plan_lead: int = 0  # [steps]


class Step(NamedTuple):
    """What happened at one step."""

    step: int
    state: np.ndarray  # (n,) observed before
    action: Action
    done: frozenset[str]  # the elements at their goal after it
    goal: ResolvedGoal  # followed


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run of T steps; row t of each array belongs to step t."""

    goal: ResolvedGoal
    digest: str  # of the bundle that ran
    states: np.ndarray  # (T, n) observed before the step
    targets: np.ndarray  # (T, m)
    subgoals: np.ndarray  # (T, n) the subgoal followed
    replanned: np.ndarray  # (T,) bool, whether that subgoal was new
    done: tuple[frozenset[str], ...]  # (T,) the elements at their goal after the step
    final_state: np.ndarray  # (n,) observed after the last step

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


def parse_goal(text: str, spec: PolicySpec) -> tuple[str, ...]:
    """The elements that a text names: a compound goal of the policy's library, or elements with commas between.

    Raises:
        InvalidGoal: it names neither.
    """
    elements = spec.library.get(text) or tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in elements if name not in spec.elements]
    if unknown or not elements:
        raise InvalidGoal(
            f"{text!r} is no goal of {spec.name}; allowed are elements with commas between them "
            f"({', '.join(spec.elements) or 'none'}) or one of {', '.join(spec.library) or 'no compound goals'}"
        )
    return elements


def run(
    robot: Robot, control: Control, config: RunConfig, on_step: Callable[[Step], None] = lambda step: None
) -> RunResult:
    """Drive a robot through one run; `on_step` hears of each step once it is over.

    A run that breaks off stops the robot and keeps its lease until the control stream ends.

    Raises:
        InvalidInput: there is no step to make.
        RelayError: the server refused, or is gone.
    """
    if config.steps < 1:
        raise InvalidInput(f"a run of {config.steps} steps was asked for; allowed is 1 or more")
    robot.reset(config.start_seed)
    state = robot.observe()
    started = control.start(config.robot_id, config.goal, state, config.seed, config.plan_lead)
    steps: list[Step] = []
    try:
        for number in range(config.steps):
            action = control.step(config.robot_id, number, state)
            robot.apply(action.target)
            steps.append(Step(number, state, action, robot.done(), started.goal))
            on_step(steps[-1])
            state = robot.observe()
    finally:
        robot.stop()
    control.finish(config.robot_id)
    return run_result(started, steps, state, control.model.spec.action.dim)


def run_result(started: Started, steps: Sequence[Step], final_state: np.ndarray, targets: int) -> RunResult:
    """What T steps came to, where a target has so many dimensions."""

    def rows(values: list[np.ndarray], dim: int) -> np.ndarray:
        return np.array(values).reshape(len(steps), dim)  # also of no step

    return RunResult(
        goal=started.goal,
        digest=started.digest,
        states=rows([step.state for step in steps], len(final_state)),
        targets=rows([step.action.target for step in steps], targets),
        subgoals=rows([step.action.subgoal for step in steps], len(final_state)),
        replanned=np.array([step.action.replanned for step in steps], dtype=bool),
        done=tuple(step.done for step in steps),
        final_state=final_state,
    )
