"""Runs that survive their server: when it is gone, they continue on the next one at the same step and subgoal.

A server's answers carry all that it holds about a run, so another server can continue the run exactly.

If the robot's world waits, as a simulator does, a request whose answer was lost is sent again as it was, and the run
ends as if nothing had happened. If it does not wait, a request is retried for one control period; then it fails, and
the next one, with a state measured then, continues with a new plan. Either way each step is answered once.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rpl_runtime.auth.client import IS_ONE_THERE, Access
from rpl_runtime.client.client import Client
from rpl_runtime.client.control import Control, Line, Rows
from rpl_runtime.errors import (
    BundleError,
    InvalidInput,
    LimitReached,
    ProtocolViolation,
    RelayError,
    RobotLeased,
    ServerUnavailable,
)
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.relay import messages
from rpl_runtime.relay.run_state import Resume, SubgoalOverride, TakeOver

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.02  # [s] between the first two tries, doubled from one to the next
_LONGEST_PAUSE_S = 1.0  # [s]
FIRST_ANSWER_S = 5.0  # [s] for a new server's first answer; no robot moves yet

_BEGINNING = Resume(0, messages.NOTHING, 0)  # of a run

_T = TypeVar("_T")


@dataclass(frozen=True)
class ReconnectConfig:
    model: str | None = None  # name of the server's model; None: its default
    patience_s: float = 30.0  # [s] for which a robot whose world waits looks for a server
    first_s: float = 0.0  # [s] for which a server is awaited that is not up yet
    timeout_s: float = 5.0  # [s] until a silent server counts as gone; see `TimeBudget` for a world that does not wait
    waits: bool = True  # whether the robot's world stands still between steps
    access: Access | None = None  # how servers are reached; None reads it from the environment

    def retry_s(self, spec: PolicySpec) -> float:
        """[s] for which one request is retried; in a world that does not wait, while its action would be valid."""
        return self.patience_s if self.waits else spec.period_s


class Places:
    """The addresses of one server or several, separated by commas; they are tried in turn, and one is current.

    Raises:
        InvalidInput: there is no address.
    """

    def __init__(self, addresses: str, config: ReconnectConfig) -> None:
        self._config = config
        self._turns = [address.strip() for address in addresses.split(",") if address.strip()]
        if not self._turns:
            raise InvalidInput(f"the address is {addresses!r}; must be HOST:PORT or unix:PATH, or more with commas")

    def client(self, timeout_s: float, digest: str | None = None, model: str | None = None) -> Client:
        """A client of the current address."""
        return Client(self._turns[0], timeout_s, digest, model, self._config.access)

    def move_on(self) -> None:
        """Make the next address current."""
        self._turns.append(self._turns.pop(0))

    def elsewhere(self, error: RelayError) -> ServerUnavailable:
        """Move on to an address that may do better, and return the error to raise so that the request is retried.

        Raises:
            RelayError: the given error, if another try cannot help: a server answered, and it is the only one.
        """
        if len(self._turns) == 1 and not isinstance(error, ServerUnavailable):
            raise error
        self.move_on()
        return ServerUnavailable(str(error))

    def describe(self, timeout_s: float) -> messages.ModelInfo:
        """The model of the first server that answers; its address becomes current.

        Raises:
            ServerUnavailable: none does.
            ModelNotFound: that server has no such model.
        """

        def described() -> messages.ModelInfo:
            reasons = []
            for _ in range(len(self._turns)):
                try:
                    with self.client(timeout_s, model=self._config.model) as client:
                        return client.describe()
                except ServerUnavailable as error:
                    reasons.append(str(error))
                    self.move_on()
            said = "; ".join(reason.removesuffix(IS_ONE_THERE) for reason in reasons)
            raise ServerUnavailable(said + (IS_ONE_THERE if reasons[-1].endswith(IS_ONE_THERE) else ""))

        return persist(described, self._config.first_s, threading.Event())


def lasting_control(address: str, config: ReconnectConfig | None = None) -> Control:
    """A `Control` whose runs continue when a server comes back at its address, or at the next of several, with commas.

    Its methods raise what those of any `Control` do, and
        ServerUnavailable: no server came back in time; the runs stay where they are.
        BundleError: the server that came back has another bundle.

    Raises:
        ServerUnavailable: no server answers now.
        ModelNotFound: the server has no such model.
    """
    line = _LastingLine(address, config or ReconnectConfig())
    return Control(line.model, line)


def persist(ask: Callable[[], _T], patience_s: float, closed: threading.Event) -> _T:
    """The answer of `ask`, retried with growing pauses while the server is gone; `closed` ends the retries.

    Raises:
        ServerUnavailable: no server answered within the patience [s].
        RelayError: any other error of `ask`, at once.
    """
    began, tries, pause_s = time.monotonic(), 0, _FIRST_PAUSE_S
    while True:
        tries += 1
        try:
            answer = ask()
        except ServerUnavailable as error:
            spent_s = time.monotonic() - began
            if patience_s == 0:
                raise
            if tries == 1:
                _LOG.warning("%s (trying again for %g s)", error, patience_s)
            if spent_s >= patience_s or closed.wait(min(pause_s, patience_s - spent_s)):
                raise ServerUnavailable(f"gave up after {spent_s:.1f} s and {tries} tries: {error}") from error
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            if tries > 1:
                _LOG.warning("a server answers again, after %.1f s", time.monotonic() - began)
            return answer


class _LastingLine:
    """A `Line` over one stream after the other."""

    def __init__(self, address: str, config: ReconnectConfig) -> None:
        self._places = Places(address, config)
        self._config = config
        self._closed = threading.Event()
        self._client: Client | None = None
        self._line: Line | None = None
        self._runs: dict[str, messages.Start] = {}  # robot -> the request that resumes its run where it is
        self._replanning: set[str] = set()  # robots with a new goal and no step since
        self._maybe_started: set[str] = set()  # robots whose Start may have reached a server without an answer
        self.model = self._places.describe(max(config.timeout_s, FIRST_ANSWER_S))

    def exchange(self, rows: Rows) -> list[messages.Reply]:
        if self._closed.is_set():
            raise ProtocolViolation("this control is closed; open another")
        starting = any(isinstance(request, messages.Start) for _, request in rows)  # no robot moves yet
        retry_s = self._config.patience_s if starting else self._config.retry_s(self.model.spec)
        return persist(lambda: self._try(rows), retry_s, self._closed)

    def close(self) -> None:
        self._closed.set()
        if self._line is not None:
            self._line.close()
        self._hang_up()

    def _try(self, rows: Rows) -> list[messages.Reply]:
        try:
            line = self._line or self._connect()
            replies = line.exchange(rows)
            for (robot, request), reply in zip(rows, replies, strict=True):
                self._check(robot, request, reply)
        except (ServerUnavailable, ProtocolViolation) as error:
            self._maybe_started.update(robot for robot, request in rows if isinstance(request, messages.Start))
            self._hang_up()
            self._places.move_on()
            raise ServerUnavailable(str(error)) from error
        except (BundleError, LimitReached) as error:
            gone = self._places.elsewhere(error)  # another server may have the bundle, or room
            self._hang_up()
            raise gone from error
        for (robot, request), reply in zip(rows, replies, strict=True):
            self._note(robot, request, reply)
        return replies

    def _connect(self) -> Line:
        """Open a new stream and resume every run on it."""
        self._hang_up()
        self._client = self._places.client(self._config.timeout_s, self.model.digest)
        line = self._client.control().line
        rows: list[tuple[str, messages.Request]] = []
        for robot, start in self._runs.items():
            rows.append((robot, start))
            if start.resume is not None and (robot in self._replanning or not self._config.waits):
                rows.append((robot, messages.SetGoal(start.goal)))
        for reply in line.exchange(rows) if rows else []:
            if isinstance(reply, RobotLeased):  # to the broken stream, until the server notices
                raise ServerUnavailable(f"the server at {self._client.address} still holds the broken stream: {reply}")
            if isinstance(reply, RelayError):
                raise reply
        self._line = line
        return line

    def _check(self, robot: str, request: messages.Request, reply: messages.Reply) -> None:
        """Refuse a reply that shows that messages were lost or repeated on the way.

        Raises:
            ServerUnavailable, ProtocolViolation: it does; the exchange is tried again on a new stream.
        """
        if isinstance(request, messages.Start):
            if isinstance(reply, RobotLeased) and robot in self._maybe_started:
                raise ServerUnavailable(str(reply))
        elif isinstance(reply, ProtocolViolation | RobotLeased) and robot in self._runs:
            resume = self._runs[robot].resume or _BEGINNING
            match request:  # a step out of order, or one of the wrong author, is the caller's fault
                case messages.Observation() | messages.Applied() if request.step != resume.step:
                    return
                case messages.Applied() | messages.HandBack():
                    fits = resume.hand is not None
                case messages.Observation() | TakeOver():
                    fits = resume.hand is None
                case _:
                    fits = True
            if fits:
                raise ProtocolViolation(f"the stream is out of step: {reply}")

    def _note(self, robot: str, request: messages.Request, reply: messages.Reply) -> None:
        """Keep the state from which a run can be resumed on another server."""
        match request, reply:
            case messages.Start(), messages.Started():
                self._runs[robot] = request._replace(goal=reply.goal, state=messages.NOTHING)
                self._replanning.discard(robot)
                self._maybe_started.discard(robot)
            case messages.Observation(), messages.Action():
                start = self._runs[robot]
                upcoming = reply.upcoming
                if upcoming is None and start.resume is not None and not reply.replanned:
                    upcoming = start.resume.upcoming
                # A pin lasts; any other override ended with its step.
                override = SubgoalOverride.PINNED if reply.override.lasts else SubgoalOverride.NONE
                lasts = 0 if reply.origin is None else reply.origin.lasts
                if start.resume is not None and not reply.replanned:
                    lasts = start.resume.lasts
                resume = Resume(request.step + 1, reply.subgoal, reply.age + 1, upcoming, override, lasts=lasts)
                if reply.author and not override.lasts:  # the policy plans anew: no operator is at another server
                    resume = Resume(request.step + 1, messages.NOTHING, 0)
                self._runs[robot] = start._replace(goal=reply.goal or start.goal, resume=resume)
                if reply.replanned:  # a planner may take longer than a step
                    self._replanning.discard(robot)
            case messages.SetGoal(), messages.GoalSet():
                self._runs[robot] = self._runs[robot]._replace(goal=reply.goal)
                self._replanning.add(robot)
            case TakeOver(), messages.TakenOver():
                start = self._runs[robot]
                resume = (start.resume or _BEGINNING)._replace(hand=request, upcoming=None)
                if not resume.override.lasts:  # the policy plans when it has the robot again
                    resume = resume._replace(subgoal=messages.NOTHING, age=0)
                self._runs[robot] = start._replace(resume=resume)
            case messages.Applied(), messages.Noted():
                start = self._runs[robot]
                resume = (start.resume or _BEGINNING)._replace(step=request.step + 1)
                self._runs[robot] = start._replace(goal=reply.goal or start.goal, resume=resume)
            case messages.HandBack(), messages.HandedBack():
                start = self._runs[robot]
                self._runs[robot] = start._replace(resume=(start.resume or _BEGINNING)._replace(hand=None))
                self._replanning.add(robot)
            case messages.Finish(), messages.Finished():
                del self._runs[robot]

    def _hang_up(self) -> None:
        self._line = None
        if self._client is not None:
            self._client.close()
