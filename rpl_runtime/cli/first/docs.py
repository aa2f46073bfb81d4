"""`rpl docs`: the pages of the documentation, which come with the project."""

import os
from contextlib import nullcontext
from typing import Annotated

import typer

from rpl_runtime.console import Console
from rpl_runtime.errors import InvalidInput, hint
from rpl_runtime.shipped import shipped


def docs_command(
    page: Annotated[str | None, typer.Argument(help="A page, such as serving; default: the list of all.")] = None,
) -> None:
    """Show a page of the documentation, or what there is to read.

    Example: rpl docs serving
    """
    from rich.markdown import Markdown

    pages = {path.stem: path for path in sorted(shipped("docs").glob("*.md"))}
    name = (page or "index").removeprefix("docs/").removesuffix(".md")
    if name not in pages:
        raise InvalidInput(f"there is no page {name!r}{hint(name, pages)}; must be one of {', '.join(pages)}")
    os.environ.setdefault("LESS", "-FRX")  # as git does: without R, less shows the codes of colours as text
    console = Console()
    with console.pager(styles=True) if console.is_terminal and page else nullcontext():
        console.print(Markdown(pages[name].read_text()))
    if page is None:
        console.print(f"`rpl docs PAGE` shows one: {', '.join(pages)}", markup=False, highlight=False)
        for folder in ("docs", "examples", "proto"):
            console.print(f"{folder:9} {shipped(folder)}", markup=False, highlight=False, soft_wrap=True)
