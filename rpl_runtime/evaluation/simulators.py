"""Simulators side by side, each of which takes the next episode."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

_T = TypeVar("_T")  # what names an episode


def share_out(trials: Sequence[_T], jobs: int, work: Callable[[Iterator[_T]], None]) -> None:
    """Call `work` in up to `jobs` threads, each with the trials that it takes: every trial goes to one of them.

    If one fails, the others end after the trial that they are at, and its error is raised.
    """
    waiting = iter(trials)  # yields each trial to one thread only
    with ThreadPoolExecutor(jobs) as pool:
        workers = [pool.submit(work, waiting) for _ in range(min(jobs, len(trials)))]
        try:
            for worker in as_completed(workers):
                worker.result()
        finally:
            for _ in waiting:  # nobody takes another
                pass
