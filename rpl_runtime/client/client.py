"""The client of a relay policy server.

    with Client("127.0.0.1:50051") as client, client.control() as control:
        control.start("arm", ["microwave", "kettle"], state)
        action = control.step("arm", 0, state)  # action.target goes to the robot
        control.finish("arm")

Refusals and gRPC statuses are raised as this project's errors. No call is retried here; reconnect.py continues runs
whose server is gone. A `Control` belongs to one thread; open one for each.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import grpc
import numpy as np

from rpl_runtime.auth.client import Access, Connection
from rpl_runtime.client.control import Control, Rows
from rpl_runtime.client.transport import Transport, open_call
from rpl_runtime.errors import ProtocolViolation, RelayError
from rpl_runtime.policy.bundle import Bundle, store_files
from rpl_runtime.relay import messages
from rpl_runtime.relay.run_state import TakeOver
from rpl_runtime.wire import bundles as describe
from rpl_runtime.wire import columns, levels
from rpl_runtime.wire import control as codec

_T = TypeVar("_T")


class Client(Connection):
    """A connection to one server.

    Args:
        address: HOST:PORT or unix:PATH.
        timeout_s: [s] how long an answer may take before the server counts as gone.
        digest: of the bundle that must answer; None: any.
        model: name of the model that must answer; None: the server's default.
        access: how the server is reached; None reads it from the environment (auth/client.py).

    Raises (every call):
        ServerUnavailable: no server answers in time.
        Unauthenticated, PermissionDenied: the token is missing, or lacks the right.
        LimitReached: the server has no room, or a quota is used up.
        ModelNotFound: the server has no such model.
        BundleError: the server has another bundle.
        RelayError: of the class that the server names.
    """

    def __init__(
        self,
        address: str,
        timeout_s: float = 5.0,
        digest: str | None = None,
        model: str | None = None,
        access: Access | None = None,
    ) -> None:
        super().__init__(address, access)
        self._timeout_s = timeout_s
        named = ((codec.DIGEST_KEY, digest), (codec.MODEL_KEY, model))
        self.metadata = *((key, value) for key, value in named if value is not None), *self.metadata
        self._methods = {name: self.channel.unary_unary(_path(name)) for name in ("Describe", "Plan", "Act")}
        self._transports: weakref.WeakSet[Transport] = weakref.WeakSet()  # of streams, which end with the connection

    def describe(self) -> messages.ModelInfo:
        """The served model."""
        return describe.unpack_model(self._call("Describe", b""))

    def fetch(self, folder: Path) -> Bundle:
        """Copy the server's bundle into a folder, verified, whole or not at all.

        Raises:
            BundleError: the folder holds something else, or the bundle is damaged.
        """
        files: dict[str, bytearray] = {}
        with self.translated(self._timeout_s):
            fetch = self.channel.unary_stream(_path("Fetch"))(b"", metadata=self.metadata)
            for raw in _each_in_time(fetch, fetch.cancel, self._timeout_s):
                name, chunk = describe.unpack_chunk(raw)
                files.setdefault(name, bytearray()).extend(chunk)
        return store_files(folder, {name: bytes(content) for name, content in files.items()})

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The high level once: state, goal, mask (B, n) and noise (B, high_noise) -> subgoal (B, n)."""
        return levels.unpack_subgoals(
            self._call("Plan", levels.pack_plan_request(state, goal, mask, noise)), batch=len(state)
        )

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The low level once: state, subgoal (B, n) and noise (B, low_noise) -> action (B, m)."""
        return levels.unpack_actions(
            self._call("Act", levels.pack_act_request(state, subgoal, noise)), batch=len(state)
        )

    def control(self) -> Control:
        """A stream on which robots run; a context manager."""
        model = self.describe()  # fails at once if no server answers, which a stream would not
        # Pinned to the bundle just described: another may take its name at any time.
        metadata = (
            *((key, value) for key, value in self.metadata if key != codec.DIGEST_KEY),
            (codec.DIGEST_KEY, model.digest),
        )
        transport = open_call(self.channel, _path("Control"), metadata, self._timeout_s)
        self._transports.add(transport)
        return Control(model, Stream(transport, self, model.spec.period_s, self._timeout_s, model.plan_s))

    def close(self) -> None:
        for transport in list(self._transports):
            transport.cancel()
        super().close()

    def _call(self, method: str, request: bytes) -> bytes:
        with self.translated(self._timeout_s):
            return self._methods[method](request, timeout=self._timeout_s, metadata=self.metadata)


def _each_in_time(messages: Iterator[bytes], cancel: Callable[[], object], timeout_s: float) -> Iterator[bytes]:
    """The messages of a call; one that takes longer than a time [s] ends it. gRPC's own limit is for all together."""
    while True:
        alarm = threading.Timer(timeout_s, cancel)
        alarm.start()
        try:
            message = next(messages)
        except StopIteration:
            return
        finally:
            alarm.cancel()
        yield message


