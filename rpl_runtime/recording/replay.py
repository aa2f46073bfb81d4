"""Replay of a log: a policy decides again in the logged states, and its decisions are compared with the logged ones.

The states come from the log, the subgoals from the policy. After a gap, or at the beginning of a log that starts in the
middle of a run, the policy continues with the logged subgoal, as a server does that resumes a run. The steps of a pilot
are left out; at the step after them the policy plans, as it did.

A run with a planner that takes its time is replayed with the logged subgoals, each from the step at which it took
effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from rpl_runtime.client.client import Control
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import ResolvedGoal, VectorSpec
from rpl_runtime.recording.mcap import Log, LoggedStep
from rpl_runtime.relay.messages import NOTHING
from rpl_runtime.relay.plans import PlanRules
from rpl_runtime.relay.run_state import POLICY, Resume

_RULES = PlanRules(wait=True)  # a slow high level plans again at the steps at which it did


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference over dimensions and control steps, and its first place."""

    largest: float  # in the unit of the dimension
    name: str  # of the dimension
    unit: str
    step: int


@dataclass(frozen=True)
class Replay:
    """The result of a replay."""

    logged_digest: str  # of the bundle in the log
    digest: str  # of the bundle that replayed it
    steps: int  # [control steps] replayed
    by_hand: int  # [control steps] among them of a pilot
    missing: int  # [control steps] between the first and the last that are not in the log
    whole: bool  # False: the log is incomplete
    subgoals_logged: bool  # whether the subgoals are those of the log: its run had a planner that takes its time
    action: Difference
    subgoal: Difference

    def within(self, tolerance: float) -> bool:
        """Whether no number differs by more than the tolerance, in its own unit."""
        return max(self.action.largest, self.subgoal.largest) <= tolerance


def replay(log: Log, control: Control) -> Replay:
    """Run the logged states through the policy behind a control stream.

    A log cannot show that a goal was set again when a plan was due anyway; with a plan_lead, the replay then follows
    the plan that was made ahead.

    Raises:
        InvalidInput: the logged policy has other dimensions or another horizon, this policy refuses a state, or every
            step was decided by hand.
        RobotLeased: a robot with the logged id runs on the server now.
        ServerUnavailable: no server answers.
    """
    header, model = log.header, control.model
    kinds, texts = [], []
    for spec in (header.spec, model.spec):
        kinds.append((spec.state.names, spec.state.units, spec.action.names, spec.action.units, spec.horizon))
        texts.append(f"{spec.name} (state {spec.state.dim}, action {spec.action.dim}, horizon {spec.horizon})")
    if kinds[0] != kinds[1]:
        raise InvalidInput(
            f"the log is of {texts[0]} and cannot be replayed by {texts[1]}; must be a policy with the same names and "
            "units in the same order, and the same horizon"
        )
    decided, actions = [step for step in log.steps if step.author == POLICY], []
    if not decided:
        raise InvalidInput("every step of the log was decided by hand; must have one of the policy's")
    by_hand = {step.step for step in log.steps if step.author != POLICY}
    planned_elsewhere = any(step.origin is not None or step.age >= header.spec.horizon for step in decided)
    for index, step in enumerate(decided):
        before = decided[index - 1] if index else None
        begins = before is None or step.step != before.step + 1 or _operator_changed(before, step)
        if begins or (planned_elsewhere and step.age == 0):
            if before is not None:
                control.finish(header.robot)
            if planned_elsewhere:
                _follow(control, log, step)
            else:
                _start(control, log, step, step.step - 1 in by_hand)
        elif before is not None and not planned_elsewhere and _goal_was_set(before, step, header.spec.horizon):
            control.set_goal(header.robot, _goal(step))
        actions.append(control.step(header.robot, step.step, _vector(step.state)))
    control.finish(header.robot)
    numbers = [step.step for step in log.steps]
    return Replay(
        logged_digest=header.digest,
        digest=model.digest,
        steps=len(numbers),
        by_hand=len(by_hand),
        missing=numbers[-1] - numbers[0] + 1 - len(numbers),
        whole=log.whole,
        subgoals_logged=planned_elsewhere,
        action=_difference(decided, [step.target for step in decided], [a.target for a in actions], model.spec.action),
        subgoal=_difference(
            decided, [step.subgoal for step in decided], [a.subgoal for a in actions], model.spec.state
        ),
    )


