"""The server's time: callers take turns, and long work has threads of its own.

All robots share one thread, the event loop. A caller that has used up its share of that thread's time waits, with all
its messages, however many streams they come on. The messages of other callers do not wait for them.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TypeVar
from weakref import WeakValueDictionary

from rpl_runtime.auth.quotas import Share
from rpl_runtime.errors import LimitReached

_MOST_WAITING = 512  # messages of one caller, each held in memory
_LONGEST_S = 0.02  # [s] counted for one piece of work: what takes longer waits for a processor, and not for its caller
_TRANSPORT_S = 150e-6  # [s] of the event loop's time that gRPC takes around a message or a call
WORKER = "rpl-worker"  # name of every thread that works

T = TypeVar("T")


class Turns:
    """The turns of all callers."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[Share, Turn] = WeakValueDictionary()

    def of(self, share: Share) -> "Turn":
        """A caller's turn; all of its calls share it."""
        turn = self._turns.get(share)
        if turn is None:
            turn = self._turns[share] = Turn(share)
        return turn


class Turn:
    """One caller's time on the event loop: after `await turn.wait()`, `with turn:` counts the time of its block.

    Nothing may be awaited in the block.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None  # serves the first that waits
        self._began = 0.0  # [s]
        self._batch = asyncio.Lock()  # held while a batch of this caller is under way

    async def wait(self) -> None:
        """Wait until the caller has time left, behind those of its messages that came before.

        Raises:
            LimitReached: too many of its messages wait.
        """
        if not self.ready():
            await self.served()

    def ready(self) -> bool:
        """Count a message or a call that comes. Returns whether the caller has time left for it."""
        now = time.monotonic()
        self.share.come(now)
        self.share.spend(_TRANSPORT_S, now)
        return not self._waiting and not self.share.rest_s(now)

    async def served(self) -> None:
        """The rest of `wait`, for one that is not ready."""
        if len(self._waiting) >= _MOST_WAITING:
            raise LimitReached(f"{self.share.caller} has {_MOST_WAITING} messages waiting, the most for one caller")
        served = asyncio.get_running_loop().create_future()
        self._waiting.append(served)
        if self._timer is None:
            self._serve_next()
        await served

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.spend(time.monotonic() - self._began)

    def spend(self, seconds: float) -> None:
        """Count a time [s] of work for the caller."""
        self.share.spend(min(seconds, _LONGEST_S), time.monotonic())

    async def batch(self, workers: "Workers", work: Callable[[], T]) -> T:
        """Do long work of this caller in a thread, piece by piece. Returns its result, or raises its error."""
        async with self._batch:
            await self.wait()
            return await workers.run(work, self.share)

    def _serve_next(self) -> None:
        """Serve the first that waits, if there is time left. The next follows when its time has been counted."""
        rest_s = self.share.rest_s(time.monotonic())
        if not rest_s and not (served := self._waiting.popleft()).done():  # done: cancelled with its call
            served.set_result(None)
        later = asyncio.get_running_loop().call_later
        self._timer = later(rest_s, self._serve_next) if self._waiting else None


class Workers:
    """Threads for work that would hold the event loop.

    Work that nobody waits for any more goes on to its end and keeps its thread until then.

    Args:
        threads: how many pieces of work are under way at once.
    """

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)

    async def run(self, work: Callable[[], T], share: Share | None = None) -> T:
        """Returns the result of the work, or raises its error; its time counts for the caller whose share is given."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def ended(seconds: float, settle: Callable[[], None]) -> None:
            self._free.release()
            if share is not None:
                share.spend(seconds, time.monotonic())
            if not outcome.done():  # done: cancelled with its call
                settle()

        def run() -> None:
            began = time.thread_time()
            try:
                settle = partial(outcome.set_result, work())
            except Exception as error:
                settle = partial(outcome.set_exception, error)
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(ended, time.thread_time() - began, settle)

        threading.Thread(target=run, name=WORKER, daemon=True).start()
        return await outcome

    @staticmethod
    def join() -> None:
        """Wait until all work in this process has ended: ONNX Runtime aborts if the interpreter ends before it."""
        for thread in threading.enumerate():
            if thread.name == WORKER:
                thread.join()
