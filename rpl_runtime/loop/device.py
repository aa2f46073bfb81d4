"""A person at a gamepad or a SpaceMouse as a pilot, for a Panda or an FR3: `rpl run --pilot gamepad` (or `spacemouse`).

The pilot takes over when the device is touched, moves the flange as it is told, and hands back at a button. Devices
are read from Linux's input events (https://docs.kernel.org/input/gamepad.html); an axis is absolute, as a stick's, or
relative, as a SpaceMouse's, which is silent while it is at rest.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpl_runtime.errors import InvalidInput, require
from rpl_runtime.loop.pilot import Pilot, Seen
from rpl_runtime.safety.kinematics import flange_pose

# evdev is optional and untyped; the names of its types.
Device = Any  # evdev.InputDevice
Event = Any  # evdev.InputEvent

_SPEED, _TURN = 0.2, 0.8  # [m/s, rad/s] of the flange at full deflection
_FASTEST = 1.0  # [rad/s] of a joint
_DEAD = 0.15  # share of an axis around its middle that counts as rest
_FULL = 350.0  # of a relative axis at full deflection, as the kernel reports a SpaceMouse
_SILENT_S = 0.15  # [s] after which a relative axis is at rest
_LONGEST_S = 0.1  # [s] of motion in one control step
_GONE_S = 10.0  # [s] for which the robot is held after its device is gone
_SMALL, _DAMPING = 1e-4, 0.05  # [rad] of a difference quotient; of the least squares
_JOINTS = 7


@dataclass(frozen=True)
class Layout:
    """The part of each axis and button, by the names of Linux's input events."""

    axes: Mapping[str, tuple[int, float]]  # axis -> dimension of the twist [x, y, z, about x, y, z], and its sign
    close: str
    open: str | None  # None: `close` opens closed fingers, too
    back: str


# In the frame of the arm's base: x ahead, y to the left, z up.
GAMEPAD = Layout(
    {
        "ABS_Y": (0, -1.0),
        "ABS_X": (1, -1.0),
        "ABS_RY": (2, -1.0),
        "ABS_HAT0X": (3, 1.0),
        "ABS_HAT0Y": (4, -1.0),
        "ABS_RX": (5, -1.0),
    },
    close="BTN_SOUTH",
    open="BTN_EAST",
    back="BTN_START",
)
SPACEMOUSE = Layout(
    {
        f"{kind}_{axis}": part
        for kind in ("REL", "ABS")
        for axis, part in {
            "Y": (0, -1.0),
            "X": (1, -1.0),
            "Z": (2, -1.0),
            "RY": (3, -1.0),
            "RX": (4, -1.0),
            "RZ": (5, -1.0),
        }.items()
    },
    close="BTN_0",
    open=None,
    back="BTN_1",
)


def gamepad() -> Pilot:
    """The first gamepad of this machine.

    Raises:
        InvalidInput: there is none that this user may read.
        MissingExtra: evdev is not installed.
    """
    return DevicePilot("gamepad", _found("gamepad", "BTN_SOUTH", "ABS_RX"), GAMEPAD)


def spacemouse() -> Pilot:
    """The first SpaceMouse of this machine; raises as `gamepad` does."""
    return DevicePilot("spacemouse", _found("spacemouse", "BTN_0", "RZ"), SPACEMOUSE)


