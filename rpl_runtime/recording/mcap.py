"""A run as an MCAP file, which Foxglove and every other reader of MCAP opens: the channels of proto/rpl/v1/log.proto.

In: a path and what is known of a run before it starts, then its steps and events. Out: the file; and from a file the
run again, as plain numbers. It does not know threads, policies or where the steps come from.

A log is written where it stays, a second of motion at a time: what a killed process or a full disk leaves behind is
read up to there. It is never written over another.
"""

import contextlib
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from rpl_runtime import provenance
from rpl_runtime._pb.rpl.v1 import log_pb2 as pb
from rpl_runtime.errors import InvalidInput, RecordingError, require
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal, VectorSpec
from rpl_runtime.relay.loop import SubgoalOverride

if TYPE_CHECKING:
    from rpl_runtime.relay.run import Step

_CHANNELS = {
    "/goal": pb.LoggedGoal,
    "/state": pb.LoggedState,
    "/subgoal": pb.LoggedSubgoal,
    "/action": pb.LoggedAction,
    "/events": pb.LoggedEvent,
}
_RUN, _END = "rpl.v1.run", "rpl.v1.end"  # names of the metadata


class LogHeader(BaseModel):
    """What is known of a run before its first step."""

    model_config = ConfigDict(frozen=True)

    robot: str  # its id, which keys the sampling noise
    seed: int | None  # None: the mode
    plan_lead: int  # [steps]
    digest: str  # of the bundle that runs
    spec: PolicySpec
    command: str = Field(default_factory=provenance.command)
    commit: str = Field(default_factory=provenance.commit)
    versions: dict[str, str] = Field(
        default_factory=lambda: provenance.versions(["relay-policy", "numpy", "grpcio", "protobuf", "mcap"])
    )


class Event(NamedTuple):
    """Something that happened beside the steps."""

    kind: str  # one short name
    text: str  # one sentence


