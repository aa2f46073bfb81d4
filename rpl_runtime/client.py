"""The client of a relay policy server: plain calls and arrays, errors of this project.

In: an address, then states and goals. Out: plans, actions, and the steps of whole runs. It does not know robots;
bytes and values are codec.py's business.

    with Client("127.0.0.1:50051") as client, client.control() as control:
        control.start("arm", ["microwave", "kettle"], state)
        action = control.step("arm", 0, state)  # action.target goes to the robot
        control.finish("arm")

Refusals and statuses come back as the matching exception. No call is retried: a command for a robot is worth
sending once. A `Control` belongs to one thread; open one for each.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import numpy as np

from rpl_runtime import codec, describe
from rpl_runtime.bundle import Bundle, store_files
from rpl_runtime.errors import InvalidGoal, InvalidInput, ProtocolViolation, RelayError, ServerUnavailable, error_named
from rpl_runtime.messages import (
    NOTHING,
    Action,
    FileInfo,
    Finish,
    Finished,
    Goal,
    GoalSet,
    ModelInfo,
    Observation,
    Reply,
    Request,
    SetGoal,
    StageTimes,
    Start,
    Started,
)
from rpl_runtime.relay import Resume
from rpl_runtime.spec import ResolvedGoal

__all__ = ["Action", "Client", "Control", "FileInfo", "Goal", "ModelInfo", "Resume", "StageTimes", "Started"]

_FETCH_TIMEOUT_S = 300.0

_Reply = TypeVar("_Reply", Started, GoalSet, Finished)


class Client:
    """A connection to one server.

    Args:
        address: HOST:PORT.
        timeout_s: [s] how long an answer may take before the server counts as gone.

    Raises (every call):
        ServerUnavailable: nobody answers, or not in time.
        RelayError: of the class that the server names.
    """

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self.address = address
        self._timeout_s = timeout_s
        # A robot talks to its server directly, whatever proxy the environment names for the web.
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and every stream on it."""
        self._channel.close()

    def describe(self) -> ModelInfo:
        """What the server serves."""
        return describe.unpack_model(self._call("Describe", b""))

    def fetch(self, folder: Path) -> Bundle:
        """Copy the server's bundle into a folder, checked, whole or not at all.

        Raises:
            BundleError: something else stands at the folder, or what came is no sound bundle.
        """
        files: dict[str, bytearray] = {}
        with _translated(self.address, _FETCH_TIMEOUT_S):
            for raw in self._channel.unary_stream(_path("Fetch"))(b"", timeout=_FETCH_TIMEOUT_S):
                name, chunk = describe.unpack_chunk(raw)
                files.setdefault(name, bytearray()).extend(chunk)
        return store_files(folder, {name: bytes(content) for name, content in files.items()})

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The high level once: state, goal, mask (B, n) and noise (B, high_noise) -> subgoal (B, n)."""
        return codec.unpack_subgoals(
            self._call("Plan", codec.pack_plan_request(state, goal, mask, noise)), batch=len(state)
        )

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The low level once: state, subgoal (B, n) and noise (B, low_noise) -> action (B, m)."""
        return codec.unpack_actions(self._call("Act", codec.pack_act_request(state, subgoal, noise)), batch=len(state))

    def control(self) -> "Control":
        """A stream on which robots run; a context manager."""
        model = self.describe()  # fails at once where nobody answers, which a stream would not
        return Control(self._channel, self.address, self._timeout_s, model)

    def _call(self, method: str, request: bytes) -> bytes:
        with _translated(self.address, self._timeout_s):
            return self._channel.unary_unary(_path(method))(request, timeout=self._timeout_s)


