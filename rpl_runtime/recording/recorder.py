"""A recorder that writes the log of a run on its own thread, so that the control loop never waits.

If the queue is full, a step is dropped and counted. A log that cannot be written does not disturb the run; the summary
says so.
"""

import queue
import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

from rpl_runtime.errors import RecordingError
from rpl_runtime.recording.mcap import Event, LogWriter
from rpl_runtime.relay.run import Step

_CLOSE_S = 10.0  # [s] for the writer to empty the queue


class LogSummary(NamedTuple):
    """The outcome of a log."""

    steps: int  # [control steps] in the file
    dropped: int  # [control steps] not in the file
    fault: str | None  # why the log ended before the run


class RunRecorder:
    """Records a run during a `with` block.

    Args:
        writer: writes the steps; closed at the end of the block.
        capacity: [control steps] size of the queue.
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
        """The outcome of the log, after the block."""
        return LogSummary(self._writer.kept, self._handed - self._writer.kept, self._fault)

    def step(self, step: Step) -> None:
        """Record a step that ends now."""
        self._handed += 1
        if self._inbox.qsize() < self._capacity:
            self._inbox.put((step, time.monotonic_ns()))

    def event(self, kind: str, text: str, at_ns: int | None = None) -> None:
        """Record an event, from any thread; events are few, and none is dropped.

        Args:
            kind: one short name, the same for all events of a kind.
            text: one sentence.
            at_ns: [ns] of the monotonic clock; default: now.
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
