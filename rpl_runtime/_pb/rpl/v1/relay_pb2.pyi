from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_SERVER: _ClassVar[Fallback]
    FALLBACK_KEEP: _ClassVar[Fallback]
    FALLBACK_HOLD: _ClassVar[Fallback]
    FALLBACK_BUNDLE: _ClassVar[Fallback]
    FALLBACK_STOP: _ClassVar[Fallback]

class SubgoalSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBGOAL_SOURCE_BUNDLE: _ClassVar[SubgoalSource]
    SUBGOAL_SOURCE_PLANNER: _ClassVar[SubgoalSource]
    SUBGOAL_SOURCE_HOLD: _ClassVar[SubgoalSource]
    SUBGOAL_SOURCE_FALLBACK: _ClassVar[SubgoalSource]

class SubgoalOverride(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBGOAL_OVERRIDE_NONE: _ClassVar[SubgoalOverride]
    SUBGOAL_OVERRIDE_PINNED: _ClassVar[SubgoalOverride]
    SUBGOAL_OVERRIDE_VETOED: _ClassVar[SubgoalOverride]
    SUBGOAL_OVERRIDE_RELEASED: _ClassVar[SubgoalOverride]
    SUBGOAL_OVERRIDE_CLAIMED: _ClassVar[SubgoalOverride]
FALLBACK_SERVER: Fallback
FALLBACK_KEEP: Fallback
FALLBACK_HOLD: Fallback
FALLBACK_BUNDLE: Fallback
FALLBACK_STOP: Fallback
SUBGOAL_SOURCE_BUNDLE: SubgoalSource
SUBGOAL_SOURCE_PLANNER: SubgoalSource
SUBGOAL_SOURCE_HOLD: SubgoalSource
SUBGOAL_SOURCE_FALLBACK: SubgoalSource
SUBGOAL_OVERRIDE_NONE: SubgoalOverride
SUBGOAL_OVERRIDE_PINNED: SubgoalOverride
SUBGOAL_OVERRIDE_VETOED: SubgoalOverride
SUBGOAL_OVERRIDE_RELEASED: SubgoalOverride
SUBGOAL_OVERRIDE_CLAIMED: SubgoalOverride

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("spec", "digest", "schema_version", "files", "plan_s")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PLAN_S_FIELD_NUMBER: _ClassVar[int]
    spec: ModelSpec
    digest: str
    schema_version: int
    files: _containers.RepeatedCompositeFieldContainer[BundleFile]
    plan_s: float
    def __init__(self, spec: _Optional[_Union[ModelSpec, _Mapping]] = ..., digest: _Optional[str] = ..., schema_version: _Optional[int] = ..., files: _Optional[_Iterable[_Union[BundleFile, _Mapping]]] = ..., plan_s: _Optional[float] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("name", "description", "state", "action", "horizon", "period_s", "high_noise", "low_noise", "elements", "library", "goal_dims")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    HIGH_NOISE_FIELD_NUMBER: _ClassVar[int]
    LOW_NOISE_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    GOAL_DIMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    state: VectorSpec
    action: VectorSpec
    horizon: int
    period_s: float
    high_noise: int
    low_noise: int
    elements: _containers.RepeatedCompositeFieldContainer[ElementSpec]
    library: _containers.RepeatedCompositeFieldContainer[CompoundGoal]
    goal_dims: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., state: _Optional[_Union[VectorSpec, _Mapping]] = ..., action: _Optional[_Union[VectorSpec, _Mapping]] = ..., horizon: _Optional[int] = ..., period_s: _Optional[float] = ..., high_noise: _Optional[int] = ..., low_noise: _Optional[int] = ..., elements: _Optional[_Iterable[_Union[ElementSpec, _Mapping]]] = ..., library: _Optional[_Iterable[_Union[CompoundGoal, _Mapping]]] = ..., goal_dims: _Optional[_Iterable[int]] = ...) -> None: ...

class VectorSpec(_message.Message):
    __slots__ = ("names", "units", "low", "high")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    units: _containers.RepeatedScalarFieldContainer[str]
    low: _containers.RepeatedScalarFieldContainer[float]
    high: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, names: _Optional[_Iterable[str]] = ..., units: _Optional[_Iterable[str]] = ..., low: _Optional[_Iterable[float]] = ..., high: _Optional[_Iterable[float]] = ...) -> None: ...

