"""A person at a gamepad or a SpaceMouse: what the device says, as Linux's input events, moves the flange."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.loop import device
from rpl_runtime.loop.device import GAMEPAD, SPACEMOUSE, DevicePilot, Layout
from rpl_runtime.loop.pilot import ASKED, OnHelp, Pilot, Seen, load_pilot
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.tasks.kitchen.elements import kitchen_spec

evdev = pytest.importorskip("evdev", reason="needs the gamepad extra")
codes = evdev.ecodes

SPEC = kitchen_spec("kitchen")
LOW, HIGH = SPEC.action.bounds
TARGET = np.array([0.0, -0.5, 0.0, -2.0, 0.0, 1.5, 0.8, 0.04, 0.04], np.float32)
STATE = np.zeros(30, np.float32)
GOAL = SPEC.resolve(["microwave"], STATE)


class Device:
    """An input device that says what the test has it say."""

    def __init__(self, axes: Iterable[int] = ()) -> None:
        self.gone = False
        self._axes = [(code, evdev.AbsInfo(0, -32768, 32767, 16, 128, 0)) for code in axes]
        self._events: list[Any] = []

    def capabilities(self) -> dict[int, Any]:
        return {codes.EV_ABS: self._axes}

    def say(self, kind: int, code: int, value: int) -> None:
        self._events += [evdev.InputEvent(0, 0, kind, code, value), evdev.InputEvent(0, 0, codes.EV_SYN, 0, 0)]

    def read(self) -> Iterable[Any]:
        if self.gone:
            raise OSError(19, "No such device")
        events, self._events = self._events, []
        yield from events
        raise BlockingIOError


class Hand:
    """A pilot at such a device, asked at every tenth of a second of a clock of its own."""

    def __init__(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(device.time, "monotonic", lambda: self.now_s)
        self.device = Device([codes.ABS_X, codes.ABS_Y, codes.ABS_RX, codes.ABS_RY])
        self.pilot: Pilot = DevicePilot("gamepad", self.device, layout)
        self.at = TARGET

    def seen(self) -> Seen:
        self.now_s += 0.1
        return Seen(7, STATE, GOAL, self.at, False, None, (LOW, HIGH))

    def asked(self) -> str | None:
        return self.pilot.takes_over(self.seen())

    def led(self, steps: int = 1) -> bool:
        """Whether the pilot has the robot after so many steps."""
        for _ in range(steps):
            target = self.pilot.target(self.seen())
            if target is None:
                return False
            self.at = target.astype(np.float32)
        return True


@pytest.fixture
def pad(monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(GAMEPAD, monkeypatch)


@pytest.fixture
def mouse(monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(SPACEMOUSE, monkeypatch)


def test_who_touches_it_has_the_robot_until_the_button(pad: Hand) -> None:
    assert pad.asked() is None
    pad.device.say(codes.EV_ABS, codes.ABS_X, 2000)  # a worn stick
    assert pad.asked() is None
    pad.device.say(codes.EV_ABS, codes.ABS_X, 30000)
    assert pad.asked() == "the gamepad was touched"
    assert pad.led()
    pad.device.say(codes.EV_ABS, codes.ABS_X, 0)
    assert pad.led(5)
    pad.device.say(codes.EV_KEY, codes.BTN_START, 1)
    assert not pad.led()
    assert pad.asked() is None


def test_a_stick_that_is_still_held_does_not_take_the_robot_again(pad: Hand) -> None:
    pad.device.say(codes.EV_ABS, codes.ABS_X, 30000)
    assert pad.asked()
    pad.device.say(codes.EV_KEY, codes.BTN_START, 1)
    assert not pad.led()
    assert pad.asked() is None
    pad.device.say(codes.EV_ABS, codes.ABS_X, 0)
    assert pad.asked() is None
    pad.device.say(codes.EV_ABS, codes.ABS_X, 30000)
    assert pad.asked()


@pytest.mark.parametrize(
    ("code", "value", "dim", "sign"),
    [
        (codes.ABS_Y, -32768, 0, 1),  # forward is ahead
        (codes.ABS_X, -32768, 1, 1),  # to the left is to the left
        (codes.ABS_RY, -32768, 2, 1),  # forward on the right stick is up
    ],
)
def test_the_flange_goes_where_the_stick_points(pad: Hand, code: int, value: int, dim: int, sign: int) -> None:
    before, turned = flange_pose(TARGET[:7])
    pad.device.say(codes.EV_ABS, code, value)
    assert pad.asked()
    assert pad.led(6)
    after, rotation = flange_pose(pad.at[:7])
    way = after - before
    assert sign * way[dim] == pytest.approx(0.12, abs=0.03)  # [m] at 0.2 m/s
    assert np.abs(np.delete(way, dim)).max() < 0.02
    assert np.abs(rotation - turned).max() < 0.05


def test_the_flange_turns_and_stays_where_it_is(pad: Hand) -> None:
    before, turned = flange_pose(TARGET[:7])
    pad.device.say(codes.EV_ABS, codes.ABS_RX, -32768)
    assert pad.asked()
    assert pad.led(4)
    after, rotation = flange_pose(pad.at[:7])
    assert np.abs(after - before).max() < 0.01
    about = rotation @ turned.T
    assert np.arctan2(about[1, 0], about[0, 0]) == pytest.approx(0.32, abs=0.05)  # [rad] at 0.8 rad/s


def test_the_arm_keeps_its_speed_and_its_range_wherever_it_is_driven(pad: Hand) -> None:
    for code, value in ((codes.ABS_Y, -32768), (codes.ABS_RY, 32767)):  # far out and down
        pad.device.say(codes.EV_ABS, code, value)
    assert pad.asked()
    for _ in range(150):
        before = pad.at
        assert pad.led()
        assert np.abs(pad.at - before)[:7].max() < 0.1 + 1e-6  # [rad] at 1 rad/s
        assert ((pad.at >= LOW) & (pad.at <= HIGH)).all()


def test_the_fingers_close_and_open(pad: Hand) -> None:
    for button, fingers in ((codes.BTN_SOUTH, 0.0), (codes.BTN_EAST, 0.04)):
        pad.device.say(codes.EV_KEY, button, 1)
        pad.device.say(codes.EV_KEY, button, 0)
        assert pad.asked() or pad.led()
        assert pad.led()
        np.testing.assert_allclose(pad.at[7:], fingers, atol=1e-6)
        np.testing.assert_allclose(pad.at[:7], TARGET[:7], atol=1e-6)


def test_closed_fingers_stay_closed_when_the_arm_is_taken(pad: Hand) -> None:
    pad.at = np.append(TARGET[:7], [0.0, 0.0]).astype(np.float32)
    pad.device.say(codes.EV_ABS, codes.ABS_Y, -32768)
    assert pad.asked()
    assert pad.led()
    np.testing.assert_array_equal(pad.at[7:], 0.0)


def test_an_arm_that_asks_for_help_is_held_for_the_person_with_what_it_has_in_its_fingers(pad: Hand) -> None:
    pad.at = np.append(TARGET[:7], [0.0, 0.0]).astype(np.float32)
    pad.pilot = OnHelp(pad.pilot)
    assert pad.pilot.takes_over(pad.seen()._replace(help=True)) == ASKED
    assert pad.led(5)
    np.testing.assert_allclose(pad.at, np.append(TARGET[:7], [0.0, 0.0]), atol=1e-6)


def test_a_spacemouse_is_silent_while_it_is_at_rest(mouse: Hand) -> None:
    before, _ = flange_pose(TARGET[:7])
    mouse.device.say(codes.EV_REL, codes.REL_Z, -350)  # lifted
    assert mouse.asked()
    for _ in range(5):
        mouse.device.say(codes.EV_REL, codes.REL_Z, -350)
        assert mouse.led()
    lifted, _ = flange_pose(mouse.at[:7])
    assert lifted[2] - before[2] == pytest.approx(0.1, abs=0.03)
    assert mouse.led(2)  # 0.2 s without a word
    rest = mouse.at
    assert mouse.led(5)
    np.testing.assert_array_equal(mouse.at, rest)
    mouse.device.say(codes.EV_KEY, codes.BTN_0, 1)
    assert mouse.led()
    np.testing.assert_array_equal(mouse.at[7:], 0.0)
    mouse.device.say(codes.EV_KEY, codes.BTN_0, 1)  # the same button opens
    assert mouse.led()
    np.testing.assert_allclose(mouse.at[7:], 0.04)
    mouse.device.say(codes.EV_KEY, codes.BTN_1, 1)
    assert not mouse.led()


def test_a_device_that_is_pulled_out_holds_the_robot_and_then_hands_it_back(pad: Hand) -> None:
    pad.device.say(codes.EV_ABS, codes.ABS_Y, -32768)
    assert pad.asked()
    assert pad.led()
    pad.device.gone = True
    assert pad.led()
    held = pad.at
    assert pad.led(90)
    np.testing.assert_array_equal(pad.at, held)
    assert not pad.led(20)
    assert pad.asked() is None


def test_another_kind_of_robot_is_one_sentence(pad: Hand) -> None:
    pad.device.say(codes.EV_KEY, codes.BTN_SOUTH, 1)
    pad.at = np.zeros(2, np.float32)
    bounds = np.full(2, -1.0), np.full(2, 1.0)
    seen = pad.seen()._replace(bounds=bounds)
    assert pad.pilot.takes_over(seen)
    with pytest.raises(
        InvalidInput, match="leads an arm of 7 joints and 2 fingers; this policy's target has 2 numbers"
    ):
        pad.pilot.target(seen)


@pytest.mark.parametrize("kind", ["gamepad", "spacemouse"])
def test_without_a_device_the_command_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evdev, "list_devices", list)
    with pytest.raises(InvalidInput, match=f"no {kind} is connected, or this user may not read it; must be a device"):
        load_pilot(kind)
