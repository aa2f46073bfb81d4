"""The hand: when it opens and closes, and that it is told so once at a time."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import RobotStopped
from rpl_runtime.robots.hand import Hand, HandConfig, wants_closed

franky = pytest.importorskip("franky", reason="needs the franka extra")

CONFIG = HandConfig()
OPEN, CLOSED = np.array([0.04, 0.04]), np.zeros(2)


class Command:
    """The future of a command, over when the test says so."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.over = False
        self.error: Exception | None = None

    def wait(self, timeout: float) -> bool:
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
        return 0.05

    def open(self, speed: float) -> bool:
        return self._take("open").get()

    def open_async(self, speed: float) -> Command:
        return self._take("open")

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
    hand = Hand(gripper, CONFIG)
    yield hand
    hand.close()


def kinds(gripper: Gripper) -> list[str]:
    return [command.kind for command in gripper.commands]


@given(st.booleans(), st.lists(st.floats(CONFIG.close_below, CONFIG.open_above - 1e-9)))
def test_targets_in_between_change_nothing(closed: bool, widths: list[float]) -> None:
    for width in widths:
        assert wants_closed(closed, width, CONFIG) == closed


@given(st.booleans())
def test_clear_targets_are_followed(closed: bool) -> None:
    assert wants_closed(closed, CONFIG.close_below - 1e-3, CONFIG)
    assert not wants_closed(closed, CONFIG.open_above, CONFIG)


def test_it_is_told_once_what_to_do(hand: Hand, gripper: Gripper) -> None:
    for fingers in (OPEN, OPEN, CLOSED, CLOSED, CLOSED):
        hand.follow(fingers)
    assert kinds(gripper) == ["grasp"]
    assert hand.closed


def test_a_command_waits_for_the_one_before(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    hand.follow(OPEN)
    assert kinds(gripper) == ["grasp"]
    gripper.commands[0].over = True
    hand.follow(OPEN)
    assert kinds(gripper) == ["grasp", "open"]


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
    assert kinds(gripper) == ["grasp", "open"]
    assert "could not grasp" in caplog.text


def test_a_hand_that_is_gone_stops_the_run(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    gripper.commands[0].error = franky.NetworkException("libfranka: server closed connection")
    gripper.commands[0].over = True
    with pytest.raises(RobotStopped, match="server closed connection"):
        hand.follow(OPEN)


def test_a_width_that_no_longer_comes_is_not_made_up(hand: Hand, gripper: Gripper) -> None:
    assert hand.width == 0.05
    gripper.error = franky.NetworkException("libfranka gripper: timeout")
    hand._reader.join(10)
    with pytest.raises(RobotStopped, match="timeout"):
        _ = hand.width


def test_opening_waits_for_what_is_under_way(hand: Hand, gripper: Gripper) -> None:
    hand.follow(CLOSED)
    hand.open()
    assert kinds(gripper) == ["grasp", "open"]
    assert not hand.closed
