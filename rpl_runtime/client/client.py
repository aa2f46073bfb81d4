"""The client of a relay policy server.

    with Client("127.0.0.1:50051") as client, client.control() as control:
        control.start("arm", ["microwave", "kettle"], state)
        action = control.step("arm", 0, state)  # action.target goes to the robot
        control.finish("arm")

Refusals and gRPC statuses are raised as this project's errors. No call is retried here; reconnect.py continues runs
whose server is gone. A `Control` belongs to one thread; open one for each.
"""

import weakref
from pathlib import Path

import grpc
import numpy as np

from rpl_runtime.auth.client import Access, Connection
from rpl_runtime.client.control import Control, Rows
from rpl_runtime.client.transport import Transport, open_call
from rpl_runtime.errors import ProtocolViolation, RelayError
from rpl_runtime.policy.bundle import Bundle, store_files
from rpl_runtime.relay import messages
from rpl_runtime.wire import bundles as describe
from rpl_runtime.wire import control as codec

_FETCH_TIMEOUT_S = 300.0


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
        with self.translated(_FETCH_TIMEOUT_S):
            fetch = self.channel.unary_stream(_path("Fetch"))
            for raw in fetch(b"", timeout=_FETCH_TIMEOUT_S, metadata=self.metadata):
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
        return Control(model, Stream(transport, self, model.spec.period_s, self._timeout_s))

    def close(self) -> None:
        for transport in list(self._transports):
            transport.cancel()
        super().close()

    def _call(self, method: str, request: bytes) -> bytes:
        with self.translated(self._timeout_s):
            return self._methods[method](request, timeout=self._timeout_s, metadata=self.metadata)


class Stream:
    """A `Line` over one call. A fault closes it: replies could no longer be matched to requests.

    Args:
        transport: carries the bytes.
        connection: of the call.
        period_s: [s] one control period of the policy.
        timeout_s: [s] that an answer may take.
    """

    def __init__(self, transport: Transport, connection: Connection, period_s: float, timeout_s: float) -> None:
        self._transport = transport
        self._connection = connection
        self._period_ns = round(period_s * 1e9)
        self._timeout_s = timeout_s
        self._subgoals: dict[str, np.ndarray] = {}  # robot -> (n,) the subgoal it follows

    def exchange(self, rows: Rows) -> list[messages.Reply]:
        """Send (robot, request) rows and return one reply for each: the matching kind, or a refusal.

        Raises:
            InvalidInput: a request cannot be sent; the stream stays open.
            ServerUnavailable: the server is gone.
            ProtocolViolation: the stream is closed, or the replies do not match the requests.
            RelayError: the server failed.
        """
        request = codec.pack_request(rows)
        try:
            raw = self._transport.exchange(request)
            if raw is None:
                raise ProtocolViolation("this control stream is closed; open another")
            replies = codec.unpack_reply(raw)
            if [robot for robot, _ in replies] != [robot for robot, _ in rows]:
                raise ProtocolViolation(f"the server answered {len(rows)} rows with {len(replies)} that do not match")
            return [
                self._checked(robot, request, reply) for (robot, request), (_, reply) in zip(rows, replies, strict=True)
            ]
        except grpc.RpcError as error:
            self._transport.cancel()
            raise self._connection.translate(error, self._timeout_s) from None
        except BaseException:
            self._transport.cancel()  # or a late reply would be taken for the next step's
            raise

    def close(self) -> None:
        """End the stream and free its robots; returns when the server has ended it."""
        self._transport.close()

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
        if isinstance(request, messages.Observation) and isinstance(reply, messages.Action):
            if reply.valid_until_ns != messages.valid_until_ns(request.observed_ns, self._period_ns):
                raise ProtocolViolation(f"the server answered step {request.step} with the action of another step")
            if not reply.replanned:
                # `_replace` takes twice as long.
                return messages.Action(reply.target, self._subgoals.get(robot, messages.NOTHING), *reply[2:])
            self._subgoals[robot] = reply.subgoal
        return reply


_ANSWERS = {
    messages.Start: messages.Started,
    messages.Observation: messages.Action,
    messages.SetGoal: messages.GoalSet,
    messages.Finish: messages.Finished,
}


def _path(method: str) -> str:
    return f"/{codec.SERVICE}/{method}"
