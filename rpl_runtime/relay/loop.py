"""The relay loop: a new subgoal every H steps (the horizon) and an action every step, for a batch of robots.

`RelayLoop.step` decides one step of each robot of the batch; each robot is at a step of its own. The loop runs any
policy with `plan` and `act`: the served graphs, and the torch modules in training. If a planner in another process sets
the subgoals (plans.py), a robot follows its old subgoal until the planner has answered.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from rpl_runtime.errors import InvalidInput, PlannerLost, ProtocolViolation, RelayError, StepOutOfOrder
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.noise import NoiseSource, robot_key
from rpl_runtime.relay.plans import Coming, Fallback, Origin, PlannerPort, PlanRules, Question, Source
from rpl_runtime.relay.run_state import (
    AT_ONCE,
    POLICY,
    Decision,
    Resume,
    Run,
    Standing,
    Steering,
    SubgoalOverride,
    TakeOver,
)

_MOST_NAME, _MOST_REASON = 128, 1000  # [characters] of a pilot's name, and of the reason to take over


class Levels(Protocol):
    """Both levels of a policy over a batch of B rows, all arrays float32."""

    def plan(
        self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray
    ) -> np.ndarray | Sequence[ArrayLike]:
        """state, goal, mask (B, n) and noise (B, high_noise) -> subgoal (B, n).

        A row that is still being computed may be any object that numpy converts to an array: the loop converts it
        when the subgoal takes effect.
        """
        ...

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, subgoal (B, n) and noise (B, low_noise) -> action (B, m)."""
        ...


