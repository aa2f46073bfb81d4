"""The log of a run, kept beside it: the control loop hands over each step and never waits.

In: steps and events. Out: a log writer got them, in their order, from a thread of their own; a step for which there
was no room in the queue is left out and counted. It does not know files, and a log that cannot be written does not
disturb the run: what became of it is in the summary.
"""

import queue
import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

from rpl_runtime.errors import RecordingError
from rpl_runtime.recording.mcap import Event, LogWriter
from rpl_runtime.relay.run import Step

_CLOSE_S = 10.0  # [s] for the writer to write what is still in the queue


class LogSummary(NamedTuple):
    """What became of a log."""

    steps: int  # in the file
    dropped: int  # handed over, and not in the file
    fault: str | None  # why the log ended before the run did


class RunRecorder:
    """A log for the length of a block.

    Args:
        writer: takes the steps; it is closed with the block.
        capacity: [steps] that may wait for it.
    """

    def __init__(self, writer: LogWriter, capacity: int = 256) -> None:
        self._writer = writer
        self._capacity = capacity
        self._inbox: queue.SimpleQueue[tuple[Step | Event, int] | None] = queue.SimpleQueue()
        self._handed = 0
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.event(kind.__name__, str(error))
        self._inbox.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._fault = f"the log could not be completed: its disk has not answered for {_CLOSE_S:g} s"

    @property
    def summary(self) -> LogSummary:
        """What became of the log, once the block is over."""
        return LogSummary(self._writer.kept, self._handed - self._writer.kept, self._fault)

    def step(self, step: Step) -> None:
        """Take a step that is over now."""
        self._handed += 1
        if self._inbox.qsize() < self._capacity:
            self._inbox.put((step, time.monotonic_ns()))

    def event(self, kind: str, text: str, at_ns: int | None = None) -> None:
        """Take an event, from any thread; events are few, and none is left out.

        Args:
            kind: one short name, the same for all events of its sort.
            text: one sentence for people.
            at_ns: [ns] of the monotonic clock; by default now.
        """
        self._inbox.put((Event(kind, text), time.monotonic_ns() if at_ns is None else at_ns))

    def _write(self) -> None:
        written = 0
        try:
            for item, at_ns in iter(self._inbox.get, None):
                if isinstance(item, Event):
                    self._writer.write_event(item, at_ns)
                else:
                    self._writer.write_step(item, at_ns)
                    written += 1
            self._writer.close(self._handed - written)
        except RecordingError as error:
            self._fault = str(error)