class Control:
    """Runs of robots on one stream; leaving the block ends the stream and frees them. Not for several threads."""

    def __init__(self, channel: grpc.Channel, address: str, timeout_s: float, model: ModelInfo) -> None:
        self.model = model
        self._address = address
        self._timeout_s = timeout_s
        self._subgoals: dict[str, np.ndarray] = {}  # robot -> (n,) the subgoal it follows
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._deadline = float("inf")  # [s] monotonic; while an answer is awaited
        self._stream: Any = channel.stream_stream(_path("Control"))(self._outgoing())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        robot: str,
        goal: Goal,
        state: np.ndarray = NOTHING,
        seed: int | None = None,
        plan_lead: int = 0,
        resume: Resume | None = None,
    ) -> Started:
        """Begin a run. The state (n,) is the robot's at the start; only a goal of element names needs it.

        Args:
            robot: its id; it keys the sampling noise.
            goal: element names, a whole goal state (n,), or a goal as a `Started` returned it.
            state: measured state (n,).
            seed: samples both levels; None takes their modes.
            plan_lead: [steps] how long before it takes effect a subgoal is planned.
            resume: where a broken run goes on; its goal is the one that its `Started` returned.

        Raises:
            RobotLeased: the robot runs already.
            InvalidGoal, InvalidInput: the goal, the state or an option is not acceptable.
        """
        started = self._ask(robot, Start(_goal(goal), _vector(state), seed, plan_lead, resume), Started)
        self._subgoals[robot] = NOTHING if resume is None else _vector(resume.subgoal)
        return started

    def step(self, robot: str, step: int, state: np.ndarray) -> Action:
        """The action for a robot's step, counted from 0, in a state (n,) measured now.

        Raises:
            StepOutOfOrder, InvalidInput, ProtocolViolation: refused; the run still stands where it stood.
        """
        [reply] = self.step_batch([robot], [step], [state])
        if isinstance(reply, RelayError):
            raise reply
        return reply

    def step_batch(
        self, robots: Sequence[str], steps: Sequence[int], states: Sequence[np.ndarray] | np.ndarray
    ) -> list[Action | RelayError]:
        """One step of several robots in one message: an action for each, or why it was refused."""
        observed_ns = time.monotonic_ns()
        rows = [
            (robot, Observation(step, _vector(state), observed_ns))
            for robot, step, state in zip(robots, steps, states, strict=True)
        ]
        return [self._followed(robot, reply) for robot, reply in zip(robots, self._exchange(rows), strict=True)]

    def set_goal(self, robot: str, goal: Goal, state: np.ndarray = NOTHING) -> ResolvedGoal:
        """Give a running robot another goal; its next step replans at once.

        Raises:
            InvalidGoal, InvalidInput, ProtocolViolation: refused; the run keeps its goal.
        """
        return self._ask(robot, SetGoal(_goal(goal), _vector(state)), GoalSet).goal

    def finish(self, robot: str) -> int:
        """End a run and free the robot. Returns the number of steps it has reached.

        Raises:
            ProtocolViolation: the robot has no run here.
        """
        steps = self._ask(robot, Finish(), Finished).steps
        self._subgoals.pop(robot, None)
        return steps

    def close(self) -> None:
        """End the stream, which frees its robots; returns when the server has."""
        ended = threading.Event()
        self._outbox.put(None)
        if self._stream.add_callback(ended.set) and not ended.wait(self._timeout_s):
            self._stream.cancel()

    def _ask(self, robot: str, request: Request, kind: type[_Reply]) -> _Reply:
        [reply] = self._exchange([(robot, request)])
        if isinstance(reply, RelayError):
            raise reply
        if not isinstance(reply, kind):
            raise ProtocolViolation(f"the server answered with {type(reply).__name__}; expected {kind.__name__}")
        return reply

    def _followed(self, robot: str, reply: Reply) -> Action | RelayError:
        if isinstance(reply, Action):
            if reply.replanned:
                self._subgoals[robot] = reply.subgoal
                return reply
            return reply._replace(subgoal=self._subgoals[robot])
        if isinstance(reply, RelayError):
            return reply
        raise ProtocolViolation(f"the server answered an observation with {type(reply).__name__}; expected Action")

    def _exchange(self, rows: Sequence[tuple[str, Request]]) -> list[Reply]:
        request = codec.pack_request(rows)
        self._deadline = time.monotonic() + self._timeout_s
        self._outbox.put(request)
        try:
            raw = next(self._stream, None)
        except grpc.RpcError as error:
            raise _translate(error, self._address, self._timeout_s) from None
        except BaseException:
            self._stream.cancel()  # or the answer still under way would be taken for that of the next step
            raise
        finally:
            self._deadline = float("inf")
        if raw is None:
            raise ProtocolViolation("this control stream is closed; open another")
        replies = codec.unpack_reply(raw)
        if [robot for robot, _ in replies] != [robot for robot, _ in rows]:
            raise ProtocolViolation(f"the server answered {len(rows)} rows with {len(replies)} that do not match them")
        return [reply for _, reply in replies]

    def _outgoing(self) -> Iterator[bytes]:
        """What gRPC's own sending thread sends; as it is idle while an answer is awaited, it keeps the deadline."""
        while True:
            try:
                request = self._outbox.get(timeout=self._timeout_s / 4)
            except queue.Empty:
                if time.monotonic() > self._deadline:
                    self._stream.cancel()
                continue
            if request is None:
                return
            yield request


def _path(method: str) -> str:
    return f"/{codec.SERVICE}/{method}"


def _goal(goal: Goal) -> Goal:
    if isinstance(goal, str):
        raise InvalidGoal(f"the goal is the text {goal!r}; allowed is a list of element names, or a goal state")
    if isinstance(goal, ResolvedGoal):
        return ResolvedGoal(_vector(goal.state), _vector(goal.mask))
    return _vector(goal) if isinstance(goal, np.ndarray) else tuple(goal)


def _vector(values: np.ndarray) -> np.ndarray:
    try:
        vector = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a vector of numbers was expected: {error}") from error
    if vector.ndim != 1:
        raise InvalidInput(f"a vector has shape {vector.shape}; allowed is one dimension, (n,)")
    return vector


@contextlib.contextmanager
def _translated(address: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise _translate(error, address, timeout_s) from None


def _translate(error: Any, address: str, timeout_s: float) -> RelayError:
    """The exception that a call's status stands for."""
    reason = dict(error.trailing_metadata() or ()).get("rpl-reason")
    if reason is not None:
        return error_named(reason)(error.details())
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return ServerUnavailable(f"no server answers at {address}; is `rpl serve` running there?")
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
            return ServerUnavailable(f"the server at {address} is gone: no answer came within {timeout_s:g} s")
        case grpc.StatusCode.UNIMPLEMENTED:
            return ProtocolViolation(f"the server at {address} does not speak {codec.SERVICE}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return InvalidInput(f"the message is too large: {error.details()}")
        case code:
            return RelayError(f"the server at {address} failed with {code.name}: {error.details()}")
