"""The log of a run as an MCAP file, which Foxglove and other readers open; proto/rpl/v1/log.proto has its channels.

A log is written in place, a second of motion at a time, so that a killed process or a full disk leaves a readable file.
It never replaces a file.
"""

import contextlib
import io
import itertools
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field

from rpl_runtime import provenance
from rpl_runtime._pb.rpl.v1 import log_pb2 as pb
from rpl_runtime._pb.rpl.v1 import relay_pb2
from rpl_runtime.console import count
from rpl_runtime.errors import InvalidInput, RecordingError, require
from rpl_runtime.files import JsonDict, read, translated
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal, VectorSpec
from rpl_runtime.recording.drawing import Drawing
from rpl_runtime.relay.plans import Origin, Source
from rpl_runtime.relay.run import Step
from rpl_runtime.relay.run_state import POLICY, SubgoalOverride
from rpl_runtime.tasks.scenery import Scenery

_CHANNELS = {
    "/goal": pb.LoggedGoal,
    "/state": pb.LoggedState,
    "/reading": pb.LoggedState,
    "/subgoal": pb.LoggedSubgoal,
    "/action": pb.LoggedAction,
    "/events": pb.LoggedEvent,
}
_KIND = "a file of `rpl run --log`"
_MOST_BYTES = 1 << 30  # of a log, as it is and unpacked
_RUN, _END = "rpl.v1.run", "rpl.v1.end"  # names of the metadata


class LogHeader(BaseModel):
    """What a log says about its run, known before the first step."""

    model_config = ConfigDict(frozen=True)

    robot: str  # its id, which keys the sampling noise
    seed: int | None = Field(ge=0, lt=2**63)  # None: the modes
    plan_lead: int = Field(ge=0, lt=2**31)  # [control steps]
    digest: str  # of the bundle
    spec: PolicySpec
    command: str = Field(default_factory=provenance.command)
    commit: str = Field(default_factory=provenance.commit)
    versions: dict[str, str] = Field(
        default_factory=lambda: provenance.versions(["relay-policy", "numpy", "grpcio", "protobuf", "mcap"])
    )


class Event(NamedTuple):
    """An event of a run: a short name and one sentence."""

    kind: str
    text: str


