"""Progress bars of the training commands, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rpl_runtime.console import Console


class Report(Protocol):
    """Says how many of something are finished, of how many; a bar is added for each new name."""

    def __call__(self, what: str, finished: int, total: int, remark: str = "") -> None: ...


def losses(report: Report, steps: int) -> Callable[[str, int, float | None], None]:
    """Reports the progress of imitation, of so many optimiser steps at each level."""

    def progress(level: str, step: int, loss: float | None) -> None:
        report(f"{level} level", step, steps, "trained before" if loss is None else f"loss {loss:.3f}")

    return progress


@contextmanager
def bars() -> Iterator[Report]:
    """Show bars until the end of the block, from the first report on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    shown: dict[str, TaskID] = {}
    display = Progress(*columns, console=Console(stderr=True))

    def report(what: str, finished: int, total: int, remark: str = "") -> None:
        display.start()
        if what not in shown:
            shown[what] = display.add_task(what, remark="")
        display.update(shown[what], completed=finished, total=total, remark=remark)

    try:
        yield report
    finally:
        if shown:
            display.stop()
