"""The documentation says what is there: files, commands, figures and links."""

import importlib.util
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from rpl_runtime.cli.app import command as command_line
from rpl_runtime.evaluation.results import bootstrap_interval
from rpl_runtime.tasks.kitchen.simulator import PERTURBED
from rpl_train.paper.methods import DISTILLED
from source import PACKAGES, ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
SHIPPED = ("kitchen", "play", "relay")
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
FOLDERS = (*PACKAGES, "benchmarks", "examples", "proto", "deploy", "docs/site")  # whose files the architecture names


USAGE_ERROR: Any = typer.BadParameter.__base__  # of typer's own click, for which it has no public name


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -------------------------------------------------------------------------------------------------------- layout


def difference(documented: set[str], found: set[str]) -> dict[str, list[str]]:
    """What the documentation leaves out, and what it names that is not there."""
    return {"missing": sorted(found - documented), "too much": sorted(documented - found)}


def wings_of_readme() -> set[str]:
    """The folders of the README's tree, as PACKAGE and PACKAGE/WING."""
    names, package = set(), ""
    (tree,) = (text for language, text in fences(README.read_text()) if not language)
    for line in tree.splitlines():
        name = line.split("/")[0]
        package = package if name.startswith(" ") else name
        names.add(f"{package}/{name.strip()}" if name.startswith(" ") else package)
    return names


def test_the_readme_names_every_wing_and_no_other() -> None:
    folders = [ROOT / package for package in PACKAGES]
    folders += [path for folder in folders for path in folder.iterdir() if (path / "__init__.py").exists()]
    found = {str(path.relative_to(ROOT)) for path in folders if path.name != "_pb"}
    assert difference(wings_of_readme(), found) == {"missing": [], "too much": []}


def fences(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def files_of_architecture() -> list[str]:
    """The files of the lists in architecture.md, each list under the heading of its folder."""
    files, folder = [], ""
    for line in (DOCS / "architecture.md").read_text().splitlines():
        if line.startswith("#"):
            folder = line.removeprefix("### ") if line.startswith("### ") else ""
        elif found := re.match(r"- `([^`]+)`: \S", line):
            files.append(f"{folder}{found[1]}")
    return files


def test_the_architecture_names_every_file_once_and_no_other() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    skipped = {"__init__.py", "py.typed", "requirements.txt"}
    found = {
        str(path.relative_to(ROOT))
        for path in paths
        if path.name not in skipped and not {"_pb", "__pycache__", ".venv"} & set(path.parts)
    }
    documented = files_of_architecture()
    assert difference(set(documented), found) == {"missing": [], "too much": []}
    assert len(documented) == len(set(documented))


def test_the_picture_of_a_step_names_modules_that_exist() -> None:
    words = re.findall(r"[\w/]*/[\w/]*\w+\.py", (DOCS / "architecture.svg").read_text())
    assert len(words) > 8
    assert [word for word in words if not (ROOT / "rpl_runtime" / word).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_module_that_a_page_names_exists(path: Path) -> None:
    text = outside_tables(path)
    folders = "rpl_runtime|rpl_train|tests|benchmarks|examples|proto|deploy"
    words = re.findall(rf"(?<![\w/])(?:{folders})/[\w/.-]+\.\w+", text)
    assert [word for word in words if not (ROOT / word).exists()] == []
    modules = [f"/{page_name(file)}" for folder in (*FOLDERS, "tests") for file in (ROOT / folder).rglob("*.py")]
    words = re.findall(r"`([\w/]+\.py)`", text)
    assert [word for word in words if not any(module.endswith(f"/{word}") for module in modules)] == []
    for module, name in re.findall(r"^from (rpl_\S+) import (\w+)", text, re.MULTILINE):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


# ------------------------------------------------------------------------------------------------------ commands


def outside_tables(path: Path) -> str:
    """A page without its generated tables, which keep the commands that once made them."""
    return re.sub(r"<!-- table -->.*<!-- /table -->", "", path.read_text(), flags=re.DOTALL)


def command_lines(path: Path) -> Iterator[list[str]]:
    """The words of each command line in a page's code blocks, or in a file of deploy/."""
    text = path.read_text() if path.suffix != ".md" else "\n".join(code_blocks(outside_tables(path)))
    for line in text.replace("\\\n", " ").splitlines():
        start = re.match(r"^\s*(?:ExecStart=\S*/)?(?=(?:rpl|python|make) )", line)
        if start:
            words = shlex.split(line[start.end() :], comments=True)
            yield words[: words.index(">")] if ">" in words else words


def code_blocks(text: str) -> Iterator[str]:
    yield from (block for _, block in fences(text))
    yield from re.findall(r"^    (.*)$", text, re.MULTILINE)


def commands_of_kubernetes() -> Iterator[list[str]]:
    for words in re.findall(r"command: \[(rpl, [^]]*)\]", (ROOT / "deploy" / "kubernetes.yaml").read_text()):
        yield [word.strip(' "') for word in words.split(",")]


def parse(command: Any, words: list[str], parent: Any = None) -> None:
    """Parse a command line as `rpl` would, and run nothing."""
    context = command.make_context(words[0], words[1:], parent)
    if hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, child, rest = command.resolve_command(context, rest)
        parse(child, [name, *rest], context)


def rpl_options(words: list[str]) -> None:
    """What a command named in passing must have: its name, and every option that is named with it."""
    command: Any = command_line()
    spare = words[1:]
    options = {name for param in command.params for name in param.opts}
    while spare and hasattr(command, "commands"):
        word = spare.pop(0)
        if word.startswith("-"):
            assert word in options, f"rpl has no {word}"
            spare = spare[1:]
        else:
            assert word in command.commands, f"{' '.join(words)}: there is no command {word}"
            command = command.commands[word]
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    unknown = [word for word in spare if word.startswith("--") and word.split("=")[0] not in options]
    assert unknown == [], f"{' '.join(words)}: {command.name} has no {unknown}"


def parse_script(words: list[str]) -> None:
    """Parse `python -m MODULE ...`, a typer command, or `python FILE ...`, whose argparse options are in its source."""
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"there is no {words[2]}"
        script = typer.Typer(add_completion=False)
        script.command()(importlib.import_module(words[2]).main)
        typer.main.get_command(script).make_context(words[2], words[3:])
    else:
        assert (ROOT / words[1]).exists(), f"there is no {words[1]}"
        source = (ROOT / words[1]).read_text()
        assert [word for word in words[2:] if word.startswith("--") and f'"{word}"' not in source] == []


def whole_lines(path: Path) -> Iterator[tuple[Callable[[list[str]], None], list[str]]]:
    for words in [*command_lines(path), *(commands_of_kubernetes() if path.name == "kubernetes.yaml" else ())]:
        yield check, words


def passing_mentions(path: Path) -> Iterator[tuple[Callable[[list[str]], None], list[str]]]:
    """Commands in a page's text, which need not be whole; the lab notes keep those of their day."""
    if path.suffix == ".md" and path.name != "lab-notes.md":
        for found in re.findall(r"(?<!`)`((?:rpl|make) [^`\n]+)`", outside_tables(path)):
            yield rpl_options if found.startswith("rpl") else check, shlex.split(found)


def check(words: list[str]) -> None:
    """Parse a whole command line. Raises a usage error or AssertionError for one that would be refused."""
    if words[0] == "rpl":
        parse(command_line(), words)
    elif words[0] == "python":
        parse_script(words)
    else:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"the Makefile has no {words[1]}"


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "deploy").iterdir())], ids=page_name)
def test_every_command_line_is_one_that_the_program_takes(path: Path) -> None:
    faults = []
    for check, words in [*whole_lines(path), *passing_mentions(path)]:
        try:
            check(words)
        except (USAGE_ERROR, AssertionError) as error:
            faults.append(f"{' '.join(words)}: {getattr(error, 'message', error)}")
    assert [fault for fault in faults if "does not exist" not in fault or "/" not in fault] == []