class Stream:
    """A `Line` over one call. A fault closes it: replies could no longer be matched to requests.

    Args:
        transport: carries the bytes.
        connection: of the call.
        period_s: [s] one control period of the policy.
        timeout_s: [s] that an answer may take.
        plan_s: [s] that it may take beside, if it waits for a plan and the run names no deadline.
    """

    def __init__(
        self, transport: Transport, connection: Connection, period_s: float, timeout_s: float, plan_s: float = 0.0
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._period_ns = round(period_s * 1e9)
        self._timeout_s = timeout_s
        self._subgoals: dict[str, np.ndarray] = {}  # robot -> (n,) the subgoal it follows
        self._handles: dict[str, int] = {}  # of the robots that were started
        self._group: _Group | None = None  # of the last message in columns, if it was the last
        self._plan_s = plan_s
        self._waits_s = 0.0  # [s] that a step may wait for a plan

    def exchange(self, rows: Rows) -> list[messages.Reply]:
        """Send (robot, request) rows and return one reply for each: the matching kind, or a refusal.

        Raises:
            InvalidInput: a request cannot be sent; the stream stays open.
            ServerUnavailable: the server is gone.
            ProtocolViolation: the stream is closed, or the replies do not match the requests.
            RelayError: the server failed.
        """
        self._group = None
        plan_s = self._waits_s
        for _, request in rows:
            if isinstance(request, messages.Start) and self._plan_s:
                plan_s = max(plan_s, request.rules.deadline_s or self._plan_s)
                if request.rules.wait:
                    self._waits_s = plan_s
        return self._converse(codec.pack_request(rows), lambda raw: self._replies(rows, raw), plan_s)

    def step(self, robot: str, seen: messages.Observation) -> messages.Reply:
        """`exchange` of one observation, in half its time.

        Raises:
            As `exchange`.
        """
        self._group = None

        def unpacked(raw: bytes) -> messages.Reply:
            action = codec.unpack_step(raw, robot, self._subgoals.get(robot, messages.NOTHING))
            if action is None:
                return self._replies([(robot, seen)], raw)[0]
            self._accept(robot, seen, action)
            return action

        return self._converse(codec.pack_step(robot, seen), unpacked, self._waits_s)

    def step_columns(self, robots: list[str], seen: messages.Observations) -> messages.ActionBatch | None:
        """One step of each robot as columns; seen.handles is filled in here. None: a robot was not started here.

        Raises:
            As `exchange`.
        """
        group = self._group
        if group is None or group.robots != robots:
            handles = [self._handles.get(robot, 0) for robot in robots]
            if not all(handles):
                return None
            subgoals = np.zeros_like(seen.states)
            for row, robot in enumerate(robots):
                if len(followed := self._subgoals[robot]):  # empty before the first step
                    subgoals[row] = followed
            group = self._group = _Group(robots, np.array(handles, np.uint32), subgoals)
        seen = seen._replace(handles=group.handles)
        return self._converse(columns.pack_columns(seen), lambda raw: self._batch(group, seen, raw), self._waits_s)

    def _converse(self, request: bytes, read: Callable[[bytes], _T], plan_s: float) -> _T:
        """What is read from the reply to a message, which may wait for plans [s]; any fault closes the stream."""
        try:
            raw = self._transport.exchange(request, plan_s)
            if raw is None:
                raise ProtocolViolation("this control stream is closed; open another")
            return read(raw)
        except grpc.RpcError as error:
            self._transport.cancel()
            raise self._connection.translate(error, self._timeout_s) from None
        except BaseException:
            self._transport.cancel()  # or a late reply would be taken for the next step's
            raise

    def close(self) -> None:
        """End the stream and free its robots; returns when the server has ended it."""
        self._transport.close()

    def _replies(self, rows: Rows, raw: bytes) -> list[messages.Reply]:
        replies = codec.unpack_reply(raw)
        if [robot for robot, _ in replies] != [robot for robot, _ in rows]:
            raise ProtocolViolation(f"the server answered {len(rows)} rows with {len(replies)} that do not match")
        return [
            self._checked(robot, request, reply) for (robot, request), (_, reply) in zip(rows, replies, strict=True)
        ]

    def _accept(self, robot: str, seen: messages.Observation, action: messages.Action) -> None:
        """Note the subgoal that a robot follows from an action on.

        Raises:
            ProtocolViolation: the action answers another observation.
        """
        if action.valid_until_ns != messages.valid_until_ns(seen.observed_ns, self._period_ns):
            raise ProtocolViolation(f"the server answered step {seen.step} with the action of another step")
        if action.replanned:
            self._subgoals[robot] = action.subgoal

    def _batch(self, group: "_Group", seen: messages.Observations, raw: bytes) -> messages.ActionBatch:
        actions, replies, times = columns.unpack_columns_reply(raw, seen.states.shape[1])
        count, apart = len(group.robots), actions.apart
        answered = np.ones(count, dtype=bool)
        if len(apart) and apart.max() < count:
            answered[apart] = False
        new = actions.ages == 0
        scores = actions.ages if actions.novelty is None else actions.novelty
        sizes = len(actions.ages), len(scores), len(actions.subgoals), len(replies)
        if sizes != (np.count_nonzero(answered),) * 2 + (np.count_nonzero(new), len(apart)):
            raise ProtocolViolation(f"the server answered {count} steps with {len(actions.targets)} that do not match")
        if len(actions.ages) and actions.valid_until_ns != messages.valid_until_ns(seen.observed_ns, self._period_ns):
            raise ProtocolViolation("the server answered a step with the actions of another step")
        others: dict[int, messages.Reply] = {}
        if new.any() or len(apart):
            group.subgoals = group.subgoals.copy()  # earlier batches keep theirs
            rows = np.flatnonzero(answered)[new]
            group.subgoals[rows] = actions.subgoals
            self._subgoals.update((group.robots[row], group.subgoals[row]) for row in rows.tolist())
            for row, reply in zip(apart.tolist(), replies, strict=True):
                asked = messages.Observation(int(seen.steps[row]), seen.states[row], seen.observed_ns)
                others[row] = checked = self._checked(group.robots[row], asked, reply)
                if isinstance(checked, messages.Action):
                    group.subgoals[row] = checked.subgoal
        return messages.ActionBatch(actions, group.subgoals, answered, others, times)

    def _checked(self, robot: str, request: messages.Request, reply: messages.Reply) -> messages.Reply:
        """A reply that answers the request, with the subgoal filled in."""
        if isinstance(reply, RelayError):
            return reply
        expected = _ANSWERS[type(request)]
        if not isinstance(reply, expected):
            raise ProtocolViolation(f"the server answered with {type(reply).__name__}; must be {expected.__name__}")
        if isinstance(request, messages.Start):
            before = messages.NOTHING if request.resume is None else request.resume.subgoal
            self._subgoals[robot] = np.asarray(before, dtype=np.float32)
            self._handles[robot] = cast(messages.Started, reply).handle
        if isinstance(request, messages.Applied) and cast(messages.Noted, reply).step != request.step:
            raise ProtocolViolation(f"the server answered step {request.step} by hand with another step")
        if isinstance(request, messages.Observation) and isinstance(reply, messages.Action):
            self._accept(robot, request, reply)
            if not reply.replanned:
                # `_replace` takes twice as long.
                return messages.Action(reply.target, self._subgoals.get(robot, messages.NOTHING), *reply[2:])
        return reply


@dataclass
class _Group:
    """The robots of a message in columns, kept for the next one."""

    robots: list[str]
    handles: np.ndarray  # (B,) uint32
    subgoals: np.ndarray  # (B, n) that they follow


_ANSWERS = {
    messages.Start: messages.Started,
    messages.Observation: messages.Action,
    messages.SetGoal: messages.GoalSet,
    TakeOver: messages.TakenOver,
    messages.Applied: messages.Noted,
    messages.HandBack: messages.HandedBack,
    messages.Finish: messages.Finished,
}


def _path(method: str) -> str:
    return f"/{codec.SERVICE}/{method}"
