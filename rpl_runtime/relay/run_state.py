"""The state of a robot's run: its step, its subgoal, who decides, and what an operator changed."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.policy.stall import Clock
from rpl_runtime.relay.plans import Coming, Origin, PlanRules, Source

POLICY = "policy"  # the author of a step that no pilot decided
AT_ONCE = Origin(Source.BUNDLE)  # of a plan that the policy's high level made in the step


class SubgoalOverride(IntEnum):
    """How an operator changed the subgoal of a step; the numbers are those on the wire."""

    NONE = 0  # not changed: the high level planned it
    PINNED = 1  # the operator's own subgoal, kept until it is released
    VETOED = 2  # new at this step, because the operator vetoed the previous one; its plan has noise of its own
    RELEASED = 3  # new at this step, because the operator released a pinned one
    CLAIMED = 4  # kept as a pinned one is, because the client resumed its run with it and says that it was pinned

    @property
    def lasts(self) -> bool:
        """Whether the subgoal is kept until it is released."""
        return self in (SubgoalOverride.PINNED, SubgoalOverride.CLAIMED)


class TakeOver(NamedTuple):
    """A hand on the robot: until it is handed back, a pilot decides its targets, and the loop only counts its steps."""

    by: str  # name of the pilot
    why: str = ""  # one sentence for people


@dataclass(eq=False)
class Steering:
    """An operator's hand on a robot: each action holds the operator's target in place of the policy's."""

    by: str  # name of the operator
    key: str  # which the operator shows
    heard_ns: int  # [ns] when the operator was last heard
    target: np.ndarray | None = None  # (m,) of each step until another comes; None: the policy's at the next step


class Resume(NamedTuple):
    """Where a broken run goes on: everything the loop held about the robot."""

    step: int  # the next step to decide
    subgoal: np.ndarray  # (n,) of the step before; (0,): none, and the policy's next step plans
    age: int  # [steps] for which it has been followed, 1..H, more if a plan was late; 0 without one
    upcoming: np.ndarray | None = None  # (n,) the next subgoal, if plan_lead had it planned already
    # PINNED: the subgoal is kept, as CLAIMED. VETOED, RELEASED: why the next step must replan. None is told again as an
    # operator's: this is what a client says.
    override: SubgoalOverride = SubgoalOverride.NONE
    hand: TakeOver | None = None  # who has the robot in hand
    lasts: int = 0  # [steps] for which the subgoal is to be followed; 0: H


class Decision(NamedTuple):
    """What the loop decided, one row for each robot of the batch."""

    action: np.ndarray  # (B, m)
    subgoal: np.ndarray  # (B, n) the subgoal followed
    age: np.ndarray  # (B,) int, [steps] since it took effect
    upcoming: dict[int, np.ndarray]  # row -> (n,) next subgoal, for rows that planned ahead at this step and have it
    overrides: dict[int, SubgoalOverride]  # row -> how an operator changed its subgoal, for rows where one did
    origins: dict[int, Origin]  # row -> where its new subgoal came from, if the policy did not plan it at this step
    authors: dict[int, str]  # row -> the operator who decided its action

    @property
    def replanned(self) -> np.ndarray:
        """(B,) bool, whether the subgoal is new at this step."""
        return self.age == 0


class Standing(NamedTuple):
    """The state of a run."""

    step: int  # the next step to decide
    age: int  # [steps] of the subgoal at the last step, 0 before the first
    subgoal: np.ndarray | None  # (n,) followed at the last step, None before the first
    pinned: bool
    vetoes: int  # number of subgoals vetoed since the start
    goal: ResolvedGoal
    claimed: bool = False  # whether it is pinned by a client's word alone
    hand: TakeOver | Steering | None = None  # who has the robot in hand


@dataclass
class Run:
    """The state of one robot's run."""

    goal: ResolvedGoal
    seed: int | None  # None: the mode
    key: int  # of the robot's noise
    lead: int = 0  # [steps] plan_lead
    step: int = 0  # the next step to decide
    planned_at: int = 0  # the step at which the subgoal took effect
    subgoal: np.ndarray | None = None  # None: the next step must plan
    lasts: int = 0  # [steps] for which the subgoal is to be followed; 0: the horizon
    upcoming: ArrayLike | None = None  # planned ahead, perhaps still under way
    pin: np.ndarray | None = None  # (n,) replaces every plan
    override: SubgoalOverride = SubgoalOverride.NONE  # to report with the next step
    resumed: SubgoalOverride = SubgoalOverride.NONE  # of the next step, by the client's word: not reported
    vetoes: int = 0
    hand: TakeOver | Steering | None = None  # who decides the targets in place of the policy
    clock: Clock | None = None  # of the steps without progress; an operator's or a pilot's intervention starts another
    # (low_noise,) of the low level at a step, drawn ahead of it by whoever answers the run
    drawn: tuple[int, np.ndarray] | None = None
    # Of a run with a planner.
    rules: PlanRules = field(default_factory=PlanRules)
    asked: Coming | None = None  # the question under way
    asked_at: int = 0  # the step of the question
    wanted: int = 0  # the step from which its answer may take effect
    before: np.ndarray | None = None  # (n,) the old subgoal, followed until the new plan is there
    discarded: bool = False  # whether `before` is not to be followed any more
    held: bool = False  # whether the subgoal is the state in which the robot was left without a plan

    def follow(self, subgoal: np.ndarray, origin: Origin = AT_ONCE) -> None:
        """Follow a subgoal (n,) from this step on."""
        self.subgoal, self.planned_at, self.upcoming, self.before = subgoal, self.step, None, None
        self.lasts, self.held, self.discarded = origin.lasts, origin.source is Source.HOLD, False

    def replan(self) -> None:
        """Let the next step plan, and keep what the robot follows until there is a plan."""
        if self.subgoal is not None:
            self.before = self.subgoal
        self.subgoal = self.upcoming = self.clock = None
        self.lasts = 0
        self.drop()

    def drop(self) -> None:
        """Give up the question under way."""
        if self.asked is not None:
            self.asked.drop()
            self.asked = None

    def answered(self) -> bool:
        """Whether an answer is there that may take effect at the next step."""
        return self.asked is not None and self.step >= self.wanted and self.asked.settled