class RelayLoop:
    """Keeps step, goal and subgoal of each robot, and decides its action in a state.

    Args:
        levels: the policy.
        spec: its dimensions, horizon and accepted states.
        planner: plans in place of the policy's high level; robots move on while it does.
    """

    def __init__(self, levels: Levels, spec: PolicySpec, planner: PlannerPort | None = None) -> None:
        self._levels = levels
        self._spec = spec
        self.planner = planner
        self.runs: dict[str, Run] = {}
        self.version = 0  # of the runs; counted up at every change
        self.noise = NoiseSource()

    @property
    def robots(self) -> frozenset[str]:
        """The robots with a run."""
        return frozenset(self.runs)

    def standing(self, robot: str) -> Standing:
        """The state of a robot's run.

        Raises:
            ProtocolViolation: it has no run.
        """
        run = self._run(robot)
        age = 0 if run.subgoal is None else max(run.step - 1 - run.planned_at, 0)
        pinned = run.pin is not None
        claimed = run.override is SubgoalOverride.CLAIMED
        subgoal = run.pin if pinned else run.subgoal
        return Standing(run.step, age, subgoal, pinned, run.vetoes, run.goal, claimed, run.hand)

    def start(
        self,
        robot: str,
        goal: ResolvedGoal,
        seed: int | None = None,
        plan_lead: int = 0,
        resume: Resume | None = None,
        rules: PlanRules = PlanRules(),
        state: np.ndarray | None = None,
    ) -> None:
        """Begin a run at step 0, or at the step of `resume`. A seed samples both levels; None takes their modes.

        With plan_lead L, the plan for step t is made from the state of step t - L. The first plan, and the first after
        a change of goal, is made at once. A planner is asked for the first plan here if there is a state (n,) that the
        policy accepts, and at the first step otherwise.

        Raises:
            ProtocolViolation: the robot has a run already.
            InvalidInput: the seed or plan_lead is out of range, or the resume point is impossible.
        """
        if robot in self.runs:
            raise ProtocolViolation(f"robot {robot!r} has a run already; finish it before starting another")
        if seed is not None and not 0 <= seed < 2**64:
            raise InvalidInput(f"the seed is {seed}; must be 0 to 2**64 - 1")
        if not 0 <= plan_lead < self._spec.horizon:
            raise InvalidInput(f"plan_lead is {plan_lead}; must be 0 to {self._spec.horizon - 1}")
        if self.planner is not None:
            self.planner.check(rules)
        run = Run(goal, seed, robot_key(robot), plan_lead, rules=rules)
        if resume is not None:
            self._check_resume(resume, plan_lead)
            run.step = resume.step
            run.planned_at = resume.step - resume.age
            run.subgoal = np.asarray(resume.subgoal, dtype=np.float32) if len(resume.subgoal) else None
            run.lasts, run.hand = resume.lasts, resume.hand
            run.upcoming = None if resume.upcoming is None else np.asarray(resume.upcoming, dtype=np.float32)
            if resume.override.lasts:
                run.pin, run.override = run.subgoal, SubgoalOverride.CLAIMED
            elif resume.override:
                run.resumed, run.discarded = resume.override, resume.override is SubgoalOverride.VETOED
                run.replan()
        self.runs[robot] = run
        self.version += 1
        if self.planner is not None and resume is None and state is not None and self._spec.state.accepts(state[None]):
            self._ask(robot, run, state, 0)

    def awaited(
        self, robots: Sequence[str], steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray
    ) -> list[Coming]:
        """The planner's answers without which `step` cannot decide these rows; plans that are due are asked for first.

        Rows that `step` would refuse are left out.
        """
        found = []
        for robot, step, state in zip(robots, steps, states, strict=True):
            run = self.runs.get(robot)
            if self.planner is None or run is None or run.step != step or run.pin is not None:
                continue
            if run.asked is None and self._left(run) <= run.lead and self._spec.state.accepts(np.asarray(state)[None]):
                self._ask(robot, run, state, step)
            must = run.rules.wait or (run.subgoal is None and run.before is None)
            if run.asked is not None and must and step >= run.wanted and not run.asked.settled:
                found.append(run.asked)
        return found

    def first_plan(self, robot: str) -> Coming | None:
        """The first plan of a robot's run, if its planner was asked for it already."""
        return self._run(robot).asked

    def set_goal(self, robot: str, goal: ResolvedGoal) -> None:
        """Change a robot's goal; its next step replans at once.

        Raises:
            ProtocolViolation: the robot has no run.
        """
        run = self._run(robot)
        run.goal = goal
        self._replan(run)

    def pin(self, robot: str, subgoal: ArrayLike) -> None:
        """Make a robot follow a subgoal (n,) from its next step on, in place of every plan, until it is released.

        Raises:
            ProtocolViolation: the robot has no run.
            InvalidInput: the subgoal is not an accepted state.
        """
        run = self._run(robot)
        run.pin = self._spec.state.check("subgoal", np.asarray(subgoal, dtype=np.float32))
        run.override = SubgoalOverride.PINNED
        self._replan(run)

    def release(self, robot: str) -> None:
        """End a pin; the robot's next step replans at once.

        Raises:
            ProtocolViolation: the robot has no run, or its subgoal is not pinned.
        """
        run = self._run(robot)
        if run.pin is None:
            raise ProtocolViolation(f"the subgoal of robot {robot!r} is not pinned; only a pinned one can be released")
        run.pin, run.override = None, SubgoalOverride.RELEASED
        self._replan(run)

    def veto(self, robot: str) -> None:
        """Discard a robot's subgoal: its next step replans at once, with noise of its own.

        Raises:
            ProtocolViolation: the robot has no run, or its subgoal is pinned.
        """
        run = self._run(robot)
        if run.pin is not None:
            raise ProtocolViolation(f"the subgoal of robot {robot!r} is pinned; release it instead")
        run.override = SubgoalOverride.VETOED
        run.vetoes += 1
        run.discarded = True
        self._replan(run)

    def take_over(self, robot: str, hand: TakeOver) -> int:
        """Let a pilot decide a robot's targets in place of the policy. Returns the first step that the pilot decides.

        Raises:
            ProtocolViolation: the robot has no run, or is in hand already.
            InvalidInput: the pilot's name or reason is not acceptable.
        """
        run = self._run(robot)
        if isinstance(run.hand, TakeOver):  # an operator who steers gives way to a pilot, who is at the robot
            raise _taken(robot, run.hand)
        _check_hand(hand)
        run.hand = hand
        self.version += 1
        return run.step

    def steer(self, robot: str, steering: Steering) -> None:
        """Let an operator decide a robot's targets in place of the policy, which plans nothing meanwhile.

        Raises:
            ProtocolViolation: the robot has no run, or is in hand already.
            InvalidInput: the operator's name is not acceptable.
        """
        run = self._run(robot)
        if run.hand is not None:
            raise _taken(robot, run.hand)
        _check_hand(TakeOver(steering.by))
        run.hand = steering
        run.drop()
        self.version += 1

    def applied(self, robot: str, step: int, state: ArrayLike, target: ArrayLike) -> None:
        """Count a step of a robot in hand: a target (m,) that was commanded in a state (n,).

        Raises:
            ProtocolViolation: the robot has no run, or is not in hand.
            StepOutOfOrder: it is not the next step.
            InvalidInput: the state or the target is not accepted.
        """
        run = self._run(robot)
        if not isinstance(run.hand, TakeOver):
            raise ProtocolViolation(f"robot {robot!r} is not in hand; send a TakeOver before what was applied by hand")
        _check_order(robot, step, run)
        self._spec.state.check("state", np.asarray(state))
        self._spec.action.check("target", np.asarray(target))
        run.step += 1
        self.version += 1

    def hand_back(self, robot: str) -> int:
        """Let the policy decide again; the robot's next step, which is returned, replans at once.

        Raises:
            ProtocolViolation: the robot has no run, or is not in hand.
        """
        run = self._run(robot)
        if not isinstance(run.hand, TakeOver):
            raise ProtocolViolation(f"robot {robot!r} is not in hand; only a robot in hand can be handed back")
        self.let_go(robot)
        return run.step

    def let_go(self, robot: str) -> None:
        """Let the policy decide again, whoever has the robot; its next step replans at once."""
        run = self._run(robot)
        run.hand = None
        run.discarded = True  # the old subgoal was planned before the robot was moved elsewhere
        self._replan(run)

    def finish(self, robot: str) -> int:
        """End a robot's run. Returns the number of steps it has reached.

        Raises:
            ProtocolViolation: the robot has no run.
        """
        self._run(robot).drop()
        self.version += 1
        return self.runs.pop(robot).step

    def close(self) -> None:
        """Give up every question to the planner: no more steps are decided."""
        for run in self.runs.values():
            run.drop()

    def step(self, robots: Sequence[str], steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray) -> Decision:
        """Decide one step for each robot of the batch, states (B, n). Either all rows advance or none.

        Raises:
            RelayError: the first fault of the batch, as `faults` reports it, or a fault of the policy.
        """
        runs = [
            run
            for robot, step in zip(robots, steps, strict=True)
            if (run := self.runs.get(robot)) and run.step == step and not isinstance(run.hand, TakeOver)
        ]
        try:
            batch = np.asarray(states, dtype=np.float32)
        except ValueError:  # states of different sizes
            batch = np.empty(0)
        if not (len(runs) == len(robots) == len(set(robots)) and self._spec.state.accepts(batch)):
            # Only now is each row checked by itself, so that a sound batch costs one check.
            raise next(iter(self.faults(robots, steps, states).values()))

        origins, used = dict[int, Origin](), set[int]()
        if self.planner is None:
            new, ahead = self._next_subgoals(runs, batch)
        else:
            ahead, (new, origins, used) = {}, self._answers(robots, runs, batch)
        # np.stack would be many times slower for few rows.
        subgoals = np.array([new.get(row, run.subgoal) for row, run in enumerate(runs)])
        if new:
            _finite("subgoal", subgoals)
        noise = self.noise_rows("low", runs, steps, self._spec.low_noise)
        action = _finite("action", self._levels.act(batch, subgoals, noise))
        authors = {row: run.hand for row, run in enumerate(runs) if isinstance(run.hand, Steering)}
        if authors:
            action = action.copy()
        for row, steering in authors.items():
            if steering.target is None:
                steering.target = action[row].copy()
            action[row] = steering.target

        # No row can fail any more: only now do the runs take a step.
        for row in new:
            run = runs[row]
            run.follow(subgoals[row], origins.get(row, AT_ONCE))
            if row in used:
                run.asked = None
        for row, plan in ahead.items():
            runs[row].upcoming = plan
        ages = np.array([run.step - run.planned_at for run in runs])
        # With a planner, a veto or a release may change the subgoal at a later step.
        overrides = {
            row: run.override for row, run in enumerate(runs) if run.override and (run.override.lasts or row in new)
        }
        for row in overrides:
            if runs[row].pin is None:
                runs[row].override = SubgoalOverride.NONE
        self.version += 1
        for run in runs:
            run.step += 1
            run.resumed = SubgoalOverride.NONE
        upcoming = {row: plan for row, plan in ahead.items() if isinstance(plan, np.ndarray)}
        told = {row: origin for row, origin in origins.items() if origin != AT_ONCE}
        return Decision(action, subgoals, ages, upcoming, overrides, told, {row: a.by for row, a in authors.items()})

    def faults(
        self, robots: Sequence[str], steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray
    ) -> dict[int, RelayError]:
        """The rows of a batch that cannot be decided: row -> why. `step` accepts the batch if there are none."""
        found: dict[int, RelayError] = {}
        seen: set[str] = set()
        for row, (robot, step, state) in enumerate(zip(robots, steps, states, strict=True)):
            try:
                run = self._run(robot)
                if robot in seen:
                    raise StepOutOfOrder(f"robot {robot!r} appears twice in one message; must be one step at a time")
                if isinstance(run.hand, TakeOver):
                    raise ProtocolViolation(
                        f"robot {robot!r} is in the hand of {run.hand.by}; must send what was applied, or hand it back"
                    )
                _check_order(robot, step, run)
                self._spec.state.check("state", state)
                seen.add(robot)
            except RelayError as error:
                found[row] = error.as_reply()
        return found

    def _next_subgoals(self, runs: list[Run], states: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, ArrayLike]]:
        """The subgoals (n,) that take effect at this step, and the plans made ahead at this step, both by row."""
        new: dict[int, np.ndarray] = {}
        planning: dict[int, int] = {}  # row -> the step that its plan is for
        for row, run in enumerate(runs):
            left = self._left(run)
            if run.pin is not None:
                if left <= 0:
                    new[row] = run.pin
            elif left <= 0 and (run.subgoal is None or run.upcoming is None):
                planning[row] = run.step
            elif left <= 0:
                try:
                    new[row] = np.asarray(run.upcoming, dtype=np.float32)
                except RelayError:
                    run.upcoming = None  # the plan is lost: the next try makes another
                    raise
            elif left == run.lead:
                planning[row] = run.step + run.lead
        if not planning:
            return new, {}
        asking = [runs[row] for row in planning]
        goals = np.array([run.goal.state for run in asking])
        masks = np.array([run.goal.mask for run in asking])
        noise = self.noise_rows("high", asking, planning.values(), self._spec.high_noise)
        rows = states if len(asking) == len(runs) else states[list(planning)]
        plans = dict(zip(planning, self._levels.plan(rows, goals, masks, noise), strict=True))
        ahead = {row: plan for row, plan in plans.items() if planning[row] > runs[row].step}
        now = {row: np.asarray(plan, dtype=np.float32) for row, plan in plans.items() if row not in ahead}
        return new | now, ahead

    def _answers(
        self, robots: Sequence[str], runs: list[Run], states: np.ndarray
    ) -> tuple[dict[int, np.ndarray], dict[int, Origin], set[int]]:
        """The subgoals (n,) that take effect at this step and where each came from, by row; the rows with an answer.

        Raises:
            PlannerLost: a run without a plan must stop.
        """
        assert self.planner is not None
        new: dict[int, np.ndarray] = {}
        origins: dict[int, Origin] = {}
        used: set[int] = set()
        for row, (robot, run) in enumerate(zip(robots, runs, strict=True)):
            if run.pin is not None:
                if self._left(run) <= 0:
                    new[row] = run.pin
                continue
            if run.asked is None and self._left(run) <= run.lead:
                self._ask(robot, run, states[row], run.step)
            if run.answered() or (run.subgoal is None and run.before is None):
                found = self._answer(run, states[row])
                if found is not None:
                    new[row], origins[row] = found
                    used.add(row)
            elif run.subgoal is None and run.discarded:
                new[row], origins[row] = states[row], Origin(Source.HOLD, lasts=1)
            if run.subgoal is None and row not in new:
                run.subgoal, run.lasts = run.before, 1  # should the answer fail, the next step asks again
        return new, origins, used

    def _answer(self, run: Run, state: np.ndarray) -> tuple[np.ndarray, Origin] | None:
        """The subgoal (n,) from this step on, now that the planner has answered or failed; None: keep the old one."""
        assert self.planner is not None
        assert run.asked is not None
        try:
            plan = run.asked.result()
            return plan.subgoal, Origin(self.planner.source, run.step - run.asked_at, plan.lasts, plan.confidence)
        except PlannerLost as error:
            match self.planner.fallback(run.rules):
                case Fallback.HOLD if not run.held:
                    return state, Origin(Source.HOLD, lasts=1)
                case Fallback.BUNDLE:
                    goal, mask = run.goal.state[None], run.goal.mask[None]
                    noise = self.noise_rows("high", [run], [run.step], self._spec.high_noise)
                    [subgoal] = self._levels.plan(state[None], goal, mask, noise)
                    return np.asarray(subgoal, dtype=np.float32), Origin(Source.FALLBACK)
                case Fallback.KEEP | Fallback.HOLD if run.subgoal is not None or run.before is not None:
                    run.asked = None
                    return None
                case _:  # the question stays, so that every later step is refused too
                    raise error.as_reply() from None

    def ask_after(self, robot: str, step: int, state: np.ndarray) -> None:
        """Ask the planner for the plan that became due at a step in a state (n,); the old subgoal decided that step."""
        run = self.runs.get(robot)
        if run is not None and run.step == step + 1 and run.asked is None and run.pin is None and run.hand is None:
            self._ask(robot, run, state, step)

    def _ask(self, robot: str, run: Run, state: np.ndarray, step: int) -> None:
        assert self.planner is not None
        run.asked_at = step
        run.wanted = step + max(0, self._left(run) + run.step - step)
        [noise] = self.noise_rows("high", [run], [run.wanted], self._spec.high_noise)
        before = run.subgoal if run.subgoal is not None else run.before
        question = Question(robot, step, np.array(state, dtype=np.float32), run.goal, before, noise)
        run.asked = self.planner.ask(question, run.rules)
        self.version += 1

    def _left(self, run: Run) -> int:
        """[steps] for which the subgoal is still to be followed; less than 0 if its successor is late."""
        if isinstance(run.hand, Steering) and run.subgoal is not None:
            return self._spec.horizon  # until it is handed back
        return 0 if run.subgoal is None else (run.lasts or self._spec.horizon) - (run.step - run.planned_at)

    def noise_rows(
        self, level: Literal["high", "low"], runs: Sequence[Run], steps: Iterable[int], size: int
    ) -> np.ndarray:
        """The noise (B, size) of a level for B runs at their steps; zeros where a run takes its mode."""
        rows = np.zeros((len(runs), size), dtype=np.float32)
        for row, (run, step) in enumerate(zip(runs, steps, strict=True)):
            if level == "high" and SubgoalOverride.VETOED in (run.override, run.resumed):
                rows[row] = self.noise.draw(run.seed or 0, run.key, "veto", step, size)
            elif run.seed is not None:
                rows[row] = self.noise.draw(run.seed, run.key, level, step, size)
        return rows

    def _replan(self, run: Run) -> None:
        run.replan()
        self.version += 1

    def _run(self, robot: str) -> Run:
        try:
            return self.runs[robot]
        except KeyError:
            raise ProtocolViolation(f"robot {robot!r} has no run; send a Start first") from None

    def _check_resume(self, resume: Resume, lead: int) -> None:
        horizon = self._spec.horizon
        if resume.hand is not None:
            _check_hand(resume.hand)
        if not len(resume.subgoal):
            if resume.age or resume.upcoming is not None or resume.override.lasts:
                raise InvalidInput(
                    "a resume without a subgoal has an age, an upcoming subgoal or a pin; must have none"
                )
            return
        # A subgoal that is pinned or about to be replaced may have any age up to the horizon.
        oldest = max(horizon, resume.step) if resume.override else max(resume.step, min(1, resume.lasts))
        if not 1 <= resume.age <= oldest:
            raise InvalidInput(
                f"a resume at step {resume.step} names a subgoal {resume.age} steps old; must be 1 to {oldest}"
            )
        ahead = self.planner is None and horizon - lead < resume.age <= horizon  # planned ahead, and not late
        if not resume.override and lead and ahead and resume.upcoming is None:
            raise InvalidInput(
                f"a resume {resume.age} steps into a subgoal needs the upcoming subgoal too: with plan_lead "
                f"{lead} it is planned at step {horizon - lead}"
            )
        if not lead and resume.upcoming is not None:
            raise InvalidInput("a resume with an upcoming subgoal needs a plan_lead; with 0 nothing is planned ahead")
        check = self._spec.state.check if resume.override.lasts else self._spec.state.check_finite  # a pin is in range
        for subgoal in (resume.subgoal, resume.upcoming):
            if subgoal is not None:
                check("subgoal", subgoal)


