"""Progress bars of the training commands, on stderr.

In: how much there is to do. Out: a function to say how much of it is done. It does not know what is done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Report(Protocol):
    """Says how far something is."""

    def __call__(self, finished: int, remark: str = "", total: int | None = None) -> None:
        """So many are finished; `total` where it is another one than before."""
        ...


@contextmanager
def bar(what: str, total: int) -> Iterator[Report]:
    """A bar for the length of a block."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, remark="")

        def report(finished: int, remark: str = "", total: int | None = None) -> None:
            bars.update(task, completed=finished, remark=remark, total=total)

        yield report
