"""The robots that viewers of a page have in hand, each steered toward where its sliders stand at a bounded speed."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rpl_runtime.client.admin import Admin
from rpl_runtime.errors import ProtocolViolation, RelayError
from rpl_runtime.policy.spec import PolicySpec

_CROSSING_S = 4.0  # [s] in which a target crosses its whole range
_LONGEST_S = 0.2  # [s] that count of a pause between two targets


@dataclass
class _Hand:
    viewer: int
    key: str  # which the server asks for
    target: np.ndarray | None = None  # (m,) that the robot gets; None: the robot has made no step yet
    wanted: np.ndarray | None = None  # (m,) where the sliders stand


class Hands:
    """Takes robots in hand for viewers, steers them, and hands them back.

    Args:
        admin: of their server.
        tell: is told of a hand that ended by itself, in one sentence.
    """

    def __init__(self, admin: Admin, tell: Callable[[str], None]) -> None:
        self._admin, self._tell = admin, tell
        self._hands: dict[str, _Hand] = {}
        self._steered_s = time.monotonic()
        self._turn = threading.Lock()  # viewers act in threads of their own

    @property
    def wanted(self) -> dict[str, np.ndarray]:
        """Where the sliders of each robot in hand stand (m,)."""
        with self._turn:
            return {robot: hand.wanted for robot, hand in self._hands.items() if hand.wanted is not None}

    def take(self, robot: str, viewer: int) -> None:
        """Take a robot in hand.

        Raises:
            RelayError: the server refuses.
        """
        with self._turn:
            self._hands[robot] = _Hand(viewer, self._admin.take_over(robot, _name(viewer)))

    def turn(self, robot: str, viewer: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change where the sliders of a robot in hand stand.

        Raises:
            ProtocolViolation: this viewer does not have it in hand.
        """
        with self._turn:
            hand = self._of(robot, viewer)
            if hand.wanted is not None:
                hand.wanted = change(hand.wanted)

    def give(self, robot: str, viewer: int) -> None:
        """Hand a robot back.

        Raises:
            ProtocolViolation: this viewer does not have it in hand.
            RelayError: the server refuses.
        """
        with self._turn:
            key = self._of(robot, viewer).key
            del self._hands[robot]
            self._admin.hand_back(robot, key)

    def steer(self, viewers: set[int], specs: Mapping[str, PolicySpec]) -> None:
        """Send each robot in hand its next target.

        Args:
            viewers: who look at the page; a hand of somebody else ends, and its robot waits for the server's rule.
            specs: of the robots that run, by name.
        """
        with self._turn:
            now = time.monotonic()
            share = min(now - self._steered_s, _LONGEST_S) / _CROSSING_S
            self._steered_s = now
            self._steer(viewers, specs, share)

    def _steer(self, viewers: set[int], specs: Mapping[str, PolicySpec], share: float) -> None:
        for robot, hand in list(self._hands.items()):
            if robot not in specs:
                del self._hands[robot]
            elif hand.viewer not in viewers:
                del self._hands[robot]
                self._tell(
                    f"{_name(hand.viewer)} has gone with {robot} in hand: it holds its last target, and is handed back "
                    "after 10 s"
                )
            else:
                self._send(robot, hand, specs[robot], share)

    def _send(self, robot: str, hand: _Hand, spec: PolicySpec, share: float) -> None:
        target = hand.target
        if target is not None and hand.wanted is not None:
            low, high = (np.array(bound) for bound in spec.action.bounds)
            most = share * (high - low)
            target = np.clip(target + np.clip(hand.wanted - target, -most, most), low, high)
        try:
            told = self._admin.steer(robot, hand.key, () if target is None else target.tolist())
        except RelayError as error:
            self._hands.pop(robot, None)
            self._tell(f"{_name(hand.viewer)} has lost {robot}: {error}")
            return
        if told:
            hand.target = np.array(told)
            if hand.wanted is None:
                hand.wanted = hand.target

    def _of(self, robot: str, viewer: int) -> _Hand:
        hand = self._hands.get(robot)
        if hand is None:
            raise ProtocolViolation(f"{robot} is not in your hand; take it over first")
        if hand.viewer != viewer:
            raise ProtocolViolation(f"{robot} is in the hand of {_name(hand.viewer)}; must be handed back first")
        return hand


def _name(viewer: int) -> str:
    return f"viewer {viewer}"