def replay_table(result: Replay, tolerance: float) -> Table:
    """The result as a table."""
    by = "itself" if result.digest == result.logged_digest else result.digest[:12]
    table = Table(
        *("", "largest difference", "of", "at control step"),
        title=f"{result.logged_digest[:12]} replayed by {by}, control steps: {result.steps}",
    )
    captions = [f"control steps by hand, not compared: {result.by_hand}"] if result.by_hand else []
    if result.missing:
        captions.append(f"control steps between them that are not in the log: {result.missing}")
    elif not result.whole:
        captions.append("the log is incomplete: it was broken off")
    if result.subgoals_logged:
        captions.append("the subgoals are those of the log: a planner made them")
    table.caption = "\n".join(captions) or None
    for what, found in (("action", result.action), ("subgoal", result.subgoal)):
        colour = "green" if found.largest <= tolerance else "red"
        if found.largest:
            table.add_row(what, f"[{colour}]{found.largest:.3g} {found.unit}[/]", found.name, str(found.step))
        else:
            table.add_row(what, f"[{colour}]none[/]", "", "")
    return table


def _start(control: Control, log: Log, step: LoggedStep, handed_back: bool) -> None:
    """Start the run at a logged step, or resume it there; the policy plans at once if it was just handed back."""
    robot, lead, horizon = log.header.robot, log.header.plan_lead, log.header.spec.horizon
    subgoal, upcoming = _vector(step.subgoal), None
    if step.override and (step.age == 0 or step.override.lasts):
        # The operator's subgoal is used as it is; the policy makes its later plans again.
        resume = Resume(step.step, subgoal, step.age or horizon, None, step.override)
        control.start(robot, _goal(step), seed=log.header.seed, plan_lead=lead, resume=resume, rules=_RULES)
        return
    if handed_back:
        control.start(robot, _goal(step), seed=log.header.seed, plan_lead=lead, resume=Resume(step.step, NOTHING, 0))
        return
    # A plan made ahead is taken from the log, which may not hold the state it saw; a plan made at once is made again.
    at_once = step.age == 0 and (lead == 0 or step.step < horizon)
    age = 1 if at_once else step.age or horizon
    if age > horizon - lead:
        following = step.step + horizon - age
        # If the log lacks the step at which the plan takes effect, no logged step needs it.
        upcoming = next((_vector(later.subgoal) for later in log.steps if later.step == following), subgoal)
    resume = Resume(step.step, subgoal, age, upcoming) if step.step else None
    control.start(robot, _goal(step), seed=log.header.seed, plan_lead=lead, resume=resume, rules=_RULES)
    if resume and at_once:
        control.set_goal(robot, _goal(step))


def _follow(control: Control, log: Log, step: LoggedStep) -> None:
    """Start the run at a logged step, to follow its logged subgoal until another."""
    resume = Resume(step.step, _vector(step.subgoal), 1, lasts=len(log.steps) + log.steps[-1].step + 2)
    control.start(log.header.robot, _goal(step), seed=log.header.seed, resume=resume)


def _operator_changed(before: LoggedStep, step: LoggedStep) -> bool:
    """Whether an operator replaced the subgoal, by a pin, a veto or a release."""
    same_pin = before.override.lasts and step.override.lasts and before.subgoal == step.subgoal
    return step.age == 0 and bool(step.override) and not same_pin


def _goal_was_set(before: LoggedStep, step: LoggedStep, horizon: int) -> bool:
    """Whether the run replanned at a step because its goal was set, even if to the same one."""
    off_schedule = step.age == 0 and before.age + 1 < horizon
    return off_schedule or (before.goal, before.mask) != (step.goal, step.mask)


def _difference(
    steps: Sequence[LoggedStep],
    logged: Sequence[Sequence[float]],  # (T, dim)
    replayed: Sequence[np.ndarray],  # (T, dim)
    vector: VectorSpec,
) -> Difference:
    apart = np.abs(np.array(logged) - np.array(replayed, dtype=np.float64))
    row, dim = divmod(int(apart.argmax()), vector.dim)
    return Difference(float(apart[row, dim]), vector.names[dim], vector.units[dim], steps[row].step)


def _goal(step: LoggedStep) -> ResolvedGoal:
    return ResolvedGoal(_vector(step.goal), _vector(step.mask))


def _vector(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)
