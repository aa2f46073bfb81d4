"""Runs that outlive their server: a line that finds it again and goes on at the same step, with the same subgoal.

In: the address of a server or several, and for how long one that is gone is looked for. Out: a `Control` whose runs go
on. All that a server holds about a run came to the client in its answers, so another one goes on as the first would
have. It does not know robots, nor why a server was gone.

Where the robot's world waits, as a simulator does, a request whose answer was lost is sent again as it was, and the
run ends as if nothing had happened. Where it does not, a request is worth sending for one control period; after that
it fails, and the next one, with a state measured then, goes on with a new plan. Either way a step is answered once.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

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
from rpl_runtime.relay.loop import Resume, SubgoalOverride
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Finish,
    Finished,
    GoalSet,
    ModelInfo,
    Observation,
    Reply,
    Request,
    SetGoal,
    Start,
    Started,
)

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.02  # [s] between the first two tries, doubled from one to the next
_LONGEST_PAUSE_S = 1.0  # [s]
FIRST_ANSWER_S = 5.0  # [s] how long a server may take that nobody has spoken to before; no robot moves yet

_T = TypeVar("_T")


@dataclass(frozen=True)
class ReconnectConfig:
    model: str | None = None  # name of the server's model that is to answer; None: its default
    budget_s: float = 30.0  # [s] for how long a server that is gone is looked for
    timeout_s: float = 5.0  # [s] how long an answer may take before the server counts as gone
    waits: bool = True  # whether the robot's world stands still meanwhile; where not, the budget is a control period

    def patience_s(self, spec: PolicySpec) -> float:
        """[s] for how long one request is tried."""
        return self.budget_s if self.waits else spec.period_s


class Places:
    """Where a server may be: addresses with commas between them, tried in turn, of which one counts now.

    Args:
        addresses: of one server or several.
        model: the model that is looked for; None: each server's default.

    Raises:
        InvalidInput: there is no address.
    """

    def __init__(self, addresses: str, model: str | None = None) -> None:
        self._model = model
        self._turns = [address.strip() for address in addresses.split(",") if address.strip()]
        if not self._turns:
            raise InvalidInput(f"the address is {addresses!r}; must be HOST:PORT or unix:PATH, or more with commas")

    @property
    def now(self) -> str:
        return self._turns[0]

    @property
    def several(self) -> bool:
        return len(self._turns) > 1

    def move_on(self) -> None:
        """From now on the next address counts."""
        self._turns.append(self._turns.pop(0))

    def elsewhere(self, error: RelayError) -> ServerUnavailable:
        """Move on after an error, to an address that may have what this one lacks; what is to be raised meanwhile.

        Raises:
            RelayError: the error itself, where there is no other address and it is not that nobody answers.
        """
        if not (self.several or isinstance(error, ServerUnavailable)):
            raise error
        self.move_on()
        return ServerUnavailable(str(error))

    def describe(self, timeout_s: float) -> ModelInfo:
        """The model of the first server that answers; its address counts from now on.

        Raises:
            ServerUnavailable: none does.
            ModelNotFound: that server has no such model.
        """
        for left in reversed(range(len(self._turns))):
            try:
                with Client(self.now, timeout_s, model=self._model) as client:
                    return client.describe()
            except ServerUnavailable:
                self.move_on()
                if not left:
                    raise
        raise AssertionError("there is an address")


def lasting_control(address: str, config: ReconnectConfig | None = None) -> Control:
    """A `Control` whose runs go on at a server that comes back, or at another one: at the same address, or at the next
    of several with commas between them.

    Its verbs raise what those of any `Control` do; of the server's absence
        ServerUnavailable: the budget is over; the runs still stand where they stood.
        BundleError: what came back serves another bundle.

    Raises:
        ServerUnavailable: nobody answers now.
        ModelNotFound: who answers has no such model.
    """
    line = _LastingLine(address, config or ReconnectConfig())
    return Control(line.model, line)


def persist(ask: Callable[[], _T], patience_s: float, over: threading.Event) -> _T:
    """The answer of `ask`, tried again while the server is gone, with pauses that grow; `over` ends them.

    Raises:
        ServerUnavailable: it was gone for longer than the patience [s].
        RelayError: whatever else `ask` raises, at once.
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
            if spent_s >= patience_s or over.wait(min(pause_s, patience_s - spent_s)):
                raise ServerUnavailable(f"gave up after {spent_s:.1f} s and {tries} tries: {error}") from error
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            if tries > 1:
                _LOG.warning("the server is back after %.1f s", time.monotonic() - began)
            return answer


