"""Actions in time, or none: the steps of a robot whose world does not wait.

In: a control, then a state for each control period and how long its action may take. Out: that action, or None. It
does not know clocks of robots, nor what is done where there is no action.

The control works in a thread of its own. A step that takes too long goes on there while the periods go by; what it
brings in the end counts only while it is valid, or else the next step is asked for with the newest state.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from rpl_runtime.client.control import Control
from rpl_runtime.errors import RelayError, ServerUnavailable
from rpl_runtime.loop.clock import Clock, MonotonicClock
from rpl_runtime.relay.messages import Action


class Punctual:
    """The steps of one started run, for the length of a block; the control belongs to it, and ends with it.

    Args:
        control: a control that fails rather than wait for its server, as that of a world that does not wait.
        robot: the id with which the run was started.
        clock: the one in which actions are valid; the system's monotonic clock unless told otherwise.
    """

    def __init__(self, control: Control, robot: str, clock: Clock | None = None) -> None:
        self.number = 0  # of the step that is under way, or asked for next
        self._control = control
        self._robot = robot
        self._clock = clock or MonotonicClock()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="steps")
        self._under_way: Future[Action] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()  # which cuts short the step under way
        self._asking.shutdown()

    def step(self, state: np.ndarray, timeout_s: float) -> Action | None:
        """The action for a state (n,) measured now, if there is one within a time [s].

        Raises:
            RelayError: the step was refused, or another bundle is served now.
        """
        deadline_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        while True:
            carried_over = self._under_way is not None
            asked = self._under_way or self._asking.submit(self._control.step, self._robot, self.number, state)
            self._under_way = asked
            try:
                action = asked.result(max(0, deadline_ns - self._clock.now_ns()) / 1e9)
            except TimeoutError:
                return None
            except RelayError as error:
                self._under_way = None
                if not isinstance(error, ServerUnavailable):
                    raise
                if not carried_over:
                    return None
                continue
            self._under_way = None
            self.number += 1
            if self._clock.now_ns() <= action.valid_until_ns:
                return action
