from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sighting(_message.Message):
    __slots__ = ("joints", "poses", "sent_ns")
    JOINTS_FIELD_NUMBER: _ClassVar[int]
    POSES_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    joints: _containers.RepeatedCompositeFieldContainer[SeenJoint]
    poses: _containers.RepeatedCompositeFieldContainer[SeenPose]
    sent_ns: int
    def __init__(self, joints: _Optional[_Iterable[_Union[SeenJoint, _Mapping]]] = ..., poses: _Optional[_Iterable[_Union[SeenPose, _Mapping]]] = ..., sent_ns: _Optional[int] = ...) -> None: ...

class SeenJoint(_message.Message):
    __slots__ = ("name", "position", "age_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    position: float
    age_ns: int
    def __init__(self, name: _Optional[str] = ..., position: _Optional[float] = ..., age_ns: _Optional[int] = ...) -> None: ...

class SeenPose(_message.Message):
    __slots__ = ("name", "position", "orientation", "age_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ORIENTATION_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    position: _containers.RepeatedScalarFieldContainer[float]
    orientation: _containers.RepeatedScalarFieldContainer[float]
    age_ns: int
    def __init__(self, name: _Optional[str] = ..., position: _Optional[_Iterable[float]] = ..., orientation: _Optional[_Iterable[float]] = ..., age_ns: _Optional[int] = ...) -> None: ...
