"""A logged run through a policy once more: what does it decide in the states that the logged one saw?

In: a log and a control stream. Out: a `Replay`, which says where the policy's actions and subgoals lie farthest from
those of the log. It does not know robots or files.

The states are those of the log, whatever the actions; the subgoals are the policy's own. Only where the log has a
gap, or begins in the middle of a run, is the logged subgoal taken over, as by a server that goes on with a broken run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from rpl_runtime.client.client import Control
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal, VectorSpec
from rpl_runtime.recording.mcap import Log, LoggedStep
from rpl_runtime.relay.loop import Resume, SubgoalOverride


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference in any dimension at any step, and where it was found first."""

    largest: float  # in the unit of the dimension
    name: str  # of the dimension
    unit: str
    step: int


@dataclass(frozen=True)
class Replay:
    """A replayed run."""

    logged_digest: str  # of the bundle that ran
    digest: str  # of the bundle that replayed it
    steps: int
    missing: int  # steps between the first and the last that the log does not hold
    whole: bool  # False: the log was broken off
    action: Difference
    subgoal: Difference

    def within(self, tolerance: float) -> bool:
        """Whether no number differs by more than this, in its own unit; with 0, whether they are equal."""
        return max(self.action.largest, self.subgoal.largest) <= tolerance


def replay(log: Log, control: Control) -> Replay:
    """Run the logged states through the policy behind a control stream.

    A goal that was set to itself leaves no trace where a plan was due anyway; with a plan_lead the replay then follows
    the plan that was made ahead.

    Raises:
        InvalidInput: the log is of a policy with other dimensions or another horizon, or this one refuses a state.
        RobotLeased: a robot with the logged id runs on the server now.
        ServerUnavailable: nobody answers.
    """
    header, model = log.header, control.model
    _check_comparable(header.spec, model.spec)
    actions = []
    for index, step in enumerate(log.steps):
        before = log.steps[index - 1] if index else None
        if before is None or step.step != before.step + 1 or _operator_changed(before, step):
            if before is not None:
                control.finish(header.robot)
            _start(control, log, step)
        elif _goal_was_set(before, step, header.spec.horizon):
            control.set_goal(header.robot, _goal(step))
        actions.append(control.step(header.robot, step.step, _vector(step.state)))
    control.finish(header.robot)
    numbers = [step.step for step in log.steps]
    return Replay(
        logged_digest=header.digest,
        digest=model.digest,
        steps=len(numbers),
        missing=numbers[-1] - numbers[0] + 1 - len(numbers),
        whole=log.whole,
        action=_difference(
            numbers, [step.target for step in log.steps], [action.target for action in actions], model.spec.action
        ),
        subgoal=_difference(
            numbers, [step.subgoal for step in log.steps], [action.subgoal for action in actions], model.spec.state
        ),
    )


def replay_table(result: Replay, tolerance: float) -> Table:
    """The result for people."""
    by = "itself" if result.digest == result.logged_digest else result.digest[:12]
    table = Table(title=f"{result.steps} steps of {result.logged_digest[:12]} replayed by {by}")
    if result.missing:
        table.caption = f"{result.missing} steps between them are not in the log"
    elif not result.whole:
        table.caption = "the log was broken off after them"
    for heading in ("", "largest difference", "of", "at step"):
        table.add_column(heading)
    for what, found in (("action", result.action), ("subgoal", result.subgoal)):
        colour = "green" if found.largest <= tolerance else "red"
        if found.largest:
            table.add_row(what, f"[{colour}]{found.largest:.3g} {found.unit}[/]", found.name, str(found.step))
        else:
            table.add_row(what, f"[{colour}]none[/]", "", "")
    return table


def _check_comparable(logged: PolicySpec, spec: PolicySpec) -> None:
    def kind(spec: PolicySpec) -> tuple[object, ...]:
        return spec.state.names, spec.state.units, spec.action.names, spec.action.units, spec.horizon

    def said(spec: PolicySpec) -> str:
        return f"{spec.name} (state {spec.state.dim}, action {spec.action.dim}, horizon {spec.horizon})"

    if kind(logged) != kind(spec):
        raise InvalidInput(
            f"the log is of {said(logged)} and cannot be replayed by {said(spec)}; must be a policy with the same "
            f"names and units in the same order, and the same horizon"
        )


def _start(control: Control, log: Log, step: LoggedStep) -> None:
    """Begin or go on with the run at a step, as it stood there."""
    robot, lead, horizon = log.header.robot, log.header.plan_lead, log.header.spec.horizon
    subgoal, upcoming = _vector(step.subgoal), None
    if step.override and (step.age == 0 or step.override is SubgoalOverride.PINNED):
        # The operator's subgoal is taken over as it is; what the policy planned after him, it plans again.
        resume = Resume(step.step, subgoal, step.age or horizon, None, step.override)
        control.start(robot, _goal(step), seed=log.header.seed, plan_lead=lead, resume=resume)
        return
    # A plan that was made ahead saw a state that the log may not hold; one that was made at once is made again.
    at_once = step.age == 0 and (lead == 0 or step.step < horizon)
    age = 1 if at_once else step.age or horizon
    if age > horizon - lead:
        following = step.step + horizon - age
        # Where the log does not hold the step from which it counts, no step of it will ask for it either.
        upcoming = next((_vector(later.subgoal) for later in log.steps if later.step == following), subgoal)
    resume = Resume(step.step, subgoal, age, upcoming) if step.step else None
    control.start(robot, _goal(step), seed=log.header.seed, plan_lead=lead, resume=resume)
    if resume and at_once:
        control.set_goal(robot, _goal(step))


def _operator_changed(before: LoggedStep, step: LoggedStep) -> bool:
    """Whether an operator put another subgoal in place of one, by a pin, a veto or a release."""
    same_pin = before.override is step.override is SubgoalOverride.PINNED and before.subgoal == step.subgoal
    return step.age == 0 and bool(step.override) and not same_pin


def _goal_was_set(before: LoggedStep, step: LoggedStep, horizon: int) -> bool:
    """Whether the run replanned at a step because its goal was set, be it to the same one."""
    off_schedule = step.age == 0 and before.age + 1 < horizon
    return off_schedule or (before.goal, before.mask) != (step.goal, step.mask)


def _difference(
    steps: Sequence[int],
    logged: Sequence[Sequence[float]],  # (T, dim)
    replayed: Sequence[np.ndarray],  # (T, dim)
    vector: VectorSpec,
) -> Difference:
    apart = np.abs(np.array(logged) - np.array(replayed, dtype=np.float64))
    row, dim = divmod(int(apart.argmax()), vector.dim)
    return Difference(float(apart[row, dim]), vector.names[dim], vector.units[dim], steps[row])


def _goal(step: LoggedStep) -> ResolvedGoal:
    return ResolvedGoal(_vector(step.goal), _vector(step.mask))


def _vector(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)
