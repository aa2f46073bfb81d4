"""A slow hand is only opened and closed, and keeps each state for a while.

A Franka hand takes one command at a time. A policy that learned with fingers that follow every target asks for widths
between open and closed on its way, and each of those would block the hand for the time of a command.
"""

import numpy as np

from rpl_runtime.estimation.body import Hand

_DWELL_S = 1.0  # [s] a faster hand would chatter where the targets hesitate


class OpenClosed:
    """Makes finger targets into the targets of a hand that is open or closed.

    Args:
        hand: the hand's dimensions and widths.
        command_s: [s] of one command.
        period_s: [s] one control period.
    """

    def __init__(self, hand: Hand, command_s: float, period_s: float) -> None:
        self._hand, self._open = hand, True
        self._dwell = round(max(command_s, _DWELL_S) / period_s)  # [periods]
        self._left = 0

    def command(self, target: np.ndarray) -> np.ndarray:
        """The target (m,) with the fingers open or closed."""
        fingers = list(self._hand.targets)
        width = float(target[fingers].sum())
        wanted = width >= self._hand.close_below if self._open else width > self._hand.open_above
        self._left = max(0, self._left - 1)
        if wanted != self._open and not self._left:
            self._open, self._left = wanted, self._dwell
        shaped = target.copy()
        shaped[fingers] = self._hand.opened if self._open else 0.0
        return shaped
