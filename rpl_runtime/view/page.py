"""The page: robots on the stage, and the chosen one in the panel."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.tasks.load import scenery_of
from rpl_runtime.tasks.scenery import OPERATOR, POLICY
from rpl_runtime.view.controls import Controls
from rpl_runtime.view.panel import Panel
from rpl_runtime.view.stage import Actor, Stage
from rpl_runtime.wire.admin import RobotStatus

if TYPE_CHECKING:
    import viser

TRAIL = 120  # control steps of the flange's way that are drawn

Act = Callable[
    [str, RobotStatus, Controls, int], None
]  # a control's name, the robot, its controls, the viewer's number


class Page:
    """One page, which all of its viewers share: they choose the same robot and see each other's changes.

    Args:
        server: of the page.
        spec: of the policy whose task the page draws; robots of another task are listed and not drawn.
        act: does what somebody asks for by a control; None: the page has no controls.
    """

    def __init__(self, server: "viser.ViserServer", spec: PolicySpec, act: Act | None = None) -> None:
        self._server, self._spec, self._act = server, spec, act
        self._panel = Panel(server, self._choose)
        self.tell = self._panel.tell
        scenery = scenery_of(spec)
        self._stage = None if scenery is None else Stage(server, scenery)
        self._controls: Controls | None = None
        if scenery is None:
            self.tell(f"policy {spec.name} is for a task without a model: it is told of and not drawn", bad=True)
        if act is not None:
            self._controls = Controls(server.gui, spec, scenery and scenery.rest, self._asked)
        if self._stage is not None and self._controls is not None:
            self._stage.on_click(self._controls.click)
        self._chosen = ""
        self._robots: dict[str, RobotStatus] = {}
        self._drawn: list[str] = []  # names of the robots on the stage
        self._trails: dict[str, deque[np.ndarray]] = {}

    def show(
        self,
        robots: Sequence[RobotStatus],
        specs: Mapping[str, PolicySpec],
        trails: Mapping[str, np.ndarray] | None = None,
        wanted: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Show robots.

        Args:
            robots: as they are now.
            specs: of their policies, by digest.
            trails: robot -> (T, 3) [m] the way of its flange; None: the way that it was shown to go.
            wanted: robot -> (m,) target, of those that a viewer has in hand.
        """
        with self._server.atomic():  # one message to each browser
            self._show(robots, specs, trails, wanted)

    def _show(
        self,
        robots: Sequence[RobotStatus],
        specs: Mapping[str, PolicySpec],
        trails: Mapping[str, np.ndarray] | None,
        wanted: Mapping[str, np.ndarray],
    ) -> None:
        self._robots = {robot.robot: robot for robot in robots}
        if self._chosen not in self._robots:
            self._chosen = next(iter(self._robots), "")
        drawn = [robot for robot in robots if robot.state and self._drawable(specs[robot.digest])]
        self._drawn = [robot.robot for robot in drawn]
        if self._stage is not None:
            trails = {robot.robot: self._trail(robot) for robot in drawn} if trails is None else trails
            self._stage.show([self._actor(robot, trails[robot.robot]) for robot in drawn])
        chosen = self._robots.get(self._chosen)
        if chosen is None:
            self._panel.show_nothing("No robot runs on this server. `rpl run` starts one.")
            return
        self._panel.show(tuple(self._robots), chosen, specs[chosen.digest])
        if self._controls is not None and chosen in drawn:
            self._controls.follow(chosen, wanted.get(self._chosen))

    @property
    def viewers(self) -> set[int]:
        """The numbers of those who look at the page now."""
        return {number + 1 for number in self._server.get_clients()}

    def fault(self, sentence: str) -> None:
        """Say why nothing can be shown."""
        self._panel.show_nothing(sentence)

    def _drawable(self, spec: PolicySpec) -> bool:
        return spec.state.names == self._spec.state.names

    def flange(self, state: np.ndarray) -> np.ndarray:
        """Where the flange is (3,) [m] in a state (n,); zeros if the task cannot be drawn."""
        return np.zeros(3) if self._stage is None else self._stage.flange(state)

    def _actor(self, robot: RobotStatus, trail: np.ndarray) -> Actor:
        state = np.array(robot.state, dtype=np.float32)
        subgoal = np.array(robot.subgoal, dtype=np.float32) if robot.subgoal else None
        edited = self._controls is not None and robot.robot == self._chosen and self._controls.changed
        if edited and subgoal is not None:
            subgoal = self._controls.subgoal(subgoal)  # type: ignore[union-attr]
        if robot.hand and not (robot.pinned or edited):
            subgoal = None  # of the plan before the hand, which nobody follows; the policy will make another
        colour = OPERATOR if robot.pinned or edited else POLICY
        return Actor(robot.robot, state, subgoal, colour, trail)

    def _trail(self, robot: RobotStatus) -> np.ndarray:
        """The way of a robot's flange (T, 3) [m] until now; it begins anew with each run."""
        trail = self._trails.setdefault(robot.robot, deque(maxlen=TRAIL))
        if robot.step <= 1:
            trail.clear()
        point = self.flange(np.array(robot.state))
        if not trail or not np.array_equal(trail[-1], point):
            trail.append(point)
        return np.array(trail)

    def _choose(self, name: str) -> None:
        self._chosen = name
        if self._stage is not None and name in self._drawn:
            self._stage.look(self._drawn.index(name), len(self._drawn))
        if self._controls is not None:
            self._controls.settle()

    def _asked(self, what: str, viewer: int) -> None:
        robot, controls = self._robots.get(self._chosen), self._controls
        if robot is None:
            self.tell("no robot runs that this could be done to", bad=True)
        elif self._act is not None and controls is not None:
            self._act(what, robot, controls, viewer)