class LogWriter:
    """A log that is being written. Times are [ns] of the monotonic clock; the file holds them as Unix time.

    Args:
        path: of the file, which must not exist.
        header: what is known of the run.

    Raises:
        InvalidInput: something stands at the path.
        RecordingError (every call): the file cannot be written; it holds `kept` steps, and nothing more can be added.
        MissingExtra: mcap or mcap-protobuf-support is not installed.
    """

    def __init__(self, path: Path, header: LogHeader) -> None:
        mcap, schemas = require("mcap.writer", "record"), require("mcap_protobuf.schema", "record")
        self.kept = 0  # steps that are in the file whatever happens to this process
        self._path, self._header = path, header
        self._unix_ns = time.time_ns() - time.monotonic_ns()
        self._written = 0
        self._goal: ResolvedGoal | None = None
        self._file = _created(path)
        self._mcap = mcap.Writer(self._file)
        with self._translated():
            self._mcap.start()
            self._mcap.add_metadata(_RUN, _json_values(header.model_dump(mode="json")))
            self._channels = {
                topic: self._mcap.register_channel(topic, "protobuf", schemas.register_schema(self._mcap, message))
                for topic, message in _CHANNELS.items()
            }
            self._mcap.flush()

    def write_step(self, step: "Step", over_ns: int) -> None:
        """Add a step that was over at `over_ns`, and its goal where it is another than before."""
        period_s = self._header.spec.period_s
        observed_ns = step.action.valid_until_ns - round(period_s * 1e9)
        with self._translated():
            for topic, message in self._messages(step):
                self._write(topic, message, over_ns, observed_ns, step.step)
            self._written += 1
            if self._written % max(1, round(1 / period_s)) == 0:
                self._mcap.flush()
                self.kept = self._written

    def write_event(self, event: Event, at_ns: int) -> None:
        """Add an event."""
        with self._translated():
            self._write("/events", pb.LoggedEvent(kind=event.kind, text=event.text), at_ns, at_ns)

    def close(self, dropped: int) -> None:
        """Complete the file, with the number of steps that could not be added to it."""
        with self._translated():
            self._mcap.add_metadata(_END, _json_values({"steps": self._written, "dropped": dropped}))
            self._mcap.finish()
            self._file.close()
            self.kept = self._written

    def _messages(self, step: "Step") -> Iterator[tuple[str, Any]]:
        """What each channel holds of a step; the action comes last."""
        spec, action, number = self._header.spec, step.action, step.step
        if step.goal is not self._goal:
            self._goal = step.goal
            values, mask = _named(spec.state, step.goal.state.tolist()), step.goal.mask.tolist()
            yield "/goal", pb.LoggedGoal(step=number, values=values, mask=mask)
        yield "/state", pb.LoggedState(step=number, values=_named(spec.state, step.state.tolist()))
        subgoal = _named(spec.state, action.subgoal.tolist())
        yield (
            "/subgoal",
            pb.LoggedSubgoal(
                step=number, values=subgoal, age=action.age, override=f"SUBGOAL_OVERRIDE_{action.override.name}"
            ),
        )
        yield (
            "/action",
            pb.LoggedAction(
                step=number,
                target=_named(spec.action, action.target.tolist()),
                valid_until_ns=self._unix_ns + action.valid_until_ns,
                done=sorted(step.done),
                times=None if action.times is None else action.times._asdict(),
                novelty=action.novelty,
            ),
        )

    def _write(self, topic: str, message: Any, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
        self._mcap.add_message(
            self._channels[topic],
            log_time=self._unix_ns + log_ns,
            data=message.SerializeToString(),
            publish_time=self._unix_ns + publish_ns,
            sequence=sequence,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left in its buffer fails once more
                self._file.close()
            raise RecordingError(
                f"the log {self._path} ends early, but holds its first {self.kept} steps: {error.strerror or error}"
            ) from error


class LoggedStep(NamedTuple):
    """One step as a log holds it; the numbers are those of float32."""

    step: int
    goal: tuple[float, ...]  # (n,) goal state
    mask: tuple[float, ...]  # (n,) 1 where a dimension of the goal counts, 0 elsewhere
    state: tuple[float, ...]  # (n,) observed before
    subgoal: tuple[float, ...]  # (n,) the subgoal followed
    age: int  # [steps] since it took effect
    target: tuple[float, ...]  # (m,)
    novelty: float | None = None  # of the state; None: the bundle could not say
    override: SubgoalOverride = SubgoalOverride.NONE  # what an operator had to do with the subgoal


class Log(NamedTuple):
    """What a file holds of a run."""

    header: LogHeader
    steps: list[LoggedStep]  # at least one, in their order; those that were dropped are missing
    whole: bool  # False: the file was broken off, and so may be the run


def read_log(path: Path) -> Log:
    """The run in a file that a `LogWriter` wrote, up to where it was broken off.

    Raises:
        InvalidInput: the file is no such log, or holds no step.
        MissingExtra: mcap is not installed.
    """
    records = require("mcap.records", "record")
    header, steps, topics, whole = None, list[LoggedStep](), dict[int, str](), False
    latest: dict[str, Any] = {}  # topic -> its latest message
    for record in _records(path):
        match record:
            case records.Metadata(name=name, metadata=values) if name == _RUN:
                header = _header(path, values)
            case records.Channel():
                topics[record.id] = record.topic
            case records.Message() if header and (topic := topics[record.channel_id]) in _CHANNELS:
                latest[topic] = _CHANNELS[topic].FromString(record.data)
                if topic == "/action":  # the last of its step
                    steps.append(_step(latest))
            case records.Footer():
                whole = True
    if header is None:
        raise InvalidInput(f"{path} holds no run; must be a file that `rpl run --log` wrote")
    if not steps:
        raise InvalidInput(f"{path} holds no step: its run ended before one was kept")
    return Log(header, steps, whole)


def _records(path: Path) -> Iterator[Any]:
    """The records of an MCAP file in their order, up to the first that is not whole."""
    reader, errors = require("mcap.stream_reader", "record"), require("mcap.exceptions", "record")
    damage = errors.McapError, struct.error, ValueError, require("zstandard", "record").ZstdError
    with path.open("rb") as file:
        try:
            yield from reader.StreamReader(file, validate_crcs=True).records
        except errors.InvalidMagic:
            raise InvalidInput(f"{path} is no MCAP file; must be a file that `rpl run --log` wrote") from None
        except damage:
            return


def _created(path: Path) -> IO[bytes]:
    if path.exists():
        raise InvalidInput(f"{path} exists, and a log is not written over it; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
    except OSError as error:
        raise RecordingError(f"the log {path} cannot be begun: {error.strerror or error}") from error


def _step(latest: dict[str, Any]) -> LoggedStep:
    goal, state, subgoal, action = (latest[topic] for topic in ("/goal", "/state", "/subgoal", "/action"))
    return LoggedStep(
        step=action.step,
        goal=_values(goal.values),
        mask=tuple(goal.mask),
        state=_values(state.values),
        subgoal=_values(subgoal.values),
        age=subgoal.age,
        target=_values(action.target),
        novelty=action.novelty if action.HasField("novelty") else None,
        override=SubgoalOverride(subgoal.override),
    )


def _header(path: Path, values: dict[str, str]) -> LogHeader:
    try:
        return LogHeader.model_validate({key: json.loads(value) for key, value in values.items()})
    except ValueError as error:
        raise InvalidInput(f"{path} says of its run what this version cannot read: {error}") from error


def _json_values(values: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in values.items()}


def _named(vector: VectorSpec, values: Sequence[float]) -> list[pb.Named]:
    return [
        pb.Named(name=name, unit=unit, value=value)
        for name, unit, value in zip(vector.names, vector.units, values, strict=True)
    ]


def _values(named: Sequence[pb.Named]) -> tuple[float, ...]:
    return tuple(item.value for item in named)
