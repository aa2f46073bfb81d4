"""Build the documentation as a static site: `python docs/site/build.py [FOLDER]`, by default into build/docs.

Copies the pages of docs/ to a temporary folder, writes the reference of commands and modules beside them from the
code, and renders everything with Sphinx. Every warning is an error. Needs the `docs` extra and no network; neither
does the site.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from sphinx.cmd.build import build_main
from typer.cli import get_docs_for_click

from rpl_runtime.cli.app import command

SITE = Path(__file__).parent
DOCS = SITE.parent
ROOT = DOCS.parent
PACKAGES = ("rpl_runtime", "rpl_train")


def build(output: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Write the site to `output`, in place of what stands there, with the modules of `packages`.

    Raises SystemExit if Sphinx warns.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, html = Path(folder, "source"), Path(folder, "html")
        shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("site", "*.json", "__pycache__"))
        shutil.copy(SITE / "style.css", source)
        (source / "commands.md").write_text(commands())
        modules = write_modules(source, packages)
        index = source / "index.md"
        index.write_text("\n".join([index.read_text(), *contents(index.read_text(), modules)]))
        arguments = ["-q", "-W", "--keep-going", "-c", str(SITE), "-d", f"{folder}/doctrees"]
        if build_main([*arguments, str(source), str(html)]):
            raise SystemExit("the documentation has warnings, listed above")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(html, output, ignore=shutil.ignore_patterns(".buildinfo"))


def contents(index: str, modules: list[str]) -> Iterator[str]:
    """The site's table of contents: the pages that each section of the index links to, and the reference."""
    for section in index.split("\n## ")[1:]:
        title = section.splitlines()[0]
        yield from table_of_contents(title, re.findall(r"^- \[[^]]+\]\((\S+)\.md\)", section, re.MULTILINE))
    yield from table_of_contents("Reference", ["commands", *modules])


def table_of_contents(title: str, pages: list[str]) -> Iterator[str]:
    yield from ("", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```")


def commands() -> str:
    """Every command of `rpl`, as Markdown."""
    tree: Any = command()
    page = get_docs_for_click(obj=tree, ctx=typer.Context(tree, info_name="rpl"), name="rpl", title="Commands")
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", page)  # lists of commands, their texts cut short


def write_modules(source: Path, packages: Sequence[str]) -> list[str]:
    """Write a page for each folder of the packages, every module a section. Returns the names of the pages."""
    pages = []
    for package in packages:
        for folder in [ROOT / package, *sorted(path for path in (ROOT / package).rglob("*") if path.is_dir())]:
            modules = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
            if modules and "_pb" not in folder.parts:
                name = ".".join(folder.relative_to(ROOT).parts)
                (source / f"{name}.md").write_text("\n".join(module_page(name, [path.stem for path in modules])))
                pages.append(name)
    return pages


def module_page(name: str, modules: list[str]) -> Iterator[str]:
    yield from (f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}", "```")
    for module in modules:
        yield from ("", f"## {module}", "", "```{eval-rst}", f".. automodule:: {name}.{module}", "   :members:", "```")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs")
