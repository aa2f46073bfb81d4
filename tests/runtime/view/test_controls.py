"""The controls of a page, by the server's side of it: what a robot's state shows, and what somebody set."""

import numpy as np
import pytest

from policies import tiny_spec
from rpl_runtime.policy.spec import ElementSpec
from rpl_runtime.relay.messages import StageTimes
from rpl_runtime.view.controls import Controls
from rpl_runtime.view.gate import page_server
from rpl_runtime.view.page import Page
from rpl_runtime.view.panel import Panel
from rpl_runtime.wire.admin import RobotStatus

pytest.importorskip("viser", reason="needs the view extra")

SPEC = tiny_spec()


def asked_for(element: str, subgoal: tuple[float, ...] = ()) -> RobotStatus:
    mask = np.zeros(SPEC.state.dim)
    mask[list(SPEC.elements[element].dims)] = 1
    times = StageTimes(1.0, 20.0, 30.0, 60.0)
    return RobotStatus("cart", "tiny", "d" * 64, "ipv4:1", 1, 7, 3, subgoal, 0.1, times, mask=tuple(mask.tolist()))


def test_a_tick_stays_however_many_pictures_come_until_the_robot_has_another_goal() -> None:
    with page_server(0, "a page") as (server, _):
        controls = Controls(server.gui, SPEC, None, lambda what, viewer: None)
        controls.follow(asked_for("door"), None)
        assert controls.elements == ("door",)
        controls._ticks["lamp"].value = True  # as a viewer's message does, before anybody hears of it
        controls.follow(asked_for("door"), None)
        assert controls.elements == ("door", "lamp")
        controls.follow(asked_for("dock"), None)
        assert controls.elements == ("dock",)


def test_a_slider_stays_where_a_viewer_put_it_until_the_change_is_used() -> None:
    closed, half_open = (0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.75, 0.0)
    with page_server(0, "a page") as (server, _):
        controls = Controls(server.gui, SPEC, np.zeros(SPEC.state.dim), lambda what, viewer: None)
        controls.follow(asked_for("door", half_open), None)
        assert not controls.changed
        controls._sliders["door"].value = 100  # as a viewer's message does, before anybody hears of it
        controls.follow(asked_for("door", closed), None)
        assert controls.changed
        changed = controls.subgoal(np.array(closed))
        assert changed[3] == SPEC.elements["door"].goal[0]
        SPEC.state.check("far plan", controls.subgoal(np.array([-9.0, 0.0, 0.0, 0.0, 9.0])))  # as a pin must pass
        controls.settle()
        controls.follow(asked_for("door", closed), None)
        assert not controls.changed
        assert controls.subgoal(np.array(closed))[3] == 0.0


def test_a_slider_that_is_moved_while_the_page_follows_the_robot_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, half_open = (0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.75, 0.0)
    with page_server(0, "a page") as (server, _):
        controls = Controls(server.gui, SPEC, np.zeros(SPEC.state.dim), lambda what, viewer: None)
        controls.follow(asked_for("door", half_open), None)
        worked_out = controls._share

        def and_a_viewer_moves(element: ElementSpec, state: np.ndarray) -> float:
            if element is SPEC.elements["door"]:
                controls._sliders["door"].value = 100
            return worked_out(element, state)

        monkeypatch.setattr(controls, "_share", and_a_viewer_moves)
        controls.follow(asked_for("door", closed), None)
        assert controls._sliders["door"].value == 100
        assert controls.changed


def test_the_target_of_a_robot_in_hand_is_shown_as_far_as_it_can_be_read() -> None:
    wanted = np.array([1 / 3] * SPEC.action.dim)
    with page_server(0, "a page") as (server, _):
        controls = Controls(server.gui, SPEC, None, lambda what, viewer: None)
        controls.follow(asked_for("door"), wanted)
        assert all(len(str(slider.value)) <= 6 for slider in controls._turns)
        assert all(len(str(slider.min)) <= 6 for slider in controls._turns)
        assert (controls.target(wanted) == wanted).all()  # nobody has moved a slider


def test_a_subgoal_has_no_age_while_a_hand_has_the_robot() -> None:
    with page_server(0, "a page") as (server, _):
        panel = Panel(server, lambda name: None)
        panel.show(("cart",), asked_for("door"), SPEC)
        assert f"age 3 of {SPEC.horizon}" in panel._status.content
        panel.show(("cart",), asked_for("door")._replace(hand="anna", age=304), SPEC)
        assert "not followed" in panel._status.content
        assert "304" not in panel._status.content


def test_a_robot_in_hand_has_no_ghost_unless_its_subgoal_is_pinned() -> None:
    led = asked_for("door", (0.0,) * SPEC.state.dim)._replace(state=(0.0,) * SPEC.state.dim, hand="anna")
    with page_server(0, "a page") as (server, _):
        page = Page(server, SPEC)
        ghosts = [page._actor(robot, np.zeros((0, 3))).subgoal for robot in (led, led._replace(pinned=True))]
        assert [ghost is None for ghost in ghosts] == [True, False]
