"""The load on a peer: parallel streams, with control steps one after the other on each, unpaced or at a rate.

A peer is a program with two verbs:

    python peer.py serve BUNDLE           prints its address when it is ready, and serves until it is terminated
    python peer.py drive ADDRESS BUNDLE   answers orders from its standard input until that ends

An order and its answer, the duration of every step, are a line of JSON each. This module uses the standard library
alone: a peer runs in its own environment, which may lack everything else.
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
from typing import NamedTuple

Exchange = Callable[[int], object]  # makes a control step, counted from 0, of every robot of a stream
Serve = Callable[[Path, Callable[[str], None]], None]  # bundle, on_ready(address)
Connect = Callable[[str, Path, str, int], AbstractContextManager[Exchange]]  # address, bundle, stream, batch

_LEAD_S = 0.02  # [s] for all threads to start before the first step is due


class Order(NamedTuple):
    streams: int  # in parallel, each with its own thread and connection
    batch: int  # robots on each stream, all in one message
    steps: int  # [control steps] of each stream that are measured
    warm_up: int  # [control steps] of each stream before those
    period_s: float | None = None  # [s] between steps, with streams spread evenly over it; None: unpaced


def main(serve: Serve, connect: Connect) -> None:
    """Run a peer as its command line says."""
    match sys.argv[1:]:
        case ["serve", bundle]:
            threading.Thread(target=_end_with_input, daemon=True).start()
            serve(Path(bundle), lambda address: print(address, flush=True))
        case ["drive", address, bundle]:
            _drive(lambda stream, batch: connect(address, Path(bundle), stream, batch))
        case other:
            sys.exit(f"a peer got {other}; must be serve BUNDLE or drive ADDRESS BUNDLE")


class _Lane:
    """A stream and the durations of its steps."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._step = 0  # the next one; the stream stays open between orders
        self.spent: list[int] = []  # [ns] of each measured step
        self.began = self.ended = 0  # [ns] of the measured steps

    def run(self, order: Order, begin: float) -> None:
        """Make an order's steps from a time [s] of `monotonic` on."""
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


def _end_with_input() -> None:
    """A bench that is killed cannot end its servers, but their standard input ends with it."""
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
            _run(order, lanes)
            answer = {
                "spent_ns": [spent for lane in lanes for spent in lane.spent],
                "wall_ns": max(lane.ended for lane in lanes) - min(lane.began for lane in lanes),
            }
            print(json.dumps(answer), flush=True)


def _run(order: Order, lanes: list[_Lane]) -> None:
    begin = time.monotonic() + _LEAD_S
    apart = (order.period_s or 0.0) / order.streams
    threads = [
        threading.Thread(target=lane.run, args=(order, begin + number * apart)) for number, lane in enumerate(lanes)
    ]
    if len(lanes) == 1:
        lanes[0].run(order, begin)  # a robot's loop shares the interpreter with no other thread
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