class ElementSpec(_message.Message):
    __slots__ = ("name", "dims", "goal", "tolerance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dims: _containers.RepeatedScalarFieldContainer[int]
    goal: _containers.RepeatedScalarFieldContainer[float]
    tolerance: float
    def __init__(self, name: _Optional[str] = ..., dims: _Optional[_Iterable[int]] = ..., goal: _Optional[_Iterable[float]] = ..., tolerance: _Optional[float] = ...) -> None: ...

class CompoundGoal(_message.Message):
    __slots__ = ("name", "elements")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    elements: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., elements: _Optional[_Iterable[str]] = ...) -> None: ...

class BundleFile(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: str
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("name", "chunk")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    name: str
    chunk: bytes
    def __init__(self, name: _Optional[str] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("batch", "state", "goal", "mask", "noise")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    batch: int
    state: _containers.RepeatedScalarFieldContainer[float]
    goal: _containers.RepeatedScalarFieldContainer[float]
    mask: _containers.RepeatedScalarFieldContainer[float]
    noise: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, batch: _Optional[int] = ..., state: _Optional[_Iterable[float]] = ..., goal: _Optional[_Iterable[float]] = ..., mask: _Optional[_Iterable[float]] = ..., noise: _Optional[_Iterable[float]] = ...) -> None: ...

class PlanReply(_message.Message):
    __slots__ = ("subgoal",)
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, subgoal: _Optional[_Iterable[float]] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("batch", "state", "subgoal", "noise")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    batch: int
    state: _containers.RepeatedScalarFieldContainer[float]
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    noise: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, batch: _Optional[int] = ..., state: _Optional[_Iterable[float]] = ..., subgoal: _Optional[_Iterable[float]] = ..., noise: _Optional[_Iterable[float]] = ...) -> None: ...

