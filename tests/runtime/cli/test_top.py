"""The operator's table of robots: every unit said, and no name taken for markup."""

from rich.console import Console

from rpl_runtime.cli.top import robots_table
from rpl_runtime.relay.messages import StageTimes
from rpl_runtime.wire.admin import RobotStatus


def test_a_name_does_nothing_to_the_terminal() -> None:
    hostile, times = "\x1b]0;owned\x07\x1b[2Jx\n", StageTimes(1.0, 1.0, 1.0, 1.0)
    robot = RobotStatus(hostile, hostile, hostile, hostile, 1, 7, 3, (), 2.5, times)
    console = Console(record=True, width=400)
    console.print(robots_table([robot, robot._replace(hand=hostile)]))
    shown = console.export_text(styles=False)
    assert "\\x1b]0;owned\\x07\\x1b[2Jx\\n" in shown
    assert not set(shown) & set("\x1b\x07\x9b")


def test_units_are_shown_and_names_stay_as_they_are() -> None:
    robot = RobotStatus("[red]a", "[/]kitchen", "d" * 64, "ipv4:1", 1, 7, 3, (), 2.5, StageTimes(1.0, 20.0, 30.0, 60.0))
    console = Console(record=True, width=160)
    console.print(robots_table([robot]))
    shown = console.export_text()
    assert shown.count("[us]") == 3
    assert "robots: 1" in shown
    for part in ("[s]", "[red]a", "[/]kitchen dddddddd", "2.5"):
        assert part in shown


def test_a_robot_in_hand_is_shown_with_its_pilot() -> None:
    robot = RobotStatus("a", "kitchen", "d" * 64, "ipv4:1", 1, 7, 3, (), 2.5, StageTimes(1.0, 20.0, 30.0, 60.0))
    console = Console(record=True, width=160)
    console.print(robots_table([robot._replace(hand="gamepad")]))
    assert "by gamepad" in console.export_text()
