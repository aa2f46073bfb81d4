from rpl_runtime._pb.rpl.v1 import relay_pb2 as _relay_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoggedGoal(_message.Message):
    __slots__ = ("step", "values", "mask")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    step: int
    values: _containers.RepeatedCompositeFieldContainer[Named]
    mask: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, step: _Optional[int] = ..., values: _Optional[_Iterable[_Union[Named, _Mapping]]] = ..., mask: _Optional[_Iterable[float]] = ...) -> None: ...

class LoggedState(_message.Message):
    __slots__ = ("step", "values")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    step: int
    values: _containers.RepeatedCompositeFieldContainer[Named]
    def __init__(self, step: _Optional[int] = ..., values: _Optional[_Iterable[_Union[Named, _Mapping]]] = ...) -> None: ...

class LoggedSubgoal(_message.Message):
    __slots__ = ("step", "values", "age", "override", "origin")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    step: int
    values: _containers.RepeatedCompositeFieldContainer[Named]
    age: int
    override: _relay_pb2.SubgoalOverride
    origin: _relay_pb2.Origin
    def __init__(self, step: _Optional[int] = ..., values: _Optional[_Iterable[_Union[Named, _Mapping]]] = ..., age: _Optional[int] = ..., override: _Optional[_Union[_relay_pb2.SubgoalOverride, str]] = ..., origin: _Optional[_Union[_relay_pb2.Origin, _Mapping]] = ...) -> None: ...

class LoggedAction(_message.Message):
    __slots__ = ("step", "target", "valid_until_ns", "done", "times", "novelty", "author", "help")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    step: int
    target: _containers.RepeatedCompositeFieldContainer[Named]
    valid_until_ns: int
    done: _containers.RepeatedScalarFieldContainer[str]
    times: _relay_pb2.StageTimes
    novelty: float
    author: str
    help: bool
    def __init__(self, step: _Optional[int] = ..., target: _Optional[_Iterable[_Union[Named, _Mapping]]] = ..., valid_until_ns: _Optional[int] = ..., done: _Optional[_Iterable[str]] = ..., times: _Optional[_Union[_relay_pb2.StageTimes, _Mapping]] = ..., novelty: _Optional[float] = ..., author: _Optional[str] = ..., help: _Optional[bool] = ...) -> None: ...

class LoggedEvent(_message.Message):
    __slots__ = ("kind", "text")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    text: str
    def __init__(self, kind: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Named(_message.Message):
    __slots__ = ("name", "unit", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    value: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
