"""The messages between a robot and a server as Python values; wire/ turns them into bytes and back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rpl_runtime.errors import RelayError
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.plans import Origin, PlanRules
from rpl_runtime.relay.run_state import Resume, SubgoalOverride, TakeOver

Goal = Sequence[str] | np.ndarray | ResolvedGoal  # element names, a whole goal state (n,), or a resolved goal

NOTHING = np.empty(0, dtype=np.float32)  # a vector that was not sent
_LAST_NS = 2**63 - 1  # largest time on the wire


def valid_until_ns(observed_ns: int, period_ns: int) -> int:
    """[ns] until when the action for an observation may be applied: one period [ns] after the observation.

    It is a time of the observation's clock, so it also identifies the observation that an action answers.
    """
    until = observed_ns + period_ns
    return until if until <= _LAST_NS else _LAST_NS  # `min` takes three times as long


class Start(NamedTuple):
    goal: Goal
    state: np.ndarray = NOTHING  # (n,) measured; only a goal of element names needs it
    seed: int | None = None  # None: the mode
    plan_lead: int = 0  # [steps]
    resume: Resume | None = None
    rules: PlanRules = PlanRules()


class Observation(NamedTuple):
    step: int
    state: np.ndarray  # (n,)
    observed_ns: int  # [ns] in the client's monotonic clock


class Observations(NamedTuple):
    """One step of each of B robots, each robot once."""

    handles: np.ndarray  # (B,) uint32, as Started named the runs
    steps: np.ndarray  # (B,) uint32
    states: np.ndarray  # (B, n)
    observed_ns: int  # [ns] in the client's monotonic clock


class SetGoal(NamedTuple):
    goal: Goal
    state: np.ndarray = NOTHING  # (n,) measured; only a goal of element names needs it


class Applied(NamedTuple):
    """One step of a robot in hand."""

    step: int
    state: np.ndarray  # (n,) before it
    target: np.ndarray  # (m,) that was commanded


class HandBack(NamedTuple):
    pass


class Finish(NamedTuple):
    pass


class Started(NamedTuple):
    goal: ResolvedGoal
    digest: str  # of the bundle that runs
    period_s: float  # [s]
    horizon: int  # [steps]
    handle: int = 0  # names the run in a stream's messages in columns, from 1


class StageTimes(NamedTuple):
    """The time a server took for one message."""

    decode_us: float  # [us]
    plan_us: float  # [us] 0 if nothing was planned
    act_us: float  # [us]
    total_us: float  # [us] without encoding the reply


class Action(NamedTuple):
    target: np.ndarray  # (m,) to hold for one period
    subgoal: np.ndarray  # (n,) the subgoal followed; sent only when it is new, otherwise the client fills it in
    age: int  # [steps] since the subgoal took effect
    replanned: bool  # whether the subgoal is new at this step
    valid_until_ns: int  # [ns] in the client's monotonic clock
    upcoming: np.ndarray | None = None  # (n,) the next subgoal, if it was planned at this step
    times: StageTimes | None = None  # of the message that the server answered
    novelty: float | None = None  # of the observed state; None: the bundle cannot score states
    override: SubgoalOverride = SubgoalOverride.NONE  # how an operator changed the subgoal
    goal: ResolvedGoal | None = None  # of the run from this step on, if an operator changed it
    help: bool = False  # whether the policy asks for help
    origin: Origin | None = None  # of a new subgoal; None: the bundle's high level planned it as the run's rules say
    author: str = ""  # the operator of the server who decided the target; empty: the policy

    @property
    def flagged(self) -> bool:
        """Whether the state is far from the training data."""
        return self.novelty is not None and self.novelty > FLAGGED


class Actions(NamedTuple):
    """The actions for `Observations`, without those of robots that are answered apart."""

    targets: np.ndarray  # (B, m) to hold for one period
    ages: np.ndarray  # (B,) uint32 [steps] since the subgoal took effect
    subgoals: np.ndarray  # (K, n) of the robots whose age is 0
    novelty: np.ndarray | None  # (B,) of the observed states; None: the bundle cannot score states
    valid_until_ns: int  # [ns] in the client's monotonic clock
    apart: np.ndarray  # positions, from 0, of the others among the observations
    help: np.ndarray  # rows, from 0, of the robots whose policy asks for help


class ActionBatch(Sequence["Action | RelayError"]):
    """The replies to `Observations`: an action for each robot, or its refusal, made when it is read."""

    def __init__(
        self,
        actions: Actions,
        subgoals: np.ndarray,
        answered: np.ndarray,
        others: dict[int, "Reply"],
        times: StageTimes,
    ) -> None:
        self.targets = actions.targets  # (K, m) of the robots whose action stands in the columns, in their order
        self._actions = actions
        self._subgoals = subgoals  # (B, n) that the robots follow
        self._answered = answered  # (B,) bool, whether a robot's action stands in the columns
        self._others = others  # the rest, by position
        self._times = times

    def __len__(self) -> int:
        return len(self._answered)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        row = range(len(self))[at]
        if row in self._others:
            return self._others[row]
        column, actions = int(np.count_nonzero(self._answered[:row])), self._actions
        age = int(actions.ages[column])
        novelty = None if actions.novelty is None else float(actions.novelty[column])
        target, until_ns = actions.targets[column], actions.valid_until_ns
        action = Action(target, self._subgoals[row], age, age == 0, until_ns, None, self._times, novelty)
        return action._replace(help=True) if column in actions.help else action


class GoalSet(NamedTuple):
    goal: ResolvedGoal


class TakenOver(NamedTuple):
    step: int  # the first one by hand


class Noted(NamedTuple):
    """The reply to `Applied`; its fields are as those of an action."""

    step: int
    novelty: float | None = None
    goal: ResolvedGoal | None = None
    help: bool = False


class HandedBack(NamedTuple):
    step: int  # the next one


class Finished(NamedTuple):
    steps: int


Request = Start | Observation | SetGoal | TakeOver | Applied | HandBack | Finish
Reply = Started | Action | GoalSet | TakenOver | Noted | HandedBack | Finished | RelayError  # an error is a refusal


class FileInfo(NamedTuple):
    size: int  # [bytes]
    sha256: str


class ModelInfo(NamedTuple):
    """The description of a served policy."""

    spec: PolicySpec
    digest: str  # identity of the bundle
    schema_version: int
    files: dict[str, FileInfo]
    plan_s: float = 0.0  # [s] that the start of a run may wait for its first plan; 0: plans are made within a step
