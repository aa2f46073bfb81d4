"""The operator's controls of one robot: a goal to tick, sliders to pin a subgoal, and sliders to lead it by hand."""

import functools
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime.policy.spec import ElementSpec, PolicySpec
from rpl_runtime.wire.admin import RobotStatus

if TYPE_CHECKING:
    import viser

SEND, HOLD, PIN, RELEASE, VETO = "Send goal", "Hold", "Pin", "Release", "Veto"
TAKE, BACK, TURN = "Take over", "Hand back", "Slider"
_SUBGOAL_ACTS = {
    PIN: "Keep the subgoal that is drawn, with the sliders' changes, in place of every plan.",
    RELEASE: "End a pin or a hold: the policy plans again.",
    VETO: "Discard the subgoal: the policy plans another.",
    HOLD: "Pin the state as it is now: the policy keeps the robot where it is. Not a stop of the motors.",
}
_HAND_ACTS = {
    TAKE: "Decide the robot's targets yourself, in place of the policy: it holds until you move a slider.",
    BACK: "Give the robot back: the policy plans from where it is.",
}


class Controls:
    """The controls; they follow the robot until somebody changes one, and then keep the change until it is used.

    Args:
        gui: of the page.
        spec: of the robot's policy.
        rest: (n,) a state in which no element is done; None: there are no sliders.
        act: called with one of the names above and the number of the viewer who asks for it.
    """

    def __init__(
        self, gui: "viser.GuiApi", spec: PolicySpec, rest: np.ndarray | None, act: Callable[[str, int], None]
    ) -> None:
        self._spec, self._rest = spec, np.zeros(spec.state.dim) if rest is None else rest
        self._turned: dict[int, float] = {}  # dimension of the target -> value that somebody set
        self._in_hand = ""  # the robot whose target the sliders of the hand show
        self._shown: dict[str, int] = {}  # element -> value of its slider that the page, and not a viewer, set last
        self._planned: tuple[float, ...] = ()  # the subgoal that was followed last
        self._shares: dict[str, int] = {}  # element -> value of its slider for that
        self._turn_to_show = threading.Lock()  # viewers act in threads of their own
        self._goal = b""  # mask of the goal that was shown; whoever ticks something changes that
        self._tabs = gui.add_tab_group(order=6)  # below the status, which stays in view in a small window
        with self._tabs.add_tab("Goal"):
            self._ticks = {name: gui.add_checkbox(name, False) for name in spec.elements}
            self._button(gui, SEND, "Give the robot this goal in place of its own.", act)
        with self._tabs.add_tab("Subgoal"):
            sliding = () if rest is None else spec.elements
            self._sliders = {name: gui.add_slider(name, 0, 100, 1, 0) for name in sliding}
            self.settle()
            for name, hint in _SUBGOAL_ACTS.items():
                self._button(gui, name, hint, act)
        with self._tabs.add_tab("Hand"):
            for name, hint in _HAND_ACTS.items():
                self._button(gui, name, hint, act)
            action = spec.action
            dims = zip(action.names, action.units, action.low, action.high, strict=True)
            self._turns = []
            for name, unit, low, high in dims:
                digits = _digits(low, high)
                low, high = round(low, digits), round(high, digits)
                self._turns.append(gui.add_slider(f"{name} [{unit}]", low, high, 10.0**-digits, low, disabled=True))
            for dim, slider in enumerate(self._turns):
                slider.on_update(functools.partial(self._turn, dim, act))

    def remove(self) -> None:
        """Take the controls off the page."""
        self._tabs.remove()

    @property
    def elements(self) -> tuple[str, ...]:
        """The ticked elements."""
        return tuple(name for name, tick in self._ticks.items() if tick.value)

    @property
    def changed(self) -> bool:
        """Whether a slider was moved."""
        return bool(self._moved())

    def click(self, element: str) -> None:
        """Tick an element, or take its tick away."""
        self._ticks[element].value = not self._ticks[element].value

    def subgoal(self, planned: np.ndarray) -> np.ndarray:
        """A subgoal (n,) with the sliders' changes, in the range of a state, which a plan may leave and a pin not."""
        subgoal = np.clip(planned, *self._spec.state.bounds)
        for name, share in self._moved().items():
            element = self._spec.elements[name]
            dims = list(element.dims)
            subgoal[dims] = self._rest[dims] + share * (np.array(element.goal) - self._rest[dims])
        return subgoal

    def target(self, wanted: np.ndarray) -> np.ndarray:
        """A target (m,) with the changes of the hand's sliders."""
        target = wanted.copy()
        for dim, value in self._turned.items():
            target[dim] = value
        return target

    def follow(self, robot: RobotStatus, wanted: np.ndarray | None) -> None:
        """Show the robot's goal and subgoal where nobody has changed them.

        Args:
            robot: as it is now.
            wanted: (m,) the target of a robot that a viewer has in hand.
        """
        if robot.robot != self._in_hand or wanted is None:
            self._in_hand, self._turned = "" if wanted is None else robot.robot, {}
            for dim, slider in enumerate(self._turns):
                slider.disabled = wanted is None
                if wanted is not None:
                    slider.value = round(float(wanted[dim]), _digits(slider.min, slider.max))
        mask = np.array(robot.mask, dtype=np.float32)
        if mask.tobytes() != self._goal:
            self._goal, asked = mask.tobytes(), self._spec.asked(mask)
            for name, tick in self._ticks.items():
                tick.value = name in asked
        if not robot.subgoal:
            return
        if robot.subgoal != self._planned:
            subgoal = np.array(robot.subgoal, dtype=np.float32)
            elements = self._spec.elements
            self._shares = {name: round(100 * self._share(elements[name], subgoal)) for name in self._sliders}
            self._planned = robot.subgoal
        with self._turn_to_show:
            for name, share in self._shares.items():
                slider, before = self._sliders[name], self._shown[name]
                if share != before and slider.value == before:  # looked at last: viewers move it at any time
                    self._shown[name] = share
                    slider.value = share

    def settle(self) -> None:
        """Forget the sliders' changes."""
        self._shown = {name: slider.value for name, slider in self._sliders.items()}

    def let_go(self) -> None:
        """Show the target of the robot in hand again."""
        self._in_hand = ""

    def _moved(self) -> dict[str, float]:
        """Element -> share of the way to its goal, of each slider that somebody has moved."""
        with self._turn_to_show:
            return {name: one.value / 100 for name, one in self._sliders.items() if one.value != self._shown[name]}

    def _share(self, element: ElementSpec, state: np.ndarray) -> float:
        """The share of the way from rest to an element's goal at which a state (n,) is, from 0 to 1."""
        dims = list(element.dims)
        way = np.array(element.goal) - self._rest[dims]
        return float(np.clip((state[dims] - self._rest[dims]) @ way / max(way @ way, 1e-9), 0.0, 1.0))

    def _turn(self, dim: int, act: Callable[[str, int], None], event: "viser.GuiEvent[viser.GuiSliderHandle]") -> None:
        if event.client_id is not None:
            self._turned[dim] = event.target.value
            act(TURN, event.client_id + 1)

    def _button(self, gui: "viser.GuiApi", name: str, hint: str, act: Callable[[str, int], None]) -> None:
        button = gui.add_button(name, hint=hint, color="blue" if name in (SEND, PIN, TAKE) else "gray")
        button.on_click(lambda event: act(name, event.client_id + 1))  # type: ignore[operator]  # a browser's


def _digits(low: float, high: float) -> int:
    """Decimals of a target, at least a hundred values in its range. More do not fit into the box beside a slider."""
    return max(0, 2 - math.floor(math.log10(high - low)))
