"""The page of a running server: it watches robots and acts on them by the admin service alone."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from rpl_runtime.auth.client import Access
from rpl_runtime.client.admin import Admin, Specs
from rpl_runtime.errors import PermissionDenied, RelayError
from rpl_runtime.process import give_way
from rpl_runtime.view import controls
from rpl_runtime.view.controls import Controls
from rpl_runtime.view.gate import page_server
from rpl_runtime.view.hands import Hands
from rpl_runtime.view.page import Page
from rpl_runtime.wire.admin import RobotStatus

EVERY_S = 0.04  # [s] between two pictures
_FEW = 4  # robots; of more, every second picture is left out
_AGAIN_S = 1.0  # [s] until a server that is gone is tried again


def view_server(on_ready: Callable[[str], None], address: str, access: Access | None, port: int) -> None:
    """Show the robots of a server in a page, until an exception such as KeyboardInterrupt ends it.

    Args:
        on_ready: gets the page's address.
        address: of the server.
        access: how the server is reached; None reads it from the environment.
        port: of the page; 0 takes a free one.

    Raises:
        ServerUnavailable: no server answers; one that goes away later is waited for.
        Unauthenticated, PermissionDenied: the token has no right to watch.
        AddressInUse: the port is taken.
        MissingExtra: an optional dependency is not installed.
    """
    with ExitStack() as stack:
        admin = stack.enter_context(Admin(address, access=access))
        admin.robots()  # raises here if there is no server, or no right to watch
        give_way()
        server, where = stack.enter_context(page_server(port, "Relay policy"))
        specs = Specs(address, access)
        refusal = _refusal(admin)
        operator = _Operator(admin)
        page = Page(server, specs.default, None if refusal else operator.act)
        operator.page = page
        if refusal:
            page.tell(f"this page can only watch: {refusal}", bad=True)
        on_ready(where)
        while True:
            try:
                for number, robots in enumerate(admin.watch(EVERY_S)):
                    if number % 2 == 0 or len(robots) <= _FEW:
                        page.show(robots, specs.of(robots), wanted=operator.hands.wanted)
                    operator.notice(robots)
                    operator.hands.steer(page.viewers, {robot.robot: specs[robot.digest] for robot in robots})
            except RelayError as error:
                page.fault(f"{error}; trying again")
                time.sleep(_AGAIN_S)


def _refusal(admin: Admin) -> str | None:
    """Why the token may not act; None if it may. Listing the models changes nothing and needs the same right."""
    try:
        admin.models()
    except PermissionDenied as error:
        return str(error)
    return None


class _Operator:
    """Does what viewers ask for, and tells everybody what was done to the robots, also by others."""

    page: Page

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self.hands = Hands(admin, lambda sentence: self.page.tell(sentence, bad=True))
        self._seen: dict[str, RobotStatus] = {}
        self._asked: dict[tuple[str, str], int] = {}  # (robot, what) -> viewer who asked for it last

    def act(self, what: str, robot: RobotStatus, chosen: Controls, viewer: int) -> None:
        """Do one act of a viewer."""
        subgoal, name = np.array(robot.subgoal, dtype=np.float32), robot.robot
        if what in _DONE:
            self._asked[name, _DONE[what]] = viewer
        try:
            if what == controls.SEND:
                self._admin.set_goal(name, chosen.elements)
            elif what == controls.PIN:
                self._admin.pin(name, chosen.subgoal(subgoal).tolist())
                chosen.settle()
            elif what == controls.HOLD:
                self._admin.pin(name, robot.state)
                chosen.settle()
            elif what == controls.RELEASE:
                self._admin.release(name)
            elif what == controls.TAKE:
                self.hands.take(name, viewer)
            elif what == controls.TURN:
                self.hands.turn(name, viewer, chosen.target)
            elif what == controls.BACK:
                self.hands.give(name, viewer)
            else:
                self._admin.veto(name)
        except RelayError as error:
            self._asked.pop((name, _DONE.get(what, "")), None)
            if what == controls.TURN:
                chosen.let_go()
            self.page.tell(f"viewer {viewer}: {what} refused: {error}", bad=True)

    def notice(self, robots: list[RobotStatus]) -> None:
        """Tell what has happened to the robots since the last time."""
        now = {robot.robot: robot for robot in robots}
        for name in self._seen.keys() - now.keys():
            self.page.tell(f"{name} has ended its run")
        for name, robot in now.items():
            before = self._seen.get(name)
            if before is None or robot.step < before.step:
                self.page.tell(f"{name} begins a run")
            else:
                for done in _changes(before, robot):
                    viewer = self._asked.pop((name, done), None)
                    who = "an operator elsewhere" if viewer is None else f"viewer {viewer}"
                    self.page.tell(f"{who} {done} of {name}")
                if robot.hand != before.hand:
                    self.page.tell(f"{robot.hand} took over {name}" if robot.hand else f"{name} is the policy's again")
        self._seen = now


_PINNED, _RELEASED, _VETOED, _GOAL = (
    "pinned the subgoal",
    "released the subgoal",
    "vetoed the subgoal",
    "changed the goal",
)
_DONE = {
    controls.SEND: _GOAL,
    controls.PIN: _PINNED,
    controls.HOLD: _PINNED,
    controls.RELEASE: _RELEASED,
    controls.VETO: _VETOED,
}


def _changes(before: RobotStatus, now: RobotStatus) -> list[str]:
    """What operators did to a robot between two looks at it."""
    changes = []
    if now.pinned and (not before.pinned or now.subgoal != before.subgoal):
        changes.append(_PINNED)
    if before.pinned and not now.pinned:
        changes.append(_RELEASED)
    if now.vetoes > before.vetoes:
        changes.append(_VETOED)
    if (now.goal, now.mask) != (before.goal, before.mask):
        changes.append(_GOAL)
    return changes