class _LastingLine:
    """A `Line` over as many streams as it takes, one after the other."""

    def __init__(self, address: str, config: ReconnectConfig) -> None:
        self._places = Places(address, config.model)
        self._config = config
        self._over = threading.Event()
        self._client: Client | None = None
        self._line: Line | None = None
        self._runs: dict[str, Start] = {}  # robot -> what begins its run anew where it stands
        self._replanning: set[str] = set()  # robots with a goal that no step has followed yet
        self._unheard: set[str] = set()  # robots that may have been started without our hearing of it
        self.model = self._places.describe(max(config.timeout_s, FIRST_ANSWER_S))

    def exchange(self, rows: Rows) -> list[Reply]:
        if self._over.is_set():
            raise ProtocolViolation("this control is closed; open another")
        starting = any(isinstance(request, Start) for _, request in rows)  # and no robot moves yet
        patience_s = self._config.budget_s if starting else self._config.patience_s(self.model.spec)
        return persist(lambda: self._try(rows), patience_s, self._over)

    def close(self) -> None:
        self._over.set()
        if self._line is not None:
            self._line.close()
        self._hang_up()

    def _try(self, rows: Rows) -> list[Reply]:
        try:
            line = self._line or self._connect()
            replies = line.exchange(rows)
            self._check(rows, replies)
        except (ServerUnavailable, ProtocolViolation) as error:
            self._unheard.update(robot for robot, request in rows if isinstance(request, Start))
            self._hang_up()
            self._places.move_on()
            raise ServerUnavailable(str(error)) from error
        except (BundleError, LimitReached) as error:
            gone = self._places.elsewhere(error)  # to one that has the bundle, or room
            self._hang_up()
            raise gone from error
        for (robot, request), reply in zip(rows, replies, strict=True):
            self._note(robot, request, reply)
        return replies

    def _connect(self) -> Line:
        """A new stream on which every run stands where it stood."""
        self._hang_up()
        self._client = Client(self._places.now, self._config.timeout_s, self.model.digest)
        line = self._client.control().line
        if rows := list(self._resuming()):
            self._check_resumed(line.exchange(rows))
        self._line = line
        return line

    def _resuming(self) -> Iterator[tuple[str, Request]]:
        for robot, start in self._runs.items():
            yield robot, start
            if start.resume is not None and (robot in self._replanning or not self._config.waits):
                yield robot, SetGoal(start.goal)

    def _check_resumed(self, replies: list[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, RobotLeased):  # to the broken stream, until the server has noticed
                raise ServerUnavailable(
                    f"the server at {self._places.now} still waits for the stream that broke: {reply}"
                )
            if isinstance(reply, RelayError):
                raise reply

    def _check(self, rows: Rows, replies: list[Reply]) -> None:
        """Refuse answers that make sense only where other messages reached the server than were sent here."""
        for (robot, request), reply in zip(rows, replies, strict=True):
            if isinstance(request, Start):
                if isinstance(reply, RobotLeased) and robot in self._unheard:
                    raise ServerUnavailable(str(reply))
            elif isinstance(reply, ProtocolViolation | RobotLeased) and self._due(robot, request):
                raise ProtocolViolation(f"the stream is out of step: {reply}")

    def _due(self, robot: str, request: Request) -> bool:
        """Whether a request is in order here."""
        if robot not in self._runs or not isinstance(request, Observation):
            return robot in self._runs
        resume = self._runs[robot].resume
        return request.step == (0 if resume is None else resume.step)

    def _note(self, robot: str, request: Request, reply: Reply) -> None:
        """Keep what a run needs to go on elsewhere."""
        match request, reply:
            case Start(), Started():
                self._runs[robot] = request._replace(goal=reply.goal, state=NOTHING)
                self._replanning.discard(robot)
                self._unheard.discard(robot)
            case Observation(), Action():
                start = self._runs[robot]
                self._runs[robot] = start._replace(resume=_after(start.resume, request.step, reply))
                self._replanning.discard(robot)
            case SetGoal(), GoalSet():
                self._runs[robot] = self._runs[robot]._replace(goal=reply.goal)
                self._replanning.add(robot)
            case Finish(), Finished():
                del self._runs[robot]

    def _hang_up(self) -> None:
        self._line = None
        if self._client is not None:
            self._client.close()


def _after(before: Resume | None, step: int, action: Action) -> Resume:
    """Where a run stands after a step."""
    upcoming = action.upcoming
    if upcoming is None and before is not None and not action.replanned:
        upcoming = before.upcoming
    pinned = action.override is SubgoalOverride.PINNED
    override = SubgoalOverride.PINNED if pinned else SubgoalOverride.NONE  # any other was over with its step
    return Resume(step + 1, action.subgoal, action.age + 1, upcoming, override)
