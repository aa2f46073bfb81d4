"""How a process hears that it must stop, and how it is certain to.

SIGTERM and SIGINT are heard by a thread, whatever the event loop is doing. The first signal sets a deadline, the second
an earlier one; then the process is ended. A timer of the system stands behind that thread, for code that holds the
interpreter.
"""

import asyncio
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HURRY_S = 1.5  # [s] after a second signal
_SPARE_S = 0.3  # [s] by which the system's timer is later than the thread


class Stop:
    """Requests to stop a server, from any thread; a second one means at once."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurry = asyncio.Event()
        self._requests = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def request(self) -> None:
        """Set the next event, now or as soon as the server listens."""
        self._requests += 1
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                self._loop.call_soon_threadsafe(self._set)

    def listen(self) -> None:
        """Hear requests in the running loop, with those that came before."""
        self._loop = asyncio.get_running_loop()
        self._set()

    def _set(self) -> None:
        for event in (self.requested, self.hurry)[: self._requests]:
            event.set()


@contextmanager
def stopped_by_signals(request: Callable[[], object], within_s: float) -> Iterator[None]:
    """Call `request` at each SIGTERM or SIGINT of the block, from a thread.

    within_s [s] after the first, or soon after the second, the process is ended with exit code 1.
    """
    here, there = socket.socketpair()
    there.setblocking(False)
    wakes = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda number, frame: None) for number in _SIGNALS}
    thread = threading.Thread(target=_listen, args=(here, request, within_s), name="rpl-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakes)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        there.close()
        thread.join()
        here.close()


def _listen(signals: socket.socket, request: Callable[[], object], within_s: float) -> None:
    over: float | None = None  # [s] of `monotonic`
    while select.select([signals], [], [], None if over is None else max(0.0, over - time.monotonic()))[0]:
        numbers = signals.recv(64)
        if not numbers:
            return
        for _ in [number for number in numbers if number in _SIGNALS]:
            now = time.monotonic()
            over = now + within_s if over is None else min(over, now + _HURRY_S)
            signal.setitimer(signal.ITIMER_REAL, over - now + _SPARE_S)
            request()
    _LOG.error("the server did not stop in time; its process is ended")
    os._exit(1)
