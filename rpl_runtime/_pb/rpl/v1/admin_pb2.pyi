from rpl_runtime._pb.rpl.v1 import relay_pb2 as _relay_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "digest", "robots", "is_default", "retired", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROBOTS_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    robots: int
    is_default: bool
    retired: bool
    path: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., robots: _Optional[int] = ..., is_default: _Optional[bool] = ..., retired: _Optional[bool] = ..., path: _Optional[str] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class LoadModelReply(_message.Message):
    __slots__ = ("model", "replaced")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    model: Model
    replaced: str
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., replaced: _Optional[str] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class UnloadModelReply(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListRobotsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRobotsReply(_message.Message):
    __slots__ = ("robots",)
    ROBOTS_FIELD_NUMBER: _ClassVar[int]
    robots: _containers.RepeatedCompositeFieldContainer[Robot]
    def __init__(self, robots: _Optional[_Iterable[_Union[Robot, _Mapping]]] = ...) -> None: ...

class Robot(_message.Message):
    __slots__ = ("robot", "model", "digest", "peer", "stream", "step", "age", "subgoal", "idle_s", "times", "pinned", "vetoes", "novelty", "claimed", "state", "goal", "hand", "help")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    VETOES_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    HAND_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    robot: str
    model: str
    digest: str
    peer: str
    stream: int
    step: int
    age: int
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    idle_s: float
    times: _relay_pb2.StageTimes
    pinned: bool
    vetoes: int
    novelty: float
    claimed: bool
    state: _containers.RepeatedScalarFieldContainer[float]
    goal: _relay_pb2.ResolvedGoal
    hand: str
    help: bool
    def __init__(self, robot: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., peer: _Optional[str] = ..., stream: _Optional[int] = ..., step: _Optional[int] = ..., age: _Optional[int] = ..., subgoal: _Optional[_Iterable[float]] = ..., idle_s: _Optional[float] = ..., times: _Optional[_Union[_relay_pb2.StageTimes, _Mapping]] = ..., pinned: _Optional[bool] = ..., vetoes: _Optional[int] = ..., novelty: _Optional[float] = ..., claimed: _Optional[bool] = ..., state: _Optional[_Iterable[float]] = ..., goal: _Optional[_Union[_relay_pb2.ResolvedGoal, _Mapping]] = ..., hand: _Optional[str] = ..., help: _Optional[bool] = ...) -> None: ...

class SetRobotGoalRequest(_message.Message):
    __slots__ = ("robot", "goal")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    robot: str
    goal: _relay_pb2.Goal
    def __init__(self, robot: _Optional[str] = ..., goal: _Optional[_Union[_relay_pb2.Goal, _Mapping]] = ...) -> None: ...

class SetRobotGoalReply(_message.Message):
    __slots__ = ("goal",)
    GOAL_FIELD_NUMBER: _ClassVar[int]
    goal: _relay_pb2.ResolvedGoal
    def __init__(self, goal: _Optional[_Union[_relay_pb2.ResolvedGoal, _Mapping]] = ...) -> None: ...

class PinSubgoalRequest(_message.Message):
    __slots__ = ("robot", "subgoal")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    SUBGOAL_FIELD_NUMBER: _ClassVar[int]
    robot: str
    subgoal: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, robot: _Optional[str] = ..., subgoal: _Optional[_Iterable[float]] = ...) -> None: ...

class PinSubgoalReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReleaseSubgoalRequest(_message.Message):
    __slots__ = ("robot",)
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    robot: str
    def __init__(self, robot: _Optional[str] = ...) -> None: ...

class ReleaseSubgoalReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VetoSubgoalRequest(_message.Message):
    __slots__ = ("robot",)
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    robot: str
    def __init__(self, robot: _Optional[str] = ...) -> None: ...

class VetoSubgoalReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TakeOverRobotRequest(_message.Message):
    __slots__ = ("robot", "by")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    robot: str
    by: str
    def __init__(self, robot: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class TakeOverRobotReply(_message.Message):
    __slots__ = ("hand",)
    HAND_FIELD_NUMBER: _ClassVar[int]
    hand: str
    def __init__(self, hand: _Optional[str] = ...) -> None: ...

class SteerRobotRequest(_message.Message):
    __slots__ = ("robot", "hand", "target")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    HAND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    robot: str
    hand: str
    target: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, robot: _Optional[str] = ..., hand: _Optional[str] = ..., target: _Optional[_Iterable[float]] = ...) -> None: ...

class SteerRobotReply(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, target: _Optional[_Iterable[float]] = ...) -> None: ...

class HandBackRobotRequest(_message.Message):
    __slots__ = ("robot", "hand")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    HAND_FIELD_NUMBER: _ClassVar[int]
    robot: str
    hand: str
    def __init__(self, robot: _Optional[str] = ..., hand: _Optional[str] = ...) -> None: ...

class HandBackRobotReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
