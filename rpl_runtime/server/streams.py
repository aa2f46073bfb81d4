"""The open Control streams of a server: the robots of each, and how the server ends them.

Everything here runs in the thread of the event loop.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from rpl_runtime.auth.quotas import Share
from rpl_runtime.errors import RelayError, RobotNotFound, ServerStopping
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.session import Session
from rpl_runtime.server.models import Model, Models
from rpl_runtime.wire.conversation import Conversation

_LOG = logging.getLogger(__name__)
_STOPPING = "the server is about to stop; its runs go on at another one"


@dataclass(eq=False)
class Stream:
    """One Control stream."""

    number: int  # from 1
    peer: str
    model: Model
    session: Session
    conversation: Conversation  # with the session
    task: "asyncio.Task[object]"  # answers the stream
    ended: RelayError | None = None  # why the server ends it

    def end(self, error: RelayError) -> None:
        """End the stream with an error: cancel its task, which then raises the error (see `Streams.open`)."""
        if self.ended is None:
            self.ended = error
            self.task.cancel()


@dataclass(eq=False)
class Streams:
    """All open streams."""

    models: Models  # that they run on
    leases: Leases  # the robots that run on any of them

    def __post_init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    @contextmanager
    def open(self, share: Share, model: Model, peer: str) -> Iterator[Stream]:
        """A stream that the current task answers, for the length of the block; then its robots are free.

        Raises:
            LimitReached: the caller has no stream left in its share.
            ServerStopping: the server takes no more streams, or ends this one.
        """
        task = asyncio.current_task()
        assert task is not None
        if self._draining:
            raise ServerStopping(_STOPPING)
        share.open_stream()
        self.models.enter(model)
        session = Session(model.policy, model.bundle, self.leases, share.caller, model.planner)

        def count(rows: int, size: int) -> None:
            share.take_rows(rows, size, time.monotonic())

        conversation = Conversation(session, model.policy, count)
        stream = Stream(next(self._numbers), peer, model, session, conversation, task)
        self._streams[stream.number] = stream
        self._empty.clear()
        try:
            yield stream
        except asyncio.CancelledError:
            if stream.ended is None:
                raise  # by the client
            raise stream.ended from None
        finally:
            session.close()
            share.close_stream()
            self.models.leave(model)
            del self._streams[stream.number]
            if not self._streams:
                self._empty.set()

    def count(self, model: Model) -> int:
        """The number of robots that run on a model."""
        return sum(len(stream.session.loop.robots) for stream in self if stream.model is model)

    def with_robot(self, robot: str) -> Stream:
        """The stream on which a robot runs.

        Raises:
            RobotNotFound: it runs on none.
        """
        for stream in self:
            if robot in stream.session.loop.robots:
                return stream
        raise RobotNotFound(f"no robot {robot!r} runs here; `rpl top` shows those that do")

    async def reap(self, idle_s: float) -> None:
        """Keep ending the runs of robots that have sent nothing for idle_s [s], until cancelled."""
        while True:
            await asyncio.sleep(idle_s / 4)
            before_ns = perf_counter_ns() - round(idle_s * 1e9)
            for robot in [robot for stream in self for robot in stream.session.reap(before_ns)]:
                _LOG.warning("robot %r sent nothing for %g s; its run is over", robot, idle_s, extra={"robot": robot})

    async def drain(self, patience_s: float, hurry: asyncio.Event) -> None:
        """Take no more runs, wait for open ones until patience_s [s] pass or `hurry` is set, then end every stream.

        A stream without a run ends at once; a stream with runs ends with the last of them.
        """
        self._draining = True
        self.leases.close()
        for stream in self:
            if not stream.session.loop.robots:
                stream.end(ServerStopping(_STOPPING))
        waits = [asyncio.create_task(event.wait()) for event in (self._empty, hurry)]
        await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for stream in self:
            stream.end(ServerStopping(_STOPPING))

    def check(self, stream: Stream | None = None) -> None:
        """Check that a stream may go on, or a call that watches all of them.

        Raises:
            ServerStopping: the server drains and no runs are left there.
        """
        if self._draining and not (self._streams if stream is None else stream.session.loop.robots):
            raise ServerStopping(_STOPPING)
