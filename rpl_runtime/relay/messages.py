"""What a robot and a server say to each other, as Python values.

In: nothing. Out: one named tuple for each message of a Control stream, and what `Describe` tells. It knows neither
protobuf nor gRPC: codec.py turns these into bytes and back.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rpl_runtime.errors import RelayError
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.loop import Resume, SubgoalOverride

# Element names, a whole goal state (n,), or a goal that was resolved before.
Goal = Sequence[str] | np.ndarray | ResolvedGoal

NOTHING = np.empty(0, dtype=np.float32)  # a vector that was not sent
_LAST_NS = 2**63 - 1  # what a time on the wire can hold


def valid_until_ns(observed_ns: int, period_ns: int) -> int:
    """[ns] until when the action that answers an observation may be applied: one period [ns] after it was made.

    It stands in the clock of the observation, and so tells which observation an action answers.
    """
    until = observed_ns + period_ns
    return until if until <= _LAST_NS else _LAST_NS  # `min` takes three times as long


class Start(NamedTuple):
    goal: Goal
    state: np.ndarray = NOTHING  # (n,) measured state, needed for a goal of element names
    seed: int | None = None  # None: the mode
    plan_lead: int = 0  # [steps]
    resume: Resume | None = None


class Observation(NamedTuple):
    step: int
    state: np.ndarray  # (n,)
    observed_ns: int  # [ns] in the client's monotonic clock


class SetGoal(NamedTuple):
    goal: Goal
    state: np.ndarray = NOTHING  # (n,) measured state, needed for a goal of element names


class Finish(NamedTuple):
    pass


class Started(NamedTuple):
    goal: ResolvedGoal
    digest: str  # of the bundle that runs
    period_s: float  # [s]
    horizon: int  # [steps]


class StageTimes(NamedTuple):
    """What one message cost the server."""

    decode_us: float  # [us]
    plan_us: float  # [us] 0 where nothing was planned
    act_us: float  # [us]
    total_us: float  # [us] decoding included, encoding of the reply not


class Action(NamedTuple):
    target: np.ndarray  # (m,) to be held for one period
    subgoal: np.ndarray  # (n,) the subgoal followed; on the wire only where it is new, the client fills it in
    age: int  # [steps] since the subgoal took effect
    replanned: bool  # whether the subgoal is new at this step
    valid_until_ns: int  # [ns] in the client's monotonic clock
    upcoming: np.ndarray | None = None  # (n,) the next subgoal, where it was planned at this step
    times: StageTimes | None = None  # of the message that brought it
    novelty: float | None = None  # of the state it answers; None: the bundle cannot say
    override: SubgoalOverride = SubgoalOverride.NONE  # what an operator has to do with the subgoal

    @property
    def flagged(self) -> bool:
        """Whether the state is far from what the policy was trained on."""
        return self.novelty is not None and self.novelty > FLAGGED


class GoalSet(NamedTuple):
    goal: ResolvedGoal


class Finished(NamedTuple):
    steps: int


Request = Start | Observation | SetGoal | Finish
Reply = Started | Action | GoalSet | Finished | RelayError  # an error is a refusal


class FileInfo(NamedTuple):
    size: int  # [bytes]
    sha256: str


class ModelInfo(NamedTuple):
    """What a server says of the policy it serves."""

    spec: PolicySpec
    digest: str  # identity of the bundle
    schema_version: int
    files: dict[str, FileInfo]