class LogWriter:
    """Writes a log. Times are [ns] of the monotonic clock; the file holds them as Unix time.

    Args:
        path: of the file, which must not exist.
        scenery: of the task, so that the log draws itself in Foxglove and Rerun; None: it holds numbers alone.

    Raises:
        InvalidInput: the path exists.
        RecordingError (every call): the file cannot be written; it holds `kept` control steps, and takes no more.
        MissingExtra: the `record` extra is not installed.
    """

    def __init__(self, path: Path, header: LogHeader, scenery: Scenery | None = None) -> None:
        mcap, schemas = require("mcap.writer", "record"), require("mcap_protobuf.schema", "record")
        self.kept = 0  # [control steps] in the file, even if this process is killed
        self._path, self._header = path, header
        self._unix_ns = time.time_ns() - time.monotonic_ns()
        self._written = 0
        self._goal: ResolvedGoal | None = None
        self._drawing = None if scenery is None else Drawing(scenery)
        channels = _CHANNELS | ({} if self._drawing is None else self._drawing.channels)
        if path.exists():
            raise InvalidInput(f"{path} exists, and a log never replaces a file; choose another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except OSError as error:
            raise RecordingError(f"the log {path} cannot be created: {error.strerror or error}") from error
        self._mcap = mcap.Writer(self._file)
        with self._translated():
            self._mcap.start()
            self._add_metadata(_RUN, header.model_dump(mode="json"))
            known = {kind: schemas.register_schema(self._mcap, kind) for kind in dict.fromkeys(channels.values())}
            self._channels = {
                topic: self._mcap.register_channel(topic, "protobuf", known[kind]) for topic, kind in channels.items()
            }
            self._mcap.flush()

    def write_step(self, step: Step, over_ns: int) -> None:
        """Add a step that ended at `over_ns`, and its goal if that changed."""
        period_s = self._header.spec.period_s
        observed_ns = step.action.valid_until_ns - round(period_s * 1e9)
        messages, action = self._messages(step), step.action
        if self._drawing is not None:
            drawn = self._drawing.step(step.state, action.subgoal, action.override, self._unix_ns + observed_ns)
            messages = itertools.chain(messages, drawn)
        with self._translated():
            for topic, message in messages:
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
        """Complete the file, and note the number of dropped control steps in it."""
        with self._translated():
            self._add_metadata(_END, {"steps": self._written, "dropped": dropped})
            self._mcap.finish()
            self._file.close()
            self.kept = self._written

    def _messages(self, step: Step) -> Iterator[tuple[str, Message]]:
        """The message of a step on each channel; the action comes last."""
        spec, action, number = self._header.spec, step.action, step.step
        if step.goal is not self._goal:
            self._goal = step.goal
            values = _named(spec.state, step.goal.state)
            yield "/goal", pb.LoggedGoal(step=number, values=values, mask=step.goal.mask.tolist())
        yield "/state", pb.LoggedState(step=number, values=_named(spec.state, step.state))
        if step.reading is not None:
            yield "/reading", pb.LoggedState(step=number, values=_named(spec.state, step.reading))
        subgoal, override = _named(spec.state, action.subgoal), f"SUBGOAL_OVERRIDE_{action.override.name}"
        about = {"age": action.age, "override": override}
        if action.origin is not None:
            about["origin"] = action.origin._asdict()
        yield "/subgoal", pb.LoggedSubgoal(step=number, values=subgoal, **about)
        logged = pb.LoggedAction(
            step=number,
            target=_named(spec.action, action.target),
            valid_until_ns=self._unix_ns + action.valid_until_ns,
            done=sorted(step.done),
            times=None if action.times is None else action.times._asdict(),
            novelty=action.novelty,
            author=step.author,
            help=action.help,
        )
        yield "/action", logged

    def _add_metadata(self, name: str, values: JsonDict) -> None:
        self._mcap.add_metadata(name, {key: json.dumps(value) for key, value in values.items()})

    def _write(self, topic: str, message: Message, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
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
            with contextlib.suppress(OSError):  # its buffer cannot be written either
                self._file.close()
            raise RecordingError(
                f"the log {self._path} ends early, after {count(self.kept, 'control step')}: {error.strerror or error}"
            ) from error


class LoggedStep(NamedTuple):
    """One step of a log; the numbers are float32."""

    step: int
    goal: tuple[float, ...]  # (n,) goal state
    mask: tuple[float, ...]  # (n,) 1 if a dimension of the goal counts, else 0
    state: tuple[float, ...]  # (n,) observed before
    subgoal: tuple[float, ...]  # (n,) followed
    age: int  # [control steps] since the subgoal took effect
    target: tuple[float, ...]  # (m,)
    novelty: float | None = None  # of the state; None: the bundle has no statistic for it
    override: SubgoalOverride = SubgoalOverride.NONE  # how an operator changed the subgoal
    author: str = POLICY  # who decided the target: the policy, or the name of a pilot
    origin: Origin | None = None  # of a new subgoal; None: the high level planned it as the run's plan_lead says
    help: bool = False  # whether the policy asked for help


class Log(NamedTuple):
    """The content of a log."""

    header: LogHeader
    steps: list[LoggedStep]  # at least one, in order, without the dropped ones
    whole: bool  # False: the file is incomplete, and the run may be, too


def read_log(path: Path) -> Log:
    """Read the log that a `LogWriter` wrote; of an incomplete file, its whole seconds.

    Raises:
        InvalidInput: the file is not such a log, or holds no step.
        MissingExtra: mcap is not installed.
    """
    with translated(path, InvalidInput, _KIND):
        log = _log(path, read(path, _MOST_BYTES))
    spec = log.header.spec
    for step in log.steps:
        for vector, values in ((spec.state, (step.goal, step.state, step.subgoal)), (spec.action, (step.target,))):
            for value in values:
                vector.check_finite(f"log {path}, step {step.step},", np.array(value))
        if len(step.mask) != spec.state.dim:
            raise InvalidInput(f"{path} has a goal mask of {len(step.mask)} numbers; must have {spec.state.dim}")
    if any(later.step <= step.step for step, later in itertools.pairwise(log.steps)):
        raise InvalidInput(f"{path} has control steps in another order than that of their numbers")
    return log


def _log(path: Path, content: bytes) -> Log:
    records = require("mcap.records", "record")
    header, steps, topics, whole = None, list[LoggedStep](), dict[int, str](), False
    latest: dict[str, Any] = {}  # topic -> its latest message, whose type depends on the topic
    for record in _records(path, content):
        match record:
            case records.Metadata(name=name, metadata=values) if name == _RUN:
                header = LogHeader.model_validate({key: json.loads(value) for key, value in values.items()})
            case records.Channel():
                topics[record.id] = record.topic
            case records.Message() if header and (topic := topics[record.channel_id]) in _CHANNELS:
                latest[topic] = _CHANNELS[topic].FromString(record.data)
                if topic == "/action":  # the last message of a step
                    goal, state, subgoal, action = (latest[t] for t in ("/goal", "/state", "/subgoal", "/action"))
                    step = LoggedStep(
                        step=action.step,
                        goal=_values(goal.values),
                        mask=tuple(goal.mask),
                        state=_values(state.values),
                        subgoal=_values(subgoal.values),
                        age=subgoal.age,
                        target=_values(action.target),
                        novelty=action.novelty if action.HasField("novelty") else None,
                        override=SubgoalOverride(subgoal.override),
                        author=action.author or POLICY,
                        help=action.help,
                        origin=_origin(subgoal.origin) if subgoal.HasField("origin") else None,
                    )
                    steps.append(step)
            case records.Footer():
                whole = True
    if header is None:
        raise InvalidInput(f"{path} holds no run; it must be {_KIND}")
    if not steps:
        raise InvalidInput(f"{path} holds no control step: its run ended before one was written")
    return Log(header, steps, whole)


def _records(path: Path, content: bytes) -> Iterator[object]:
    """The records of an MCAP file in order, up to the first incomplete one."""
    reader, errors = require("mcap.stream_reader", "record"), require("mcap.exceptions", "record")
    zstandard, chunk = require("zstandard", "record"), require("mcap.records", "record").Chunk
    damage = errors.McapError, struct.error, ValueError, zstandard.ZstdError
    room = _MOST_BYTES
    try:
        for record in reader.StreamReader(io.BytesIO(content), emit_chunks=True, validate_crcs=True).records:
            if not isinstance(record, chunk):
                yield record
                continue
            # Zstandard allocates what a frame says it holds.
            sizes = {record.uncompressed_size}
            if record.compression == "zstd":
                sizes.add(zstandard.frame_content_size(record.data))
            elif record.compression:
                raise InvalidInput(f"{path} is compressed with {record.compression[:20]!r}; must be {_KIND}")
            room -= max(sizes)
            if len(sizes) > 1 or room < 0:
                raise InvalidInput(
                    f"{path} unpacks to another size than it says, or to more than {_MOST_BYTES:,} bytes"
                )
            yield from reader.breakup_chunk(record, validate_crc=True)
    except errors.InvalidMagic:
        raise InvalidInput(f"{path} is not an MCAP file; it must be {_KIND}") from None
    except damage:
        return


def _named(vector: VectorSpec, values: np.ndarray) -> list[pb.Named]:
    columns = zip(vector.names, vector.units, values.tolist(), strict=True)
    return [pb.Named(name=name, unit=unit, value=value) for name, unit, value in columns]


def _origin(origin: relay_pb2.Origin) -> Origin:
    confidence = origin.confidence if origin.HasField("confidence") else None
    return Origin(Source(origin.source), origin.waited, origin.lasts, confidence)


def _values(named: Sequence[pb.Named]) -> tuple[float, ...]:
    return tuple(item.value for item in named)
