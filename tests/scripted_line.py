"""A script that answers a run loop in place of a server. Programs of tests import it, which should begin soon."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fake_clock import FakeClock
from rpl_runtime.relay.messages import Action, Finished, ModelInfo, Reply, Request, Start, Started, valid_until_ns
from rpl_runtime.tasks.kitchen.elements import PERIOD, kitchen_spec

SPEC = kitchen_spec("kitchen")
MODEL = ModelInfo(SPEC, "d" * 64, 1, {})
MS = 1_000_000  # [ns]
LEAD = np.array([0.08, 0.05, -0.06, 0.07, 0.04, -0.05, 0.06, 0.0, 0.0])  # [rad, m] of every target


class Script:
    """A `Line` that answers every period as it is told to, and takes its time on a fake clock."""

    def __init__(self, clock: FakeClock, answer: Callable[[int], Any]) -> None:
        self.asked = 0  # periods in which an action was asked for
        self.closed = False
        self._clock = clock
        self._answer = answer
        self._goal: Any = None

    def exchange(self, rows: Any) -> list[Reply]:
        [(_, request)] = rows
        return [self._reply(request)]

    def _reply(self, request: Request) -> Reply:
        if isinstance(request, Start):
            self._goal = SPEC.resolve(["microwave"], request.state)
            return Started(self._goal, MODEL.digest, PERIOD, SPEC.horizon)
        if not hasattr(request, "observed_ns"):
            return Finished(0)
        observed_ns, self.asked = self._clock.now_ns(), self.asked + 1
        answer = self._answer(self.asked - 1)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):  # [ns] how long it takes
            self._clock.advance(answer)
            answer = (request.state[:9].astype(np.float64) + LEAD).clip(*SPEC.action.bounds)  # type: ignore[union-attr]
        subgoal = np.zeros(30, np.float32)
        return Action(np.asarray(answer), subgoal, 0, False, valid_until_ns(observed_ns, round(PERIOD * 1e9)))

    def close(self) -> None:
        self.closed = True
