"""What the benchmark scripts share: printing a result, its circumstances, tables and progress."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from rpl_runtime.files import JsonDict, write_json
from rpl_runtime.provenance import command, commit, versions

PROGRESS = Console(stderr=True)

Bundle = Annotated[Path, typer.Argument(help="The bundle's folder.")]
Saved = Annotated[Path | None, typer.Option("--from", help="Run nothing: print and draw this JSON file.")]
Given = Annotated[Path | None, typer.Argument(help="The bundle's folder.")]  # unless there is something saved
Output = Annotated[Path | None, typer.Option(help="Write the JSON here.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

T = TypeVar("T")


def tracked(items: Iterable[T], what: str) -> Iterable[T]:
    """The items, with a progress bar on stderr."""
    return track(items, what, console=PROGRESS, transient=True)


def obtained(
    bundle: Path | None, saved: Path | None, measure: Callable[[Path], JsonDict], output: Path | None = None
) -> JsonDict:
    """A result: measured with a bundle, or read from a file that an earlier call wrote; written to `output`.

    Raises:
        typer.BadParameter: both or neither are given.
    """
    if (bundle is None) == (saved is None):
        raise typer.BadParameter("give either BUNDLE or --from")
    content = json.loads(saved.read_text()) if saved else measure(Path(bundle or ""))
    if output is not None:
        write_json(output, content)
    return content


def circumstances(packages: Sequence[str]) -> JsonDict:
    """How a result was obtained: command, commit, versions and load of the machine."""
    return {
        "command": command(),
        "commit": commit(),
        "versions": versions(("relay-policy", *packages)),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }


def cpu_s(process: int | None) -> float:
    """The processor's time [s] that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(content: JsonDict, as_json: bool, *parts: RenderableType) -> None:
    """Print a result: as JSON, or as its tables and lines."""
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        for part in parts:
            Console(highlight=False).print(part)


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str | None = None) -> Table:
    """A table whose first column names the row, with figures to the right."""
    made = Table(title=escape(title), caption=caption, title_justify="left", header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(escape(heading), justify="right" if index else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same in Markdown."""
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def verdict(met: bool) -> str:
    return "[green]met[/]" if met else "[red]missed[/]"
