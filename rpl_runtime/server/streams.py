"""The Control streams of a server: which robots run on each, and how those end that the server ends.

In: streams that begin and end. Out: where every robot stands, and streams that are told to end. It does not know
messages or gRPC, and belongs to the thread of the event loop.
"""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from rpl_runtime.errors import RelayError, RobotNotFound, ServerStopping
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.session import Session
from rpl_runtime.server.admission import Caller
from rpl_runtime.server.models import Model, Models
from rpl_runtime.wire.admin import RobotStatus

_STOPPING = "the server is about to stop; its runs go on at another one"


@dataclass(eq=False)
class Stream:
    """One Control stream."""

    number: int  # from 1
    peer: str
    caller: Caller
    model: Model
    session: Session
    task: "asyncio.Task[object]"  # that answers it
    ended: RelayError | None = None  # why the server ends it

    def end(self, error: RelayError) -> None:
        """Have the task that answers the stream end it with an error: it is cancelled, and finds the reason here."""
        if self.ended is None:
            self.ended = error
            self.task.cancel()


class Streams:
    """All of them.

    Args:
        models: what they run on.
        leases: the robots that run.
    """

    def __init__(self, models: Models, leases: Leases) -> None:
        self._models = models
        self._leases = leases
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._streams)

    @contextmanager
    def open(self, caller: Caller, model: Model, peer: str) -> Iterator[Stream]:
        """A stream, for as long as the task that opens it answers it; then its robots are free.

        Raises:
            LimitReached: the caller has as many as it may.
            ServerStopping: the server takes no more.
        """
        task = asyncio.current_task()
        assert task is not None
        if self._draining:
            raise ServerStopping(_STOPPING)
        caller.share.open_stream()
        self._models.enter(model)
        session = Session(model.policy, model.bundle, self._leases)
        stream = Stream(next(self._numbers), peer, caller, model, session, task)
        self._streams[stream.number] = stream
        self._empty.clear()
        try:
            yield stream
        finally:
            session.close()
            caller.share.close_stream()
            self._models.leave(model)
            del self._streams[stream.number]
            if not self._streams:
                self._empty.set()

    def robots(self) -> list[RobotStatus]:
        """Where every robot stands, in the order of their ids."""
        now_ns = perf_counter_ns()
        found = [_status(stream, robot, now_ns) for stream in self._streams.values() for robot in stream.session.robots]
        return sorted(found, key=lambda status: status.robot)

    def count(self, model: Model) -> int:
        """How many robots run on a model."""
        return sum(len(stream.session.robots) for stream in self._streams.values() if stream.model is model)

    def with_robot(self, robot: str) -> Stream:
        """The stream on which a robot runs.

        Raises:
            RobotNotFound: it runs on none.
        """
        for stream in self._streams.values():
            if robot in stream.session.robots:
                return stream
        raise RobotNotFound(f"no robot {robot!r} runs here; `rpl top` shows those that do")

    def reap(self, idle_s: float) -> list[str]:
        """End the runs of robots that said nothing for so long [s]; their ids."""
        before_ns = perf_counter_ns() - round(idle_s * 1e9)
        return [robot for stream in self._streams.values() for robot in stream.session.reap(before_ns)]

    async def drain(self, patience_s: float, hurry: asyncio.Event) -> None:
        """Take no more runs, wait for those there are for so long [s] or until told to hurry, and end every stream.

        A stream without a run is ended at once, one whose last run is over with it.
        """
        self._draining = True
        self._leases.close()
        for stream in list(self._streams.values()):
            if not stream.session.robots:
                stream.end(ServerStopping(_STOPPING))
        waits = [asyncio.create_task(event.wait()) for event in (self._empty, hurry)]
        await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for stream in list(self._streams.values()):
            stream.end(ServerStopping(_STOPPING))

    def check(self, stream: Stream) -> None:
        """Whether a stream may go on.

        Raises:
            ServerStopping: nothing runs on it any more, and nothing will.
        """
        if self._draining and not stream.session.robots:
            raise ServerStopping(_STOPPING)


def _status(stream: Stream, robot: str, now_ns: int) -> RobotStatus:
    standing, heard_ns = stream.session.standing(robot)
    return RobotStatus(
        robot=robot,
        model=stream.model.name,
        digest=stream.model.digest,
        peer=stream.peer,
        stream=stream.number,
        step=standing.step,
        age=standing.age,
        subgoal=() if standing.subgoal is None else tuple(standing.subgoal.tolist()),
        idle_s=(now_ns - heard_ns) / 1e9,
        times=stream.session.times,
        pinned=standing.pinned,
        vetoes=standing.vetoes,
        novelty=stream.session.novelty(robot),
    )
