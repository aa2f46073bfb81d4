"""The paper's systems and their results as tables, in a terminal and in a page of the documentation."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from rpl_runtime.console import Console
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.protocol_results import NOTE, check_content, table_rows
from rpl_runtime.files import JsonDict, read_json, staged
from rpl_train.paper.methods import DISTILLED, METHODS, Method, Published
from rpl_train.paper.reproduce import plan
from rpl_train.paper.results import Row, Score, exploring, method_facts, names, read_rows, score, shared_goals
from rpl_train.runs import LEVELS

HARD = "hard"  # the folder of results by the hard protocol, in that of the rows
_EVALUATED = {  # heading -> measure of an evaluation
    "success ever": "success_ever",
    "success end": "success_end",
    "steps ever": "mean_steps_ever",
    "steps end": "mean_steps_end",
}
_FIRST, _LAST = slice(1), slice(-4, None)  # iterations; the first uses the imitated weights
_EXPLORED = {  # heading -> field of a learning curve, iterations
    "success first": ("success", _FIRST),
    "success last": ("success", _LAST),
    "steps first": ("steps_done", _FIRST),
    "steps last": ("steps_done", _LAST),
    "return first": ("earned", _FIRST),
    "return last": ("earned", _LAST),
}
_PAPER_HEADINGS = ("paper success", "paper steps")
_RUN_HEADINGS = ("system", "goals", "trials", "episodes", "environment steps", "commit")
_CAPTION = (
    "success: all four elements done [% of episodes]; steps: how many of four; ever: at any step; end: at the last "
    "one. Mean over goals, the mean over seeds of a goal first, with 95 % bootstrap intervals over goals. The paper's "
    "figures are means over its 17 goals; ~: read off a plot. Episodes that fine-tuning learns from start perturbed "
    "and sample actions; first: in its first iteration, with the initial weights; last: in its last four; return: mean "
    "sum of the row's own rewards in an episode, of the level that learns."
)
_METHODS_CAPTION = (
    "imitates: how demonstrations are relabelled, and the window [steps]; kept: steps a subgoal is kept, where not a "
    "window; flat: no high level. fine-tunes: a level by an objective for a reward, or for one at each level; *: from "
    "random weights. paper: success, the mean over its 17 goals; ~: off a plot."
)


class _Block(NamedTuple):
    """One table: the scores of rows over goals."""

    title: str
    goals: tuple[str, ...] | None  # None: each row's own goals
    rows: Sequence[Row]
    columns: dict[str, Callable[[Row, Sequence[str]], Score]]  # by heading


def methods_facts() -> list[JsonDict]:
    """Every row as plain data."""
    return [method_facts(method) for method in _methods()]


def _methods() -> list[Method]:
    return [METHODS.get(name, DISTILLED) for name in names()]


def print_methods() -> None:
    """Print the settings of every row."""
    table = _table()
    widths = {"row": 14, "system": 13, "imitates": 9, "fine-tunes": 14, "goals\nx seeds": 6, "paper\n[%]": 8}
    for heading, width in widths.items():
        table.add_column(escape(heading), min_width=width, no_wrap=heading.startswith("paper"))
    last = DISTILLED.table
    for method in _methods():
        if method.table != last:
            table.add_section()
            last = method.table
        table.add_row(*map(escape, _made_of(method)))
    console = Console()
    console.print(table)
    console.print(escape(_METHODS_CAPTION), style="dim", highlight=False)


def _table(title: str | None = None) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE, header_style="bold", pad_edge=False, collapse_padding=True
    )


def _made_of(method: Method) -> list[str]:
    start = method.imitation
    learned = start is not None and set(method.scratch) != set(LEVELS)
    kept = f" kept {start.horizon}" if start and start.horizon else ""
    imitated = f"{'flat ' if start.flat else ''}{start.relabelling} {start.window}{kept}" if start and learned else "–"
    levels = " ".join(f"{level}{'*' if level in method.scratch else ''}" for level in method.tunes)
    rewards = f"{method.high_reward} and {method.reward}" if method.high_reward else method.reward
    tuned = f"{levels} by {method.objective} for {rewards}" if levels else "–"
    count = f"{len(method.goals)} x {len(method.seeds) if method.tunes else 1}"
    success, _ = _paper(method.published)
    return [method.name, method.title, imitated, tuned, count, success]


def _paper(published: Published | None) -> list[str]:
    if published is None:
        return ["–", "–"]
    about = "~" if published.plot else ""
    return [f"{about}{published.success}", f"{about}{published.steps}"]


def print_paper(folder: Path) -> None:
    """Print the results beside the paper's: from each start, on the goals that all rows share, and what was run.

    Raises:
        InvalidInput: the folder holds no row, or a damaged one.
    """
    rows, console = read_rows(folder), Console()
    for block in _blocks(rows):
        console.print(_rich(block))
    table = _table("What was run")
    for heading in _RUN_HEADINGS:
        table.add_column(heading, justify="left" if heading in ("system", "commit") else "right")
    for row in rows:
        table.add_row(*map(escape, _run_cells(row)))
    console.print(table)
    console.print(escape(_CAPTION), style="dim", highlight=False)


def write_markdown(folder: Path, page: Path) -> None:
    """Put the same tables between the marks of a Markdown page.

    Raises:
        InvalidInput: the folder holds no row, or the page lacks the marks.
    """
    rows = read_rows(folder)
    tables = [line for block in _blocks(rows) for line in (f"### {block.title}", "", *_markdown(block), "")]
    fill_page(page, [*tables, _CAPTION, "", *_hard_lines(folder), "### What was run", "", *_run_lines(rows), ""])


def read_hard(folder: Path) -> list[JsonDict]:
    """The results by the hard protocol in a folder of results, those of policies first.

    Raises:
        InvalidInput: a file is damaged.
    """
    contents = []
    for path in sorted((folder / HARD).glob("*.json")):
        contents.append(check_content(read_json(path, "a file of `rpl evaluate --protocol hard`")))
    return sorted(contents, key=lambda content: not content["bundle_digest"])


def _hard_lines(folder: Path) -> list[str]:
    contents = read_hard(folder)
    if not contents:
        return []
    headings, rows = table_rows(contents)
    lines = [headings, ["---", *["---:"] * len(contents)], *rows]
    commands = [
        f"- {content['system']}: `{content['command']}`, commit {content['commit'][:12]}" for content in contents
    ]
    return ["### The hard protocol", "", *(f"| {' | '.join(line)} |" for line in lines), "", NOTE, "", *commands, ""]


def fill_page(page: Path, lines: Sequence[str], mark: str = "table") -> None:
    """Replace the lines between two marks of a Markdown page.

    Raises:
        InvalidInput: the page lacks the marks.
    """
    first, last = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise InvalidInput(f"{page.name} has no place for the tables; put {first} and {last} where they belong")
    with staged(page) as staging:
        staging.write_text(before + "\n".join([first, "", *lines, last]) + after)


def _blocks(rows: Sequence[Row]) -> Iterator[_Block]:
    known = [trial.evaluation["starts"] for row in rows for trial in row.trials]
    starts = [start for start in ("nominal", "perturbed") if all(start in found for found in known)]
    for start in starts:
        yield _Block(f"From the {start} start, each row on its own goals", None, rows, _evaluated(start))
    shared = shared_goals(rows)
    if shared and any(row.goals != shared for row in rows):
        for start in starts:
            yield _Block(f"From the {start} start, all on {', '.join(shared)}", shared, rows, _evaluated(start))
    tuned = [row for row in rows if row.tuned]
    if tuned and (shared := shared_goals(tuned)):
        yield _Block(f"Episodes that fine-tuning learns from, all on {', '.join(shared)}", shared, tuned, _explored())


def _evaluated(start: str) -> dict[str, Callable[[Row, Sequence[str]], Score]]:
    return {
        heading: lambda row, goals, measure=measure: score(row, start, measure, goals)
        for heading, measure in _EVALUATED.items()
    }


def _explored() -> dict[str, Callable[[Row, Sequence[str]], Score]]:
    return {
        heading: lambda row, goals, field=field, iterations=iterations: exploring(row, field, goals, iterations)
        for heading, (field, iterations) in _EXPLORED.items()
    }


def _rich(block: _Block) -> Table:
    table = _table(block.title)
    for heading in _headings(block):
        side = "left" if heading == "system" else "right"
        table.add_column(heading.replace(" ", "\n", 1), justify=side, no_wrap=heading in block.columns)
    last = block.rows[0].method.table
    for row in block.rows:
        if row.method.table != last:
            table.add_section()
            last = row.method.table
        cells = [f"{mean}\n[dim]{interval}[/]" for mean, interval in _texts(block, row)]
        table.add_row(escape(row.method.title), *_own_goals(block, row), *cells, *_paper(row.method.published))
    return table


def _markdown(block: _Block) -> list[str]:
    headings = _headings(block)
    lines = [_line(headings), "|---|" + "---:|" * (len(headings) - 1)]
    for row in block.rows:
        cells = [f"{mean} ({interval})" for mean, interval in _texts(block, row)]
        lines.append(_line([row.method.title, *_own_goals(block, row), *cells, *_paper(row.method.published)]))
    return lines


def _headings(block: _Block) -> list[str]:
    return ["system", *([] if block.goals else ["goals"]), *block.columns, *_PAPER_HEADINGS]


def _own_goals(block: _Block, row: Row) -> list[str]:
    return [] if block.goals else [str(len(row.goals))]


def _texts(block: _Block, row: Row) -> Iterator[tuple[str, str]]:
    """(mean, interval) of each column."""
    for heading, measured in block.columns.items():
        found = measured(row, block.goals or row.goals)
        if heading.startswith("success"):
            yield f"{100 * found.mean:.1f}", f"{100 * found.low:.0f}–{100 * found.high:.0f}"
        elif heading.startswith("return"):
            yield f"{found.mean:.1f}", f"{found.low:.1f}–{found.high:.1f}"
        else:
            yield f"{found.mean:.2f}", f"{found.low:.2f}–{found.high:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _run_cells(row: Row) -> list[str]:
    """How much was run for a row; episodes are of each goal from each start, steps of each fine-tuning."""
    planned = len(plan(row.method))
    trials = str(planned) if len(row.trials) == planned else f"{len(row.trials)} of {planned}"
    steps = f"{row.env_steps:,}".replace(",", " ") if row.env_steps else "–"
    commits = ", ".join(commit[:8] + ("-dirty" if commit.endswith("-dirty") else "") for commit in row.commits)
    return [row.method.title, str(len(row.goals)), trials, str(row.episodes), steps, commits]


def _run_lines(rows: Sequence[Row]) -> list[str]:
    measured: dict[str, list[str]] = defaultdict(list)  # command -> titles of the rows it measured
    for row in rows:
        for command in row.commands:
            measured[command].append(row.method.title)
    commands = [f"- {'; '.join(titles)}: `{command}`" for command, titles in measured.items()]
    return [
        _line(_RUN_HEADINGS),
        "|---|---:|---:|---:|---:|---|",
        *(_line(_run_cells(row)) for row in rows),
        "",
        *commands,
    ]