class ActReply(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, action: _Optional[_Iterable[float]] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("rows", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[RequestRow]
    columns: StepColumns
    def __init__(self, rows: _Optional[_Iterable[_Union[RequestRow, _Mapping]]] = ..., columns: _Optional[_Union[StepColumns, _Mapping]] = ...) -> None: ...

class StepColumns(_message.Message):
    __slots__ = ("handles", "steps", "states", "observed_ns")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_NS_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    states: _containers.RepeatedScalarFieldContainer[float]
    observed_ns: int
    def __init__(self, handles: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., states: _Optional[_Iterable[float]] = ..., observed_ns: _Optional[int] = ...) -> None: ...

class RequestRow(_message.Message):
    __slots__ = ("robot", "start", "observation", "set_goal", "finish", "take_over", "applied", "hand_back")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    SET_GOAL_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    HAND_BACK_FIELD_NUMBER: _ClassVar[int]
    robot: str
    start: Start
    observation: Observation
    set_goal: SetGoal
    finish: Finish
    take_over: TakeOver
    applied: Applied
    hand_back: HandBack
    def __init__(self, robot: _Optional[str] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ..., set_goal: _Optional[_Union[SetGoal, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., take_over: _Optional[_Union[TakeOver, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ..., hand_back: _Optional[_Union[HandBack, _Mapping]] = ...) -> None: ...

class ControlReply(_message.Message):
    __slots__ = ("rows", "times", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[ReplyRow]
    times: StageTimes
    columns: ActionColumns
    def __init__(self, rows: _Optional[_Iterable[_Union[ReplyRow, _Mapping]]] = ..., times: _Optional[_Union[StageTimes, _Mapping]] = ..., columns: _Optional[_Union[ActionColumns, _Mapping]] = ...) -> None: ...

class ActionColumns(_message.Message):
    __slots__ = ("targets", "ages", "subgoals", "novelty", "valid_until_ns", "apart", "help")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    AGES_FIELD_NUMBER: _ClassVar[int]
    SUBGOALS_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[float]
    ages: _containers.RepeatedScalarFieldContainer[int]
    subgoals: _containers.RepeatedScalarFieldContainer[float]
    novelty: _containers.RepeatedScalarFieldContainer[float]
    valid_until_ns: int
    apart: _containers.RepeatedScalarFieldContainer[int]
    help: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, targets: _Optional[_Iterable[float]] = ..., ages: _Optional[_Iterable[int]] = ..., subgoals: _Optional[_Iterable[float]] = ..., novelty: _Optional[_Iterable[float]] = ..., valid_until_ns: _Optional[int] = ..., apart: _Optional[_Iterable[int]] = ..., help: _Optional[_Iterable[int]] = ...) -> None: ...

class ReplyRow(_message.Message):
    __slots__ = ("robot", "started", "action", "goal_set", "finished", "refusal", "taken_over", "noted", "handed_back")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    GOAL_SET_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    TAKEN_OVER_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    robot: str
    started: Started
    action: Action
    goal_set: GoalSet
    finished: Finished
    refusal: Refusal
    taken_over: TakenOver
    noted: Noted
    handed_back: HandedBack
    def __init__(self, robot: _Optional[str] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., action: _Optional[_Union[Action, _Mapping]] = ..., goal_set: _Optional[_Union[GoalSet, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., taken_over: _Optional[_Union[TakenOver, _Mapping]] = ..., noted: _Optional[_Union[Noted, _Mapping]] = ..., handed_back: _Optional[_Union[HandedBack, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("goal", "state", "seed", "plan_lead", "resume", "plans")
    GOAL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PLAN_LEAD_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    goal: Goal
    state: _containers.RepeatedScalarFieldContainer[float]
    seed: int
    plan_lead: int
    resume: ResumePoint
    plans: PlanRules
    def __init__(self, goal: _Optional[_Union[Goal, _Mapping]] = ..., state: _Optional[_Iterable[float]] = ..., seed: _Optional[int] = ..., plan_lead: _Optional[int] = ..., resume: _Optional[_Union[ResumePoint, _Mapping]] = ..., plans: _Optional[_Union[PlanRules, _Mapping]] = ...) -> None: ...

class PlanRules(_message.Message):
    __slots__ = ("wait", "fallback", "deadline_s")
    WAIT_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    wait: bool
    fallback: Fallback
    deadline_s: float
    def __init__(self, wait: _Optional[bool] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class Goal(_message.Message):
    __slots__ = ("elements", "state", "resolved")
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    elements: ElementSet
    state: WholeState
    resolved: ResolvedGoal
    def __init__(self, elements: _Optional[_Union[ElementSet, _Mapping]] = ..., state: _Optional[_Union[WholeState, _Mapping]] = ..., resolved: _Optional[_Union[ResolvedGoal, _Mapping]] = ...) -> None: ...

class ElementSet(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class WholeState(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class ResolvedGoal(_message.Message):
    __slots__ = ("state", "mask")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    state: _containers.RepeatedScalarFieldContainer[float]
    mask: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, state: _Optional[_Iterable[float]] = ..., mask: _Optional[_Iterable[float]] = ...) -> None: ...

class ResumePoint(_message.Message):
    __slots__ = ("step", "subgoal", "age", "upcoming", "override", "lasts", "hand")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    UPCOMING_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    LASTS_FIELD_NUMBER: _ClassVar[int]
    HAND_FIELD_NUMBER: _ClassVar[int]
    step: int
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    age: int
    upcoming: _containers.RepeatedScalarFieldContainer[float]
    override: SubgoalOverride
    lasts: int
    hand: TakeOver
    def __init__(self, step: _Optional[int] = ..., subgoal: _Optional[_Iterable[float]] = ..., age: _Optional[int] = ..., upcoming: _Optional[_Iterable[float]] = ..., override: _Optional[_Union[SubgoalOverride, str]] = ..., lasts: _Optional[int] = ..., hand: _Optional[_Union[TakeOver, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("goal", "digest", "period_s", "horizon", "handle")
    GOAL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    goal: ResolvedGoal
    digest: str
    period_s: float
    horizon: int
    handle: int
    def __init__(self, goal: _Optional[_Union[ResolvedGoal, _Mapping]] = ..., digest: _Optional[str] = ..., period_s: _Optional[float] = ..., horizon: _Optional[int] = ..., handle: _Optional[int] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("step", "state", "observed_ns")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_NS_FIELD_NUMBER: _ClassVar[int]
    step: int
    state: _containers.RepeatedScalarFieldContainer[float]
    observed_ns: int
    def __init__(self, step: _Optional[int] = ..., state: _Optional[_Iterable[float]] = ..., observed_ns: _Optional[int] = ...) -> None: ...

class Action(_message.Message):
    __slots__ = ("target", "subgoal", "replanned", "age", "upcoming", "valid_until_ns", "novelty", "override", "goal", "origin", "help", "author")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    REPLANNED_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    UPCOMING_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    target: _containers.RepeatedScalarFieldContainer[float]
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    replanned: bool
    age: int
    upcoming: _containers.RepeatedScalarFieldContainer[float]
    valid_until_ns: int
    novelty: float
    override: SubgoalOverride
    goal: ResolvedGoal
    origin: Origin
    help: bool
    author: str
    def __init__(self, target: _Optional[_Iterable[float]] = ..., subgoal: _Optional[_Iterable[float]] = ..., replanned: _Optional[bool] = ..., age: _Optional[int] = ..., upcoming: _Optional[_Iterable[float]] = ..., valid_until_ns: _Optional[int] = ..., novelty: _Optional[float] = ..., override: _Optional[_Union[SubgoalOverride, str]] = ..., goal: _Optional[_Union[ResolvedGoal, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., help: _Optional[bool] = ..., author: _Optional[str] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("source", "waited", "lasts", "confidence")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WAITED_FIELD_NUMBER: _ClassVar[int]
    LASTS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    source: SubgoalSource
    waited: int
    lasts: int
    confidence: float
    def __init__(self, source: _Optional[_Union[SubgoalSource, str]] = ..., waited: _Optional[int] = ..., lasts: _Optional[int] = ..., confidence: _Optional[float] = ...) -> None: ...

class SetGoal(_message.Message):
    __slots__ = ("goal", "state")
    GOAL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    goal: Goal
    state: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, goal: _Optional[_Union[Goal, _Mapping]] = ..., state: _Optional[_Iterable[float]] = ...) -> None: ...

class GoalSet(_message.Message):
    __slots__ = ("goal",)
    GOAL_FIELD_NUMBER: _ClassVar[int]
    goal: ResolvedGoal
    def __init__(self, goal: _Optional[_Union[ResolvedGoal, _Mapping]] = ...) -> None: ...

class TakeOver(_message.Message):
    __slots__ = ("by", "why")
    BY_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    by: str
    why: str
    def __init__(self, by: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class TakenOver(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("step", "state", "target")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    step: int
    state: _containers.RepeatedScalarFieldContainer[float]
    target: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, step: _Optional[int] = ..., state: _Optional[_Iterable[float]] = ..., target: _Optional[_Iterable[float]] = ...) -> None: ...

class Noted(_message.Message):
    __slots__ = ("step", "novelty", "goal", "help")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    step: int
    novelty: float
    goal: ResolvedGoal
    help: bool
    def __init__(self, step: _Optional[int] = ..., novelty: _Optional[float] = ..., goal: _Optional[_Union[ResolvedGoal, _Mapping]] = ..., help: _Optional[bool] = ...) -> None: ...

class HandBack(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HandedBack(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Finished(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    def __init__(self, steps: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("decode_us", "plan_us", "act_us", "total_us")
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    PLAN_US_FIELD_NUMBER: _ClassVar[int]
    ACT_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    decode_us: float
    plan_us: float
    act_us: float
    total_us: float
    def __init__(self, decode_us: _Optional[float] = ..., plan_us: _Optional[float] = ..., act_us: _Optional[float] = ..., total_us: _Optional[float] = ...) -> None: ...