class DevicePilot:
    """A person at a device (the `Pilot` protocol).

    Args:
        name: of the author of its steps.
        device: an evdev.InputDevice.
        layout: of its axes and buttons.
    """

    def __init__(self, name: str, device: Device, layout: Layout) -> None:
        self.name = name
        self._device, self._layout = device, layout
        self._codes = require("evdev", "gamepad").ecodes
        self._scales = dict(device.capabilities().get(self._codes.EV_ABS, ()))
        self._moved_s: dict[int, float] = {}  # dimension of the twist -> when a relative axis moved it
        self._twist = np.zeros(6)  # -1 to 1 each
        self._pressed: set[str] = set()  # since the last step
        self._closed = False
        self._rested = True  # whether the axes were at rest since the robot was handed back
        self._gone_s: float | None = None
        self._last_s = time.monotonic()

    def takes_over(self, seen: Seen) -> str | None:
        self._read()
        pressed, self._pressed = self._pressed - {self._layout.back}, set()
        touched = bool(pressed or self._twist.any())
        self._rested = self._rested or not touched
        if seen.target is not None:  # also for who takes over in its place, when the policy asks for help
            self._closed = bool(seen.target[_JOINTS:].sum() < np.sum(seen.bounds, axis=0)[_JOINTS:].sum() / 2)
        if seen.target is None or self._gone_s is not None or not (touched and self._rested):
            return None
        self._pressed = pressed
        return f"the {self.name} was touched"

    def target(self, seen: Seen) -> np.ndarray | None:
        """As the protocol says.

        Raises:
            InvalidInput: the robot is not an arm of seven joints with two fingers.
        """
        assert seen.target is not None
        if len(seen.target) != _JOINTS + 2:
            raise InvalidInput(
                f"the {self.name} leads an arm of 7 joints and 2 fingers; this policy's target has {len(seen.target)} "
                "numbers"
            )
        self._read()
        pressed, self._pressed = self._pressed, set()
        now = time.monotonic()
        lasts_s, self._last_s = min(now - self._last_s, _LONGEST_S), now
        if self._layout.back in pressed or (self._gone_s is not None and now > self._gone_s + _GONE_S):
            self._rested = False
            return None
        if self._layout.close in pressed:
            self._closed = self._layout.open is not None or not self._closed
        if self._layout.open in pressed:
            self._closed = False
        low, high = seen.bounds
        target = np.array(seen.target, dtype=np.float64)
        target[:_JOINTS] += _joint_step(target[:_JOINTS], self._twist, lasts_s)
        target[_JOINTS:] = (low if self._closed else high)[_JOINTS:]
        return np.clip(target, low, high)

    def _read(self) -> None:
        """Take in what has happened at the device. One that is gone is at rest."""
        now, codes = time.monotonic(), self._codes
        try:
            for event in self._device.read():
                if event.type == codes.EV_KEY and event.value == 1:
                    names = codes.BTN.get(event.code, ())
                    self._pressed.update([names] if isinstance(names, str) else names)
                elif event.type in (codes.EV_ABS, codes.EV_REL):
                    self._move(event, now)
        except BlockingIOError:  # there is nothing more
            pass
        except OSError:
            self._gone_s, self._twist = self._gone_s or now, np.zeros(6)
        for dim, moved_s in list(self._moved_s.items()):
            if now > moved_s + _SILENT_S:
                self._twist[dim] = 0.0
                del self._moved_s[dim]

    def _move(self, event: Event, now: float) -> None:
        relative = event.type == self._codes.EV_REL
        name = (self._codes.REL if relative else self._codes.ABS).get(event.code)
        if name not in self._layout.axes:
            return
        dim, sign = self._layout.axes[name]
        middle, reach = 0.0, _FULL
        if relative:
            self._moved_s[dim] = now
        else:
            scale = self._scales[event.code]
            middle, reach = (scale.max + scale.min) / 2, max((scale.max - scale.min) / 2, 1)
        share = float(np.clip((event.value - middle) / reach, -1.0, 1.0))
        self._twist[dim] = sign * np.sign(share) * max(0.0, abs(share) - _DEAD) / (1 - _DEAD)


def _joint_step(joints: np.ndarray, twist: np.ndarray, lasts_s: float) -> np.ndarray:
    """The change of the joints (7,) [rad] that moves the flange by shares (6,) of its speeds for a time [s].

    Damped least squares on difference quotients of the forward kinematics, every joint at `_FASTEST` at most.
    """
    positions, rotations = flange_pose(joints + _SMALL * np.vstack([np.zeros(_JOINTS), np.eye(_JOINTS)]))
    turns = (rotations[1:] - rotations[0]) @ rotations[0].T / _SMALL  # (7, 3, 3) skew-symmetric but for rounding
    about = np.stack([turns[:, 2, 1], turns[:, 0, 2], turns[:, 1, 0]], axis=1)
    jacobian = np.hstack([(positions[1:] - positions[0]) / _SMALL, about]).T  # (6, 7)
    wanted = twist * np.repeat([_SPEED, _TURN], 3)
    speed = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING**2 * np.eye(6), wanted)
    return speed * min(1.0, _FASTEST / max(float(np.abs(speed).max()), 1e-9)) * lasts_s


def _found(kind: str, button: str, axis: str) -> Device:
    """The first device with a button and an axis of such names."""
    evdev = require("evdev", "gamepad")
    for path in evdev.list_devices():
        device = evdev.InputDevice(path)
        said = str(device.capabilities(verbose=True))
        if button in said and axis in said:
            return device
        device.close()
    raise InvalidInput(
        f"no {kind} is connected, or this user may not read it; must be a device /dev/input/event* that is readable"
    )
