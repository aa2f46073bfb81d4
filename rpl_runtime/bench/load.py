"""How a peer is driven: streams side by side, a step after the other on each, as fast as they go or at a pace.

In: orders, a line of JSON each. Out: for each a line of JSON with what every step took. It does not know what a step
is, and uses the standard library alone: a peer runs in an environment of its own, which may have nothing else of this
project. A peer is a program with two verbs:

    python peer.py serve BUNDLE           prints its address when it is ready, and serves until it is terminated
    python peer.py drive ADDRESS BUNDLE   answers orders from its standard input until that ends
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

Exchange = Callable[[int], object]  # takes one step, counted from 0, of every robot of a stream
Serve = Callable[[Path, Callable[[str], None]], None]  # bundle, on_ready(address)
Connect = Callable[[str, Path, str, int], AbstractContextManager[Exchange]]  # address, bundle, stream, batch

_LEAD_S = 0.02  # [s] for all threads to be there when the first step is due


class Order(NamedTuple):
    streams: int  # side by side, each with a thread and a connection of its own
    batch: int  # robots on each stream, all in one message
    steps: int  # of each stream that are measured
    warm_up: int  # steps of each stream before those
    period_s: float | None = None  # [s] from step to step, streams spread evenly over it; None: as fast as they go


def main(serve: Serve, connect: Connect) -> None:
    """Run a peer as the command line says."""
    match sys.argv[1:]:
        case ["serve", bundle]:
            threading.Thread(target=_end_with_parent, daemon=True).start()
            serve(Path(bundle), lambda address: print(address, flush=True))
        case ["drive", address, bundle]:
            _drive(lambda stream, batch: connect(address, Path(bundle), stream, batch))
        case other:
            sys.exit(f"{other} is no order to a peer; must be one of serve BUNDLE, and drive ADDRESS BUNDLE")


class _Lane:
    """A stream, and what its steps took."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._step = 0  # the next one; the stream stays open from order to order
        self.spent: list[int] = []  # [ns] of each measured step
        self.began = self.ended = 0  # [ns] of the measured steps

    def run(self, order: Order, begin: float) -> None:
        """Take an order's steps from a time [s] of `monotonic` on."""
        self.spent = []
        for number in range(-order.warm_up, order.steps):
            if order.period_s is not None:
                due = begin + (number + order.warm_up) * order.period_s
                time.sleep(max(0.0, due - time.monotonic()))
            before = perf_counter_ns()
            if number == 0:
                self.began = before
            self._exchange(self._step)
            self.ended = perf_counter_ns()
            self._step += 1
            if number >= 0:
                self.spent.append(self.ended - before)


def _end_with_parent() -> None:
    """A bench that is killed cannot end its servers: their input ends with it, and they end themselves."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _drive(connect: Callable[[str, int], AbstractContextManager[Exchange]]) -> None:
    shape, lanes = None, []
    with ExitStack() as stack:
        for line in sys.stdin:
            order = Order(**json.loads(line))
            if (order.streams, order.batch) != shape:
                stack.close()
                shape = order.streams, order.batch
                lanes = [
                    _Lane(stack.enter_context(connect(f"stream-{number}", order.batch)))
                    for number in range(order.streams)
                ]
            print(json.dumps(_obey(order, lanes)), flush=True)


def _obey(order: Order, lanes: list[_Lane]) -> dict[str, Any]:
    begin = time.monotonic() + _LEAD_S
    apart = (order.period_s or 0.0) / order.streams
    threads = [
        threading.Thread(target=lane.run, args=(order, begin + number * apart)) for number, lane in enumerate(lanes)
    ]
    if len(lanes) == 1:
        lanes[0].run(order, begin)  # a robot's loop has no second thread to give the interpreter to
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {
        "spent_ns": [spent for lane in lanes for spent in lane.spent],
        "wall_ns": max(lane.ended for lane in lanes) - min(lane.began for lane in lanes),
    }
