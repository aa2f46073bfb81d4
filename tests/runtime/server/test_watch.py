"""What viewers see of the robots of a running server, and a goal that an operator sends."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rpl_runtime.auth.client import Access
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.auth.tokens import Right, add_grant, grant
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidGoal, PermissionDenied, ProtocolViolation, RobotNotFound, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.relay.messages import Action
from rpl_runtime.server.server import ServerConfig, serve_in_thread

STATES = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 5)).astype(np.float32)


@pytest.fixture
def address(tiny_bundle: Bundle) -> Iterator[str]:
    with serve_in_thread(tiny_bundle) as address:
        yield address


def test_a_viewer_sees_state_subgoal_and_goal_of_the_last_step(address: str) -> None:
    with Client(address) as client, client.control() as control, Admin(address) as admin:
        started = control.start("a", ["door"], STATES[0])
        views = admin.watch(0.0)
        [before] = next(views)
        assert (before.step, before.state, before.subgoal) == (0, (), ())
        for step in range(3):
            action = control.step("a", step, STATES[step])
        [seen] = next(views)
        assert (seen.robot, seen.step, seen.age) == ("a", 3, 2)
        np.testing.assert_array_equal(seen.state, STATES[2])
        np.testing.assert_array_equal(seen.subgoal, action.subgoal)
        np.testing.assert_array_equal(seen.goal, started.goal.state)
        np.testing.assert_array_equal(seen.mask, started.goal.mask)
        control.finish("a")
        assert next(views) == []
        views.close()


def test_a_viewer_that_is_slow_to_ask_gets_the_latest_and_nothing_in_between(address: str) -> None:
    with Client(address) as client, client.control() as control, Admin(address) as admin:
        control.start("a", ["door"], STATES[0])
        views = admin.watch(0.0)
        next(views)
        for step in range(12):
            control.step("a", step, STATES[step])
        assert [robot.step for robot in next(views)] == [12]
        views.close()


def test_a_viewer_that_sleeps_too_long_makes_up_for_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    every_s, late_s, asked_s = 0.2, 0.05, list[float]()

    def sleep(seconds: float) -> None:
        asked_s.append(seconds)
        time.sleep(seconds + late_s)

    monkeypatch.setattr("rpl_runtime.client.admin.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with Admin(address) as admin:
        views = admin.watch(every_s)
        for _ in range(5):
            next(views)
        views.close()
    assert asked_s[0] <= every_s
    assert max(asked_s[1:]) <= every_s - late_s


def test_all_robots_are_seen_by_all_viewers(address: str) -> None:
    names = [f"arm-{number:02}" for number in range(20)]
    with Client(address) as client, client.control() as control, Admin(address) as one, Admin(address) as other:
        for name in names:
            control.start(name, ["door"], STATES[0])
        views = [one.watch(0.0), other.watch(0.0)]
        for view in views:
            assert [robot.robot for robot in next(view)] == names
            view.close()


def test_a_goal_that_an_operator_sends_is_followed_and_told_to_the_client(address: str, tiny_bundle: Bundle) -> None:
    with Client(address) as client, client.control() as control, Admin(address) as admin:
        control.start("a", ["door"], STATES[0])
        with pytest.raises(ProtocolViolation, match="'a' has sent no state yet"):
            admin.set_goal("a", ["lamp"])
        assert control.step("a", 0, STATES[0]).goal is None
        sent = admin.set_goal("a", ["lamp"])
        expected = tiny_bundle.spec.resolve(["lamp"], STATES[0])
        np.testing.assert_array_equal(sent.state, expected.state)
        np.testing.assert_array_equal(sent.mask, expected.mask)
        action = control.step("a", 1, STATES[1])
        assert action.replanned
        assert action.goal is not None
        np.testing.assert_array_equal(action.goal.state, expected.state)
        np.testing.assert_array_equal(admin.robot("a").goal, expected.state)
        assert control.step("a", 2, STATES[2]).goal is None
        with Client(address) as second, second.control() as own:
            own.start("b", sent, STATES[1])
            np.testing.assert_array_equal(own.step("b", 0, STATES[1]).subgoal, action.subgoal)

        with pytest.raises(InvalidGoal, match="unknown element 'window'; must be one of door, lamp, dock"):
            admin.set_goal("a", ["window"])
        with pytest.raises(RobotNotFound, match="no robot 'c' runs here"):
            admin.set_goal("c", ["lamp"])


def test_watching_and_acting_are_two_rights(tiny_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for name, rights in (("viewer", [Right.WATCH]), ("operator", [Right.ADMINISTER]), ("arm", [Right.ACT])):
        add_grant(file, grant(name, name, rights))
    config = ServerConfig(address="127.0.0.1:0", security=SecurityConfig(tokens=file))
    with serve_in_thread(tiny_bundle, config) as address:
        with Admin(address, access=Access(token="viewer")) as viewer:
            assert next(viewer.watch(0.0)) == viewer.robots() == []
            with pytest.raises(PermissionDenied, match="token viewer has no right to administer; it may watch"):
                viewer.veto("a")
            with pytest.raises(PermissionDenied):
                viewer.set_goal("a", ["door"])
        with Admin(address, access=Access(token="operator")) as operator:
            assert next(operator.watch(0.0)) == []
        with (
            Admin(address, access=Access(token="arm")) as arm,
            pytest.raises(PermissionDenied, match="token arm has no right to watch; it may act"),
        ):
            next(arm.watch(0.0))


def test_a_viewer_of_a_server_that_ends_is_told(tiny_bundle: Bundle) -> None:
    seen, fault = threading.Event(), []

    def look(address: str) -> None:
        try:
            with Admin(address) as admin:
                for _ in admin.watch(0.02):
                    seen.set()
        except ServerUnavailable as error:
            fault.append(error)

    with serve_in_thread(tiny_bundle) as address:
        viewer = threading.Thread(target=look, args=(address,))
        viewer.start()
        assert seen.wait(10)
    viewer.join(10)
    assert len(fault) == 1


def test_a_goal_that_an_operator_sends_is_told_in_columns_too(address: str, tiny_bundle: Bundle) -> None:
    """Steps of many robots in one message are answered another way, and viewers see them as well."""
    with Client(address) as client, client.control() as control, Admin(address) as admin:
        for robot in ("a", "b"):
            control.start(robot, ["door"], STATES[0])
        for step in range(2):
            control.step_batch(["a", "b"], [step, step], STATES[step : step + 2])
        seen = {robot.robot: robot.state for robot in admin.robots()}
        np.testing.assert_array_equal([seen["a"], seen["b"]], STATES[1:3])
        sent = admin.set_goal("b", ["lamp"])
        one, other = control.step_batch(["a", "b"], [2, 2], STATES[2:4])
        assert isinstance(one, Action)
        assert isinstance(other, Action)
        assert one.goal is None
        assert other.goal is not None
        np.testing.assert_array_equal(other.goal.state, sent.state)
        again = control.step_batch(["a", "b"], [3, 3], STATES[3:5])
        assert [action.goal for action in again if isinstance(action, Action)] == [None, None]
