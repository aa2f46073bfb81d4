"""Pilots: each takes a robot in hand, decides its targets for a while, and hands it back to the policy.

A pilot may be a script, another policy, a demonstrator, or a person at a device. A run loop asks it once for each
control step; what it decides goes the way of a policy's target: through the state estimator to the robot, and there
through the safety filter. The server only counts the steps of a robot in hand, so a hand needs no server to go on.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from rpl_runtime.errors import InvalidInput, RelayError
from rpl_runtime.factories import call_factory, failed
from rpl_runtime.loop.watchdog import Event
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.messages import NOTHING, Action, Applied, HandBack, Noted, Request
from rpl_runtime.relay.run_state import POLICY, TakeOver

ASKED = "the policy asks for help"
DEVICES = ("gamepad", "spacemouse")  # factories of device.py


class Seen(NamedTuple):
    """A control step as a pilot sees it."""

    step: int  # 0 begins a run
    state: np.ndarray  # (n,) in which the step is decided
    goal: ResolvedGoal
    target: np.ndarray | None  # (m,) of the step before, from which a hand goes on; None at the first
    help: bool  # whether the policy asked for help at the step before
    novelty: float | None  # of the state of the step before; None: the bundle cannot score states
    bounds: tuple[np.ndarray, np.ndarray]  # (m,) the lowest and the highest accepted target


class Pilot(Protocol):
    """Decides a robot's targets for some steps of a run. It must answer within a part of the control period."""

    name: str  # the author of its steps, 1 to 128 printable characters

    def takes_over(self, seen: Seen) -> str | None:
        """Why the pilot takes over at this step, in one sentence; None: the policy goes on. Not asked in hand."""
        ...

    def target(self, seen: Seen) -> np.ndarray | None:
        """The target (m,) of this step, in the units of the policy's spec; None hands the robot back."""
        ...


def load_pilot(reference: str) -> Pilot:
    """The pilot that a `module:factory` makes, or the person at a gamepad or spacemouse (device.py).

    Raises:
        InvalidInput: there is no such factory, or it makes something else.
    """
    if reference in DEVICES:
        reference = f"rpl_runtime.loop.device:{reference}"
    pilot = call_factory(reference, "rpl_train.tasks.kitchen.pilot:demonstrator")
    if not isinstance(getattr(pilot, "name", None), str) or not all(
        callable(getattr(pilot, method, None)) for method in ("takes_over", "target")
    ):
        raise InvalidInput(f"{reference} makes a {type(pilot).__name__}; must be a pilot: name, takes_over and target")
    return pilot


class OnHelp:
    """A pilot that also takes over when the policy asks for help."""

    def __init__(self, pilot: Pilot) -> None:
        self.name = pilot.name
        self.target = pilot.target
        self._pilot = pilot

    def takes_over(self, seen: Seen) -> str | None:
        return self._pilot.takes_over(seen) or (ASKED if seen.help else None)


class Between:
    """A pilot that takes over at one step and hands back at another, or earlier if it has no target.

    Raises:
        InvalidInput: the second is not after the first.
    """

    def __init__(self, pilot: Pilot, first: int, last: int) -> None:
        if not 0 <= first < last:
            raise InvalidInput(f"a pilot takes over at step {first} and hands back at {last}; must be a later step")
        self.name = pilot.name
        self._pilot, self._first, self._last = pilot, first, last
        self._over = False

    def takes_over(self, seen: Seen) -> str | None:
        self._over = self._over and seen.step > 0
        in_time = self._first <= seen.step < self._last
        return f"it was told to at step {self._first}" if in_time and not self._over else None

    def target(self, seen: Seen) -> np.ndarray | None:
        target = self._pilot.target(seen) if seen.step < self._last else None
        self._over = target is None
        return target


class Holding:
    """Holds the robot at its last target for as long as the policy asks for help."""

    name = "hold"

    def takes_over(self, seen: Seen) -> str | None:
        return ASKED if seen.help else None

    def target(self, seen: Seen) -> np.ndarray | None:
        return seen.target if seen.help else None


class Helm:
    """Who decides the steps of one run: the policy, or a pilot that has the robot in hand.

    Args:
        pilot: None: the policy alone.
        spec: of the policy.
        on_event: is told of each takeover and each return.
    """

    def __init__(self, pilot: Pilot | None, spec: PolicySpec, on_event: Callable[[Event], None]) -> None:
        self.author = POLICY  # of the next step
        self.untold: list[Request] = []  # requests that the relay loop must still get, in this order
        self._pilot, self._spec, self._on_event = pilot, spec, on_event
        self._period_ns = round(spec.period_s * 1e9)
        self._target: np.ndarray | None = None
        self._subgoal, self._age = NOTHING, -1  # of the last step
        self._said = Noted(-1)  # by the policy last
        self._operator = ""  # of the server, who decided the last step

    def take(self, step: int, state: np.ndarray, goal: ResolvedGoal, observed_ns: int) -> Action | None:
        """The pilot's action for a step in a state (n,), observed at a time [ns]; None: the policy decides the step.

        The action names the subgoal that the policy followed last, or the state if there is none yet.

        Raises:
            InvalidInput: the pilot fails, or its target is not accepted.
        """
        pilot = self._pilot
        if pilot is None:
            return None
        seen = Seen(step, state, goal, self._target, self._said.help, self._said.novelty, self._spec.action.bounds)
        try:
            why = pilot.takes_over(seen) if self.author == POLICY else ""
            target = None if why is None else pilot.target(seen)
        except RelayError:
            raise
        except Exception as error:  # somebody's own pilot may raise anything
            raise failed(f"the pilot {pilot.name} fails at step {step}", error) from error
        if target is None:
            if self.author != POLICY:
                self._hand_over(POLICY, HandBack(), Event(observed_ns, "handed back", f"{pilot.name} at step {step}"))
            return None
        target = self._spec.action.check(f"target of {pilot.name}", target)
        if self.author == POLICY:
            event = Event(observed_ns, "taken over", f"{pilot.name} at step {step}: {why}")
            self._hand_over(pilot.name, TakeOver(pilot.name, why or ""), event)
        subgoal = self._subgoal if len(self._subgoal) else state
        return Action(target, subgoal, self._age + 1, False, observed_ns + self._period_ns)

    def applied(self, step: int, state: np.ndarray, action: Action) -> None:
        """Note that the robot follows an action of a step in a state (n,), whoever decided it."""
        self._target, self._subgoal, self._age = action.target, action.subgoal, action.age
        if action.author != self._operator:
            kind, by = ("taken over", action.author) if action.author else ("handed back", self._operator)
            at_ns = action.valid_until_ns - self._period_ns
            self._on_event(Event(at_ns, kind, f"{by} at step {step}, an operator of the server"))
            self._operator = action.author
        if self.author == POLICY:
            self.heard(action)
        else:
            self.untold.append(Applied(step, state, action.target))

    def heard(self, reply: Action | Noted) -> None:
        """Note what the policy said about a step."""
        self._said = Noted(-1, reply.novelty, None, reply.help)

    def _hand_over(self, author: str, request: Request, event: Event) -> None:
        self.author = author
        self.untold.append(request)
        self._on_event(event)
