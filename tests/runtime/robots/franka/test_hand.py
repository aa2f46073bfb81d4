"""The hand: when it opens and closes, and that it is told so once at a time."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import RobotStopped
from rpl_runtime.robots.franka.fci import Calls
from rpl_runtime.robots.franka.hand import Hand, HandConfig, wanted_width

franky = pytest.importorskip("franky", reason="needs the franka extra")

CONFIG = HandConfig()
OPEN, CLOSED = np.array([0.04, 0.04]), np.zeros(2)


class Command:
    """The future of a command, over when the test says so."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.over = False
        self.hangs = False
        self.error: Exception | None = None

    def wait(self, timeout: float) -> bool:
        self.over = self.over or (timeout > 0 and not self.hangs)
        return self.over

    def get(self) -> bool:
        self.over = True
        if self.error:
            raise self.error
        return True


class Gripper:
    """A gripper that takes commands down."""

    max_width = 0.08

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.read = threading.Event()
        self.error: Exception | None = None

    @property
    def width(self) -> float:
        self.read.set()
        if self.error:
            raise self.error
        return 0.08 if not self.commands else 0.05

    def open_async(self, speed: float) -> Command:
        return self._take("open")

    def move_async(self, width: float, speed: float) -> Command:
        return self._take(f"move {1000 * width:.0f}")

    def grasp_async(self, width: float, speed: float, force: float, **_: float) -> Command:
        assert force == CONFIG.force
        return self._take("grasp")

    def _take(self, kind: str) -> Command:
        assert all(command.over for command in self.commands), "a command while another is under way"
        self.commands.append(Command(kind))
        return self.commands[-1]


@pytest.fixture
def gripper() -> Gripper:
    return Gripper()


@pytest.fixture
def hand(gripper: Gripper):
    hand = Hand(gripper, Calls("franka-hand"), CONFIG)
    yield hand
    hand.close()


def kinds(gripper: Gripper) -> list[str]:
    return [command.kind for command in gripper.commands]


widths = st.floats(CONFIG.grasp_below, 0.08)


@given(widths, st.floats(-1, 1))
def test_targets_close_to_the_last_one_change_nothing(width: float, part: float) -> None:
    near = width + part * CONFIG.step * 0.99
    if CONFIG.grasp_below <= near < 0.08:
        assert wanted_width(width, near, CONFIG) == width


@given(st.floats(0, 0.08), st.floats(-1, 1))
def test_what_is_commanded_is_a_grasp_or_a_width_near_the_one_asked_for(commanded: float, width: float) -> None:
    found = wanted_width(commanded, width, CONFIG)
    inside = min(max(width, 0.0), 0.08)
    if inside < CONFIG.grasp_below:
        assert found == 0
    else:
        assert abs(found - inside) <= CONFIG.step + 1e-12
        assert 0 <= found <= 0.08
    assert wanted_width(found, width, CONFIG) == found  # it is told once


def test_it_is_told_once_what_to_do(hand: Hand, gripper: Gripper) -> None:
    for fingers in (OPEN, OPEN, CLOSED, CLOSED, CLOSED):
        hand.follow(fingers)
    assert kinds(gripper) == ["grasp"]
    assert hand.commanded == 0


def test_a_width_in_between_is_one(hand: Hand, gripper: Gripper) -> None:
    for half in (0.025, 0.027, 0.015, 0.008):
        hand.follow(np.array([half, half]))
        gripper.commands[-1].over = True
    assert kinds(gripper) == ["move 50", "move 30", "grasp"]


def test_a_command_waits_for_the_one_before(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    hand.follow(OPEN)
    assert kinds(gripper) == ["grasp"]
    gripper.commands[0].over = True
    hand.follow(OPEN)
    assert kinds(gripper) == ["grasp", "move 80"]


def test_what_was_wanted_and_is_no_longer_is_never_sent(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    hand.follow(OPEN)
    gripper.commands[0].over = True
    hand.follow(CLOSED)
    assert kinds(gripper) == ["grasp"]


def test_a_grasp_that_fails_is_no_end(hand: Hand, gripper: Gripper, caplog: pytest.LogCaptureFixture) -> None:
    hand.follow(CLOSED)
    gripper.commands[0].error = franky.CommandException("libfranka gripper: Command failed!")
    gripper.commands[0].over = True
    hand.follow(OPEN)
    assert kinds(gripper) == ["grasp", "move 80"]
    assert "could not grasp" in caplog.text


def test_a_hand_that_is_gone_stops_the_run(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    gripper.commands[0].error = franky.NetworkException("libfranka: server closed connection")
    gripper.commands[0].over = True
    with pytest.raises(RobotStopped, match="server closed connection"):
        hand.follow(OPEN)


def test_a_hand_that_does_not_end_its_command_is_not_waited_for_for_ever(
    hand: Hand, gripper: Gripper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpl_runtime.robots.franka.hand._DEADLINE_S", 0.1)
    hand.follow(CLOSED)
    gripper.commands[0].hangs = True
    with pytest.raises(RobotStopped, match=r"at the same command for 0\.1 s"):
        hand.open()
    gripper.commands[0].hangs = False


def test_a_width_that_no_longer_comes_is_not_made_up(hand: Hand, gripper: Gripper) -> None:
    assert hand.width == 0.08
    gripper.error = franky.NetworkException("libfranka gripper: timeout")
    hand._reader.join(10)
    with pytest.raises(RobotStopped, match="timeout"):
        _ = hand.width


def test_opening_waits_for_what_is_under_way(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    hand.open()
    assert kinds(gripper) == ["grasp", "open"]
    assert hand.commanded == 0.08


def test_a_hand_that_falls_silent_is_not_taken_for_one_that_stands(
    hand: Hand, gripper: Gripper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpl_runtime.robots.franka.hand._SILENT_S", -1.0)
    with pytest.raises(RobotStopped, match="has not told its width"):
        _ = hand.width
