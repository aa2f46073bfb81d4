from rpl_runtime._pb.rpl.v1 import relay_pb2 as _relay_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ContractRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ContractReply(_message.Message):
    __slots__ = ("name", "state")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: _relay_pb2.VectorSpec
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[_relay_pb2.VectorSpec, _Mapping]] = ...) -> None: ...

class NextSubgoalRequest(_message.Message):
    __slots__ = ("robot", "step", "state", "goal", "before", "noise", "deadline_s")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    robot: str
    step: int
    state: _containers.RepeatedScalarFieldContainer[float]
    goal: _relay_pb2.ResolvedGoal
    before: _containers.RepeatedScalarFieldContainer[float]
    noise: _containers.RepeatedScalarFieldContainer[float]
    deadline_s: float
    def __init__(self, robot: _Optional[str] = ..., step: _Optional[int] = ..., state: _Optional[_Iterable[float]] = ..., goal: _Optional[_Union[_relay_pb2.ResolvedGoal, _Mapping]] = ..., before: _Optional[_Iterable[float]] = ..., noise: _Optional[_Iterable[float]] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class NextSubgoalReply(_message.Message):
    __slots__ = ("subgoal", "confidence", "lasts")
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LASTS_FIELD_NUMBER: _ClassVar[int]
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    confidence: float
    lasts: int
    def __init__(self, subgoal: _Optional[_Iterable[float]] = ..., confidence: _Optional[float] = ..., lasts: _Optional[int] = ...) -> None: ...
