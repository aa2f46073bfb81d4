"""The scripted demonstrator as a pilot of the kitchen: it finishes an element of the goal and hands the robot back.

rpl run --goal mkbs --bundle models/kitchen --pilot rpl_train.tasks.kitchen.pilot:attentive
"""

import itertools
from collections.abc import Iterator

import numpy as np

from rpl_runtime.loop.pilot import Seen
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_train.tasks.kitchen.demonstrator import Demonstrator
from rpl_train.tasks.kitchen.skills import Work

_NEARER = 0.02  # [rad, m] by which an element must come nearer to its goal to be progress
_AWAY = 0.1  # [rad, m] by which an element that goes away has been moved, and begins anew
_NOVEL, _NOVEL_STEPS = 2.0, 5  # a state this far from the training data, for so many steps, is an accident
_TRY, _LEAVE, _BACK = 60, 10, 30  # [steps] without progress, of letting go, of leading back
_SETTLED = 15  # [steps] without progress after which an element that is done, if barely, is left as it is
_FREE, _LOWER = 40, 20  # [steps] of getting out of the kettle's handle at most, and of setting it down meanwhile
_LIFTED = 1.655  # [m] the height of a kettle that is off the stove
_HOLDS, _CARRIES = 0.03, 0.06  # [m] from the right place within which it holds the kettle well, and while it carries it


def demonstrator() -> "KitchenPilot":
    """One that takes over only when it is told to, or when the policy asks for help."""
    return KitchenPilot()


def attentive() -> "KitchenPilot":
    """One that also takes over by itself: where the policy strays from its training data, or gets nowhere for 4 s."""
    return KitchenPilot(stall=50)


class KitchenPilot:
    """The demonstrator with the robot in its hand (the `Pilot` protocol).

    It works on the elements of the goal that are not done, in the order of human demonstrators, and hands back when one
    is finished; when it takes over again in the same run, not before all are. The demonstrator has no memory, so it may
    be caught where a policy has left things: it first gets out of the handle of a kettle that hangs on a finger. After
    some time without progress it lets go, leads the element back for a while, and tries the next one.

    Args:
        stall: [steps] without progress after which it takes over by itself, as it does where the states are far from
            the training data; None: it never does.
    """

    name = "demonstrator"

    def __init__(self, stall: int | None = None) -> None:
        self._kitchen = Kitchen()  # keeps the model
        self._demonstrator = Demonstrator(self._kitchen.model)
        self._stall = stall
        self._nearest: dict[str, float] = {}  # [rad, m] of each element to its goal, so far
        self._progress = 0  # step of the last progress
        self._novel = 0  # [steps] for which the states have been so far from the training data
        self._left: list[str] = []  # elements of the goal that are not done
        self._tries: Iterator[tuple[Work | None, int]] | None = None  # the next ones; None: not in hand
        self._turns = 0  # times that it took over in this run
        self._work: Work | None = None
        self._until = 0  # step at which the next try begins
        self._caught, self._freed = False, 0  # whether the kettle may hang on a finger; [steps] of getting out of it

    def takes_over(self, seen: Seen) -> str | None:
        self._look(seen)
        if self._stall is None or not self._left:
            return None
        if self._novel >= _NOVEL_STEPS:
            return f"the states are far from the training data, with a novelty of {seen.novelty:.1f}"
        if seen.step - self._progress >= self._stall:
            return f"no element of the goal has come nearer for {self._stall} steps"
        return None

    def target(self, seen: Seen) -> np.ndarray | None:
        self._look(seen)
        if self._tries is None:
            self._tries, self._work, self._until, self._turns = self._all_tries(), None, seen.step, self._turns + 1
        work = self._work
        finished = work is not None and (self._demonstrator.finished(seen.state, work) or self._settled(seen))
        forward = work is not None and not work.back
        if not self._left or (finished and forward and self._turns == 1):
            self._tries = None
            return None
        if finished and forward:
            self._tries = itertools.chain([(None, _LEAVE)], self._all_tries())
        if seen.step >= self._until or finished:
            self._work, steps = next(self._tries)
            self._until = seen.step + steps
            self._caught, self._freed = True, 0
        elif self._progress == seen.step and forward:
            self._until = seen.step + _TRY
        free = self._free(seen.state)
        return self._demonstrator.act(seen.state, self._work) if free is None else free

    def _settled(self, seen: Seen) -> bool:
        """Whether the element in work is done, stands, and comes no nearer: a twisted kettle would take for ever."""
        work = self._work
        if work is None or work.back or work.element in self._left or _lifted(seen.state):
            return False
        return seen.step - self._progress >= _SETTLED

    def _free(self, state: np.ndarray) -> np.ndarray | None:
        """The target (9,) that gets out of the kettle's handle, at the start of a try and where the kettle hangs."""
        target = None
        if (self._caught or _lifted(state)) and self._freed < _FREE:
            holds = _HOLDS if self._caught else _CARRIES
            target = self._demonstrator.free(state, holds, lower=self._freed < _LOWER)
        self._caught = target is not None
        self._freed += self._caught
        self._until += self._caught
        return target

    def _all_tries(self) -> Iterator[tuple[Work | None, int]]:
        """What to do, one after the other, and for how many steps at most."""
        for number in itertools.count():
            name = self._left[number % len(self._left)]
            self._nearest.pop(name, None)
            yield Work(name), _TRY
            yield None, _LEAVE
            yield Work(name, back=True), _BACK

    def _look(self, seen: Seen) -> None:
        if seen.step == 0:
            self._nearest, self._progress, self._novel, self._tries, self._turns = {}, 0, 0, None, 0
        self._novel = self._novel + 1 if (seen.novelty or 0.0) > _NOVEL else 0
        for name in wanted(seen.goal):
            distance, nearest = ELEMENTS[name].distance(seen.state), self._nearest.get(name, np.inf)
            if distance < nearest - _NEARER or distance > nearest + _AWAY:
                self._nearest[name], self._progress = distance, seen.step
        self._left = [name for name in wanted(seen.goal) if not ELEMENTS[name].is_done(seen.state)]


def _lifted(state: np.ndarray) -> bool:
    """Whether the kettle is off the stove."""
    return bool(state[25] > _LIFTED)


def wanted(goal: ResolvedGoal) -> tuple[str, ...]:
    """The elements that a goal asks for."""
    return tuple(
        name
        for name, element in ELEMENTS.items()
        if goal.mask[list(element.dims)].all() and element.is_done(goal.state)
    )