@pytest.mark.parametrize(
    "line",
    [
        "rpl serve models/kitchen --no-such-option",
        "rpl run --robot toaster",
        "rpl demos plya runs/play",
        "rpl evaluate models/kitchen --episodes many",
        "python -m benchmarks.runtime.soak models/kitchen --no-such-option",
        "make nothing",
    ],
)
def test_a_command_line_that_the_program_would_refuse_is_noticed(line: str) -> None:
    with pytest.raises((USAGE_ERROR, AssertionError)):
        check(shlex.split(line))


# ------------------------------------------------------------------------------------------------------- figures


def figures(success: tuple[float, float, float], elements: tuple[float, float, float]) -> list[str]:
    """A mean and its interval each, as the cells of the README's table."""
    mean, low, high = (100 * value for value in success)
    return [f"{mean:.1f} % ({low:.0f}–{high:.0f})", "{:.2f} ({:.2f}–{:.2f})".format(*elements)]


def shipped(name: str) -> list[str]:
    """The cells of a shipped bundle, from its evaluation.json."""
    cells: list[str] = []
    for start in ("nominal", "perturbed"):
        found = json.loads((ROOT / "models" / name / "evaluation.json").read_text())["starts"][start]
        cells += figures(*((found[key], *found["intervals"][key]) for key in ("success_ever", "mean_steps_ever")))
    return cells


def nearest() -> list[str]:
    """The cells of open-loop replay, from the means of its goals."""
    (trial,) = json.loads((DOCS / "data" / "results" / "nearest.json").read_text())["trials"]
    cells: list[str] = []
    for start in ("nominal", "perturbed"):
        goals = trial["evaluation"]["starts"][start]["goals"].values()
        means = [[goal[key] for goal in goals] for key in ("success_ever", "mean_steps_ever")]
        cells += figures(*((sum(values) / len(values), *bootstrap_interval(values)) for values in means))
    return cells


