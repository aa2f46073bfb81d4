"""Where text for people is printed. Foreign text, such as a bundle's description, cannot control the terminal.

A character that is not printable is shown by its escape, `\\x1b` for one. Colours and tables are this project's own.
"""

from collections.abc import Iterable

from rich.console import Console as _Console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from rpl_runtime.errors import printable


class Console(_Console):
    """Rich's console for text of strangers."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            lines = [printable(line, len(line)) for line in segment.text.split("\n")]
            yield segment if segment.control else Segment("\n".join(lines), segment.style)


def say(text: str, err: bool = False) -> None:
    """Print one line that holds foreign text, as it is except for escapes."""
    Console(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=True).print(text)
