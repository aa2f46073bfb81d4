"""A slow hand gets only commands to open and to close, and time for each."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.estimation.body import Hand
from rpl_runtime.estimation.hand import OpenClosed

HAND = Hand(dims=(0, 1), targets=(1, 2), opened=0.04, close_below=0.035, open_above=0.045)
PERIOD_S = 0.08


def commanded(widths: list[float], command_s: float) -> list[bool]:
    """Whether the hand is told to be open in each period."""
    hand, told = OpenClosed(HAND, command_s, PERIOD_S), []
    for width in widths:
        target = np.array([7.0, width / 2, width / 2])
        shaped = hand.command(target)
        assert shaped[0] == 7.0
        assert target[1] == width / 2  # the policy's own target is left as it was
        assert set(shaped[1:]) in ({0.0}, {0.04})
        told.append(bool(shaped[1]))
    return told


@given(widths=st.lists(st.floats(-0.01, 0.09), max_size=80), command_s=st.floats(0.1, 3.0))
def test_a_hand_keeps_each_state_for_a_command_and_a_second(widths: list[float], command_s: float) -> None:
    told = commanded(widths, command_s)
    changes = [at for at in range(1, len(told)) if told[at] != told[at - 1]]
    assert all(later - at >= round(max(command_s, 1.0) / PERIOD_S) for at, later in pairwise(changes))


@given(width=st.floats(0.0351, 0.0449), first=st.sampled_from([0.0, 0.08]))
def test_between_the_thresholds_a_hand_stays_as_it_is(width: float, first: float) -> None:
    told = commanded([first] * 20 + [width] * 60, 1.0)
    assert set(told[20:]) == {first > 0}


def test_a_wish_that_lasts_is_fulfilled_when_the_hand_is_free() -> None:
    told = commanded([0.08, 0.0, *[0.08] * 30], 1.0)
    assert told == [True, *[False] * 12, *[True] * 19]
