"""The operator's table of robots: every unit said, and no name taken for markup."""

import os

import numpy as np
from rich.console import Console

import policies
from processes import RPL, started
from rpl_runtime.cli.top import robots_table, step_rates
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.relay.messages import StageTimes
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.wire.admin import RobotStatus


def test_a_name_does_nothing_to_the_terminal() -> None:
    hostile, times = "\x1b]0;owned\x07\x1b[2Jx\n", StageTimes(1.0, 1.0, 1.0, 1.0)
    robot = RobotStatus(hostile, hostile, hostile, hostile, 1, 7, 3, (), 2.5, times)
    console = Console(record=True, width=400)
    console.print(robots_table([robot, robot._replace(hand=hostile)], {}, hostile))
    shown = console.export_text(styles=False)
    assert "\\x1b]0;owned\\x07\\x1b[2Jx\\n" in shown
    assert not set(shown) & set("\x1b\x07\x9b")


def test_units_are_shown_and_names_stay_as_they_are() -> None:
    robot = RobotStatus("[red]a", "[/]kitchen", "d" * 64, "ipv4:1", 1, 7, 3, (), 2.5, StageTimes(1.0, 20.0, 30.0, 60.0))
    for width in (80, 160):
        console = Console(record=True, width=width)
        console.print(robots_table([robot], {}, "robots:1"))
        shown = console.export_text()
        for part in (
            "1 robot at robots:1",
            "[us]",
            "[1/s]",
            "[s]",
            "[red]a",
            "[/]kitchen",
            "dddddddd",
            "ipv4:1",
            "2.5",
        ):
            assert part in shown
        assert "…" not in shown


def test_a_robots_goal_is_told_and_what_of_it_is_done() -> None:
    spec = policies.tiny_spec()
    goal = spec.resolve(["lamp", "door"], np.zeros(5))
    state = (0.0, 0.0, 0.0, 1.5, 0.0)  # the door is open
    before = RobotStatus("cart", "tiny", "d", "ipv4:1", 1, 7, 3, (), 0.1, StageTimes(1.0, 2.0, 3.0, 4.0))
    now = before._replace(step=17, state=state, goal=tuple(goal.state), mask=tuple(goal.mask))
    rates = step_rates([before], [now, now._replace(robot="new")], 2.0)
    assert rates == {"cart": 5.0}
    console = Console(record=True, width=80)
    console.print(robots_table([now], {"d": spec}, "robots:1", rates))
    shown = console.export_text()
    assert "✓ door" in shown
    assert "lamp" in shown
    assert "✓ lamp" not in shown
    assert "5.0" in shown


def test_q_ends_it(tiny_bundle: Bundle) -> None:
    ours, theirs = os.openpty()
    with serve_in_thread(tiny_bundle) as address, os.fdopen(ours, "r+b", buffering=0) as terminal:
        command = [*RPL, "top", "--address", address, "--every", "60"]
        with started(command, stdin=theirs, stderr=theirs, env=os.environ | {"FORCE_COLOR": "1"}) as top:
            os.close(theirs)
            assert top.stdout is not None
            assert any("0 robots at" in line for line in iter(top.stdout.readline, ""))
            terminal.write(b"q")
            assert top.wait(60) == 0


def test_a_robot_in_hand_is_shown_with_its_pilot_and_one_that_asks_for_help() -> None:
    robot = RobotStatus("a", "kitchen", "d" * 64, "ipv4:1", 1, 7, 3, (), 2.5, StageTimes(1.0, 20.0, 30.0, 60.0))
    console = Console(record=True, width=160)
    console.print(robots_table([robot._replace(hand="gamepad"), robot._replace(help=True)], {}, "robots:1"))
    shown = console.export_text()
    assert "by gamepad" in shown
    assert "for help" in shown
