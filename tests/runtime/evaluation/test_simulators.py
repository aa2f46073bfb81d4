"""Trials that several simulators share."""

import threading
from collections.abc import Iterator

import pytest

from rpl_runtime.evaluation.simulators import share_out


def test_every_trial_goes_to_one_simulator_and_no_more_of_these_begin_than_there_are_trials() -> None:
    taken, begun = list[int](), []

    def work(waiting: Iterator[int]) -> None:
        begun.append(threading.get_ident())
        taken.extend(waiting)

    share_out(range(100), 3, work)
    assert sorted(taken) == list(range(100))
    assert len(begun) == 3
    share_out([], 3, work)
    assert len(begun) == 3


class Trials(list[int]):
    """Trials that tell when nobody can take another."""

    def __init__(self, trials: Iterator[int]) -> None:
        super().__init__(trials)
        self.over = threading.Event()

    def __iter__(self) -> "Trials":
        return self

    def __next__(self) -> int:
        if not self:
            self.over.set()
            raise StopIteration
        return self.pop(0)


def test_where_one_fails_the_others_finish_their_trial_and_take_no_other() -> None:
    trials, finished = Trials(iter(range(10))), []

    def work(waiting: Iterator[int]) -> None:
        for trial in waiting:
            if trial == 0:
                raise InterruptedError
            trials.over.wait(5)
            finished.append(trial)

    with pytest.raises(InterruptedError):
        share_out(trials, 2, work)
    assert finished in ([], [1])  # the other one may not have begun