def test_every_figure_of_the_readmes_shifts_is_that_of_its_file() -> None:
    files = (DOCS / "data" / "results" / "hard" / f"{name}.json" for name in (*SHIPPED, "replay"))
    found = [json.loads(file.read_text())["conditions"]["shift of ten goals"] for file in files]
    kitchen, play, relay, replay = found
    text = " ".join(README.read_text().split())
    assert f"Of the {kitchen['asked']} in {kitchen['episodes']} shifts it does {kitchen['reached']};" in text
    others = (play["asked"], play["reached"], relay["reached"], replay["reached"])
    assert "of {} the others do {} and {}, replay {}".format(*others) in text


def test_every_figure_of_the_readme_is_that_of_its_file() -> None:
    rows = [
        [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        for line in README.read_text().splitlines()
        if line.startswith("| ")
    ]
    published = DISTILLED.published
    assert published is not None
    assert [row[1:] for row in rows[1:]] == [
        shipped("kitchen"),
        shipped("play"),
        shipped("relay"),
        [f"~{published.success} %", f"~{published.steps}", "", ""],
        nearest(),
    ]
    assert [rows[at + 1][0].split(",")[0] for at in range(3)] == [f"`models/{name}`" for name in SHIPPED]
    assert "replay" in rows[5][0]


def test_every_number_of_the_readmes_text_is_that_of_the_protocol() -> None:
    """Numbers that the shipped evaluation and manifests fix, each found by the words beside it."""
    protocol = json.loads((ROOT / "models" / "kitchen" / "evaluation.json").read_text())["protocol"]
    manifest, play, relay = (json.loads((ROOT / f"models/{name}/manifest.json").read_text()) for name in SHIPPED)
    text = README.read_text()
    for pattern, value in {
        r"(\d+) goals": len(protocol["goals"]),
        r"(\d+) compound goals": len(protocol["goals"]),
        r"(\d+) episodes of each": protocol["episodes"],
        r"some step of (\d+)": protocol["steps"],
        r"range\((\d+)\)": protocol["steps"],
        r"arm\s±([\d.]+) rad": PERTURBED.arm,
        r"kettle\s±([\d.]+) m": PERTURBED.kettle,
        r"held for ([\d.]+) s": protocol["period_s"],
        r"every (\d+) steps": manifest["spec"]["horizon"],
        r"(\d+) human demonstrations": sum(data["episodes"] for data in relay["provenance"]["data"]),
        r"(\d+) scripted demonstrations": sum(data["episodes"] for data in play["provenance"]["data"]),
        r"# \((\d+),\) float32": len(manifest["spec"]["state"]["names"]),
        r"# \((\d+),\) joint position": len(manifest["spec"]["action"]["names"]),
    }.items():
        found = {float(number) for number in re.findall(pattern, text)}
        assert found == {float(value)}, pattern


# ----------------------------------------------------------------------------------------------- links and pages


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            assert there.exists(), f"{target} does not exist"
            assert not anchor or anchor in anchors(there), f"{file} has no heading {anchor}"


def test_the_index_links_to_every_page() -> None:
    linked = set(re.findall(r"^- \[[^]]+\]\((\w[\w-]*\.md)\): \S", (DOCS / "index.md").read_text(), re.MULTILINE))
    assert difference(linked, {path.name for path in DOCS.glob("*.md")} - {"index.md"}) == {
        "missing": [],
        "too much": [],
    }


def test_every_picture_is_shown_on_a_page() -> None:
    shown = {
        (path.parent / target).resolve()
        for path in PAGES
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", path.read_text())
    }
    pictures = {path for suffix in ("png", "svg") for path in DOCS.rglob(f"*.{suffix}")}
    assert {page_name(path) for path in pictures - shown} == set()


def test_the_readme_stays_short() -> None:
    assert len(README.read_text().splitlines()) <= 120


# ---------------------------------------------------------------------------------------------------------- site


PARTS = [pytest.param((), id="pages"), pytest.param(PACKAGES, id="modules", marks=pytest.mark.long)]


@pytest.mark.filterwarnings("ignore:.*Sphinx")  # its own deprecations, by its own extensions
@pytest.mark.parametrize("packages", PARTS)
def test_the_site_is_built_without_a_warning_and_needs_no_network(packages: tuple[str, ...], tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("documentation_site", DOCS / "site" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    site.build(tmp_path / "site", packages)
    pages = {path.name: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    assert {"index.html", "commands.html", *(f"{path.stem}.html" for path in DOCS.glob("*.md"))} <= set(pages)
    assert "--plan-lead" in pages["commands.html"]
    assert not packages or "RelayLoop" in pages["rpl_runtime.relay.html"]
    for name, page in pages.items():
        fetched = re.findall(r"<(?:script|img|source)[^>]* src=\"([^\"]+)\"", page)
        fetched += re.findall(r"<link[^>]* href=\"([^\"]+)\"", page)
        assert [url for url in fetched if "//" in url] == [], name
