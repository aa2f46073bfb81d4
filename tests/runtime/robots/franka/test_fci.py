"""Calls into the vendor's library: each has a deadline, and only its own threads get a real-time priority."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ruckig", reason="needs the franka extra")

import franky_in_step
from rpl_runtime.errors import RelayError, RobotStopped, RobotUnavailable
from rpl_runtime.robots.franka.fci import Calls
from rpl_runtime.robots.franka.frames import to_franka
from rpl_runtime.robots.franka.franka import HOME, FrankaConfig, FrankaRobot, Load
from rpl_runtime.robots.franka.objects import UNTOUCHED, FixedObjects
from rpl_runtime.robots.franka.sim import simulated_robot

CONFIG = FrankaConfig(realtime=False, load=Load(0.3, (0.0, 0.0, 0.1), (1e-3, 0, 0, 0, 1e-3, 0, 0, 0, 1e-3)))


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls("calls")
    yield calls
    calls.close()


def test_a_call_returns_and_raises_what_it_does(calls: Calls) -> None:
    assert calls("one", lambda: threading.current_thread().name) == "calls"
    with pytest.raises(ZeroDivisionError):
        calls("two", lambda: 1 / 0)
    assert calls("three", lambda: 3) == 3


def test_a_call_that_does_not_return_is_given_up_and_so_is_every_later_one(calls: Calls) -> None:
    returns, made = threading.Event(), list[str]()
    with pytest.raises(TimeoutError, match=r"state did not return within 0\.05 s; the arm was left to its own"):
        calls("state", returns.wait, 0.05)
    with pytest.raises(TimeoutError, match="franky's state did not return"):
        calls("move", lambda: made.append("moved"))
    returns.set()
    assert made == []


@pytest.fixture
def until_the_end() -> Iterator[threading.Event]:
    over, before = threading.Event(), threading.enumerate()
    yield over
    over.set()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join()
    franky_in_step.Robot.made.motion = (
        None  # its arm is left to the end of the process, and would keep ruckig's objects
    )


_ARM = ("Robot", "set_collision_behavior", "set_load", "state", "move", "join_motion", "poll_motion", "gravity")
_HAND = ("Gripper", "width", "open_async", "move_async")


@pytest.mark.parametrize("name", [*_ARM, "joint_jerk_limit.set", "add_reaction", *_HAND])
def test_whichever_call_hangs_the_run_ends_in_time_and_names_it(
    name: str, until_the_end: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A robot behind which the call hangs for good, once the test says so."""
    module, hangs = franky_in_step.module(), threading.Event()

    def hanging(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            if hangs.is_set():
                until_the_end.wait()
            return call(*arguments, **named)

        return made

    class Hand(module.Gripper):  # type: ignore[name-defined]
        pass

    class Arm(module.Robot):  # type: ignore[name-defined]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.model.gravity = hanging(self.model.gravity) if name == "gravity" else self.model.gravity
            if name.endswith("limit.set"):
                self.joint_jerk_limit.set = hanging(self.joint_jerk_limit.set)

    place = {"gravity": None, "joint_jerk_limit.set": None, "add_reaction": module.JointWaypointMotion}.get(
        name, Hand if name in _HAND else Arm
    )
    if name in ("state", "width"):
        value: Any = franky_in_step.Robot.state.fget if name == "state" else (lambda hand: 0.08)
        setattr(place, name, property(hanging(value)))
    elif name in ("Robot", "Gripper"):
        place.__init__ = hanging(place.__init__)  # type: ignore[union-attr,misc]
    elif place is not None:
        monkeypatch.setattr(place, name, hanging(getattr(place, name)))
    module.Robot, module.Gripper = Arm, Hand
    monkeypatch.setitem(sys.modules, "franky", module)
    monkeypatch.setattr(Calls.__call__, "__defaults__", (0.2,))
    monkeypatch.setattr("rpl_runtime.robots.franka.franka._CONNECTED_S", 0.2)
    Arm.start = to_franka(HOME)
    began = time.monotonic()
    if name in ("Robot", "set_collision_behavior", "set_load", "joint_jerk_limit.set", "Gripper", "width"):
        hangs.set()
        with pytest.raises(RobotUnavailable, match=f"no robot to drive at host: franky's {name} did not return"):
            FrankaRobot("host", FixedObjects(UNTOUCHED), CONFIG)
    else:
        robot = FrankaRobot("host", FixedObjects(UNTOUCHED), CONFIG)
        try:
            robot.reset(0)
            robot.observe()
            hangs.set()
            with pytest.raises(RobotStopped, match=f"franky's {name} did not return within 0.2 s"):
                robot.reset(0) if name == "open_async" else drive(robot)
        finally:
            with suppress(RelayError):
                robot.close()
    assert time.monotonic() - began < 10
    until_the_end.set()


def drive(robot: FrankaRobot) -> None:
    """Lead the arm on and close the hand, until something happens; not for ever."""
    if robot._lines.moving:
        robot.stop()
    for _ in range(100):
        robot.apply(np.append(robot.observe()[:7] + 0.05, [0.02, 0.02]))


def test_a_robot_that_answers_a_connection_with_silence_is_no_robot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpl_runtime.robots.franka.franka._CONNECTED_S", 0.3)
    host = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.31"
    with (
        socket.create_server((host, 1337)),
        pytest.raises(RobotUnavailable, match=r"Robot did not return within 0\.3 s"),
    ):
        FrankaRobot(host, FixedObjects(UNTOUCHED), CONFIG)


def test_only_the_vendors_own_threads_get_a_real_time_priority() -> None:
    pytest.importorskip("franky_sim", reason="needs the franka-sim extra")
    host = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.32"
    with simulated_robot(host), closing(FrankaRobot(host, FixedObjects(UNTOUCHED), CONFIG)) as robot:
        robot.reset(0)
        policies = {thread.name: os.sched_getscheduler(thread.native_id or 0) for thread in threading.enumerate()}
        robot.stop()
    assert policies.pop("franka-arm") in (os.SCHED_FIFO, os.SCHED_OTHER)  # where the system permits it
    assert set(policies.values()) == {os.SCHED_OTHER}