def _check_order(robot: str, step: int, run: Run) -> None:
    if step != run.step:
        raise StepOutOfOrder(f"robot {robot!r} sent step {step}; the next one is {run.step}")


def _taken(robot: str, hand: TakeOver | Steering) -> ProtocolViolation:
    return ProtocolViolation(f"robot {robot!r} is in the hand of {hand.by} already; must be handed back first")


def _check_hand(hand: TakeOver) -> None:
    if not 1 <= len(hand.by) <= _MOST_NAME or not hand.by.isprintable() or hand.by == POLICY:
        raise InvalidInput(
            f"the pilot's name is {hand.by[:_MOST_NAME]!r}; must be 1 to {_MOST_NAME} printable characters and not "
            f"{POLICY!r}"
        )
    if len(hand.why) > _MOST_REASON or not hand.why.isprintable():
        raise InvalidInput(
            f"the reason of {hand.by} to take over is {hand.why[:40]!r}; must be at most {_MOST_REASON} printable "
            "characters"
        )


def _finite(what: str, values: np.ndarray) -> np.ndarray:
    if np.count_nonzero(np.isfinite(values)) < values.size:  # for a row, `all` takes twice as long
        raise RelayError(f"the policy returned a {what} that is not finite; the run cannot go on with it")
    return values
