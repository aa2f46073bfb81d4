"""Where text for people is printed. Foreign text, such as a bundle's description, cannot control the terminal.

A character that is not printable is shown by its escape, `\\x1b` for one. Colours and tables are this project's own.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console as _Console
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from rpl_runtime.errors import printable

_EVERY_S = 15.0  # [s] between two lines of progress where no bar can be drawn


class Console(_Console):
    """Rich's console for text of strangers."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            lines = [printable(line, len(line)) for line in segment.text.split("\n")]
            yield segment if segment.control else Segment("\n".join(lines), segment.style)


def count(number: int, noun: str) -> str:
    """A number of things in English: 1 robot, 2 robots."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def say(text: str, err: bool = False) -> None:
    """Print one line that holds foreign text, as it is except for escapes."""
    Console(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=True).print(text)


class Report(Protocol):
    """Says how many of something are finished, of how many; None: not known yet."""

    def __call__(self, what: str, finished: int, total: int | None, remark: str = "", /) -> None: ...


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def progress(stays: bool = False) -> Iterator[Report]:
    """Report progress on stderr until the end of the block: by a bar for each `what`; if stderr is not a terminal, by a
    line every 15 s. With `stays`, the bars stay there afterwards, or the last line of each is said.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    display = Progress(*columns, TextColumn("{task.fields[remark]}"), console=console, transient=not stays)
    shown: dict[str, TaskID] = {}
    lines: dict[str, str] = {}
    said_s = time.monotonic()

    def report(what: str, finished: int, total: int | None, remark: str = "", /) -> None:
        nonlocal said_s
        if what not in shown:
            shown[what] = display.add_task(what, total=total, remark="")
        display.update(shown[what], completed=finished, total=total, remark=remark)
        if console.is_terminal:
            display.start()
            return
        lines[what] = ", ".join(filter(None, [f"{what} {finished}" + (f" of {total}" if total else ""), remark]))
        if time.monotonic() - said_s >= _EVERY_S:
            said_s = time.monotonic()
            left_s = display.tasks[shown[what]].time_remaining
            say(lines[what] + (f", about {_duration(left_s)} left" if left_s else ""), err=True)

    try:
        yield report
    finally:
        if console.is_terminal:
            display.stop()
        elif stays:
            for line in lines.values():
                say(line, err=True)
