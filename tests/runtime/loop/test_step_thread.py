"""Steps in a world that does not wait: an action in time, or none, and never one for a state that is long past."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rpl_runtime.client import Action
from rpl_runtime.errors import InvalidInput, ServerUnavailable
from rpl_runtime.loop.realtime import StepThread

ALWAYS, NEVER = 2**63 - 1, 0
STATE = np.zeros(5)
SOON = 60.0  # [s] for what does not take long


class Slow:
    """A control whose answers come when they are let go, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float]] = []
        self.go = threading.Semaphore(0)
        self.answers: list[int | Exception] = []  # until when each is valid [ns], or what goes wrong
        self.closed = False

    def step(self, robot: str, step: int, state: np.ndarray) -> Action:
        self.asked.append((robot, step, float(state[0])))
        self.go.acquire()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Action(np.full(2, state[0]), state, 0, True, answer)

    def close(self) -> None:
        self.closed = True
        self.answers.append(ServerUnavailable("closed"))
        self.go.release()


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def steps(slow: Slow) -> Iterator[StepThread]:
    control: Any = slow
    with StepThread(control, "a") as steps:
        yield steps
    assert slow.closed


def let_go(slow: Slow, *answers: int | Exception) -> None:
    slow.answers += answers
    slow.go.release(len(answers))


def test_an_action_in_time_is_the_control_s_own(slow: Slow, steps: StepThread) -> None:
    let_go(slow, ALWAYS, ALWAYS)
    for number in range(2):
        action = steps.step(STATE + number, SOON)
        assert action is not None
        assert action.target[0] == number
        assert steps.number == number + 1
    assert slow.asked == [("a", 0, 0.0), ("a", 1, 1.0)]


def test_a_late_action_that_is_still_valid_is_taken_in_a_later_period(slow: Slow, steps: StepThread) -> None:
    assert steps.step(STATE, 0.0) is None
    assert steps.step(STATE + 1, 0.0) is None
    let_go(slow, ALWAYS)
    action = steps.step(STATE + 2, SOON)
    assert action is not None
    assert action.target[0] == 0
    assert slow.asked == [("a", 0, 0.0)]


def test_a_late_action_that_is_no_longer_valid_is_followed_by_that_of_the_newest_state(
    slow: Slow, steps: StepThread
) -> None:
    assert steps.step(STATE, 0.0) is None
    let_go(slow, NEVER, ALWAYS)
    action = steps.step(STATE + 1, SOON)
    assert action is not None
    assert action.target[0] == 1
    assert steps.number == 2
    assert slow.asked == [("a", 0, 0.0), ("a", 1, 1.0)]


def test_a_step_whose_answer_was_lost_is_asked_for_again_with_the_newest_state(slow: Slow, steps: StepThread) -> None:
    let_go(slow, ServerUnavailable("away"))
    assert steps.step(STATE, SOON) is None
    let_go(slow, ALWAYS)
    action = steps.step(STATE + 1, SOON)
    assert action is not None
    assert action.target[0] == 1
    assert slow.asked == [("a", 0, 0.0), ("a", 0, 1.0)]


def test_a_step_that_was_lost_since_the_last_period_is_asked_for_again_in_this_one(
    slow: Slow, steps: StepThread
) -> None:
    assert steps.step(STATE, 0.0) is None
    let_go(slow, ServerUnavailable("away"), ALWAYS)
    action = steps.step(STATE + 1, SOON)
    assert action is not None
    assert action.target[0] == 1
    assert slow.asked == [("a", 0, 0.0), ("a", 0, 1.0)]


def test_a_refusal_is_a_refusal(slow: Slow, steps: StepThread) -> None:
    let_go(slow, InvalidInput("no"))
    with pytest.raises(InvalidInput, match="no"):
        steps.step(STATE, SOON)
    let_go(slow, ALWAYS)
    assert steps.step(STATE, SOON) is not None
