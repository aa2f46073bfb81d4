"""The figures of docs/benchmarks.md, from what the benchmarks printed; runs nothing.

    python benchmarks/page.py docs/data/benchmarks

Reads the JSON files of the folder, each as `--json` of the script of that name printed it (server.json is that of `rpl
bench`), draws server.png beside them and puts the tables between the marks of FOLDER.md.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from rpl_runtime.evaluation.figures import STYLE
from rpl_train.paper.tables import fill_page

COLOURS = {"echo": "#999999", "control": "#2f6f9f", "control_unix": "#7fb2d6", "openpi": "#e08a3c", "zeromq": "#6a9a58"}
PERCENTILES = ("p50", "p90", "p99", "p99.9")

Content = dict[str, Any]


def main(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Of the JSON files.")]) -> None:
    """Draw the picture and fill in the page."""
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in TABLES if has(folder, name)}
    if "server" in found:
        draw(found["server"], folder / "server.png")
    lines = [line for name, content in found.items() for line in (*TABLES[name](content), circumstances(content), "")]
    fill_page(folder, lines)


def has(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").exists()


# ------------------------------------------------------------------------------------------------------- tables


def server(content: Content) -> Iterator[str]:
    yield from heading("A server beside its peers, one robot, as fast as it goes [us]")
    yield from table(["", "n", *PERCENTILES], [[row["what"], row["n"], *figures(row)] for row in content["alone"]])
    for title, what, load in (
        ("Streams side by side, a robot each, as fast as they go", "streams", "streams"),
        ("Robots on one stream, as fast as they go", "batches", "batch"),
    ):
        yield from heading(f"{title}: p50, p99.9 [us], robot steps/s")
        yield from by_load(
            content[what], load, lambda row: f"{row['p50_us']:,.0f}, {row['p99.9_us']:,.0f}, {row['steps_per_s']:,.0f}"
        )
    yield from heading("Streams side by side at the robots' own rate: p50, p99.9 [us], deadlines missed of n")
    yield from by_load(
        content["paced"],
        "streams",
        lambda row: f"{row['p50_us']:,.0f}, {row['p99.9_us']:,.0f}, {row['missed']} of {row['n']:,}",
    )
    yield from heading("The relay loop in process [us]")
    inside = content["in_process"].values()
    yield from table(["", "n", *PERCENTILES], [[row["what"], row["n"], *figures(row)] for row in inside])
    yield from heading("What is asked of it")
    asked = [
        [one["what"], f"{one['value']:,.2f}", f"{one['sense']} {one['limit']:,g}", verdict(one)]
        for one in content["requirements"]
    ]
    yield from table(["", "found", "asked", ""], asked)
    held = ", ".join(f"{what} {mb:.0f} MB" for what, mb in content["memory_mb"].items() if mb is not None)
    yield from (f"Resident: {held}.", "")


def franka(content: Content) -> Iterator[str]:
    loop, kills = content["loop"], content["kills"]
    yield from heading("The control loop of a simulated FR3 [us]")
    names = {"late_us": "a period begins late by", "observe_to_command_us": "from observation to command"}
    rows = [[what, loop[key]["n"], *(f"{loop[key][name]:,.0f}" for name in PERCENTILES)] for key, what in names.items()]
    yield from table(["", "n", *PERCENTILES], rows)
    done = sum(len(episode["done"]) == episode["of"] for episode in loop["episodes"])
    yield (
        f"{loop['missed']} of {loop['periods']:,} periods of 80 ms missed, {loop['held']} without an action in time; "
        f"{done} of {len(loop['episodes'])} episodes did all of their goal."
    )
    if kills:
        yield ""
        held, stood = ([kill[key] for kill in kills] for key in ("to_hold_ms", "to_standstill_ms"))
        worst = max(excess for kill in kills for excess in kill["excess"].values())
        yield (
            f"{len(kills)} servers killed in mid-motion: {max(held):.0f} ms at most to the first period that holds, "
            f"{max(stood):.0f} ms at most to standstill; the limits were passed by at most {worst:.4f} of themselves."
        )
    yield ""


def scheduler(content: Content) -> Iterator[str]:
    yield from heading(f"The scheduler alone, periods of {content['period_s'] * 1e3:g} ms and a fake robot [us]")
    names = {"late": "a period begins late by", "work": "work in it"}
    yield from table(
        ["", "n", *PERCENTILES], [[what, content[key]["n"], *figures(content[key])] for key, what in names.items()]
    )
    yield from (f"{content['missed']} of {content['late']['n'] + content['missed']:,} periods missed.", "")


def local(content: Content) -> Iterator[str]:
    yield from heading(f"A step with the low level beside the robot, amortised over {content['amortised over']} [us]")
    yield from table(
        ["", "steps", "p10", "p50", "p90", "p99", "over bare"],
        [
            [
                row["what"],
                row["steps"],
                *(f"{row[f'{name}_us']:,.1f}" for name in ("p10", "p50", "p90", "p99")),
                f"{row['over_bare']:.2f}",
            ]
            for row in content["rows"]
        ],
    )
    yield from (f"Asked of the low level local: at most {content['limit_us']:g} us; {verdict(content)}.", "")


def soak(content: Content) -> Iterator[str]:
    yield from heading("Many short runs against one server")
    yield (
        f"{content['steps']:,} steps of {content['runs']:,} runs in {content['seconds'] / 60:.0f} min: "
        f"{len(content['leased'])} leases left, {content['growth_mb']:+.1f} MB resident since the warm-up (at most "
        f"{content['limit_mb']:g} asked)."
    )
    yield ""


def hostile(content: Content) -> Iterator[str]:
    yield from heading("Hostile messages, and a robot beside them")
    yield (
        f"{content['messages']:,} messages in {content['seconds'] / 60:.0f} min: {len(content['wrong'])} wrong "
        f"statuses; {content['robot_runs_beside']:,} runs of a robot beside them, {content['robot_runs_different']} "
        "unlike one alone."
    )
    yield ""
    yield from table(["attack and status", "times"], list(content["statuses"].items()))


TABLES: dict[str, Callable[[Content], Iterator[str]]] = {
    "server": server,
    "local": local,
    "scheduler": scheduler,
    "franka": franka,
    "soak": soak,
    "hostile": hostile,
}


def heading(text: str) -> Iterator[str]:
    yield from (f"### {text}", "")


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|---|" + "---:|" * (len(names) - 1)
    for row in rows:
        yield f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row)} |"
    yield ""


def by_load(rows: Sequence[Content], load: str, cell: Callable[[Content], str]) -> Iterator[str]:
    """A row for each peer, a column for each load."""
    loads = list(dict.fromkeys(row[load] for row in rows))
    peers = list(dict.fromkeys(row["what"] for row in rows))
    cells = {(row["what"], row[load]): cell(row) for row in rows}
    yield from table([load, *map(str, loads)], [[peer, *(cells[peer, one] for one in loads)] for peer in peers])


def verdict(asked: Content) -> str:
    return "met" if asked["met"] else "missed"


def figures(row: Content) -> list[str]:
    return [f"{row[f'{name}_us']:,.0f}" for name in PERCENTILES]


def circumstances(content: Content) -> str:
    load = f", load {content['machine']['load']:.1f}" if "machine" in content else ""
    return f"`{content['command']}`, commit {content['commit'][:8]}{load}."


# ------------------------------------------------------------------------------------------------------ picture


def draw(content: Content, path: Path) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.6), layout="constrained", dpi=150)
        (alone, streams), (batches, paced) = figure.subplots(2, 2)
        for row in content["alone"]:
            values = [row[f"{name}_us"] for name in PERCENTILES]
            alone.plot(PERCENTILES, values, "o-", color=COLOURS[row["peer"]], label=row["what"])
        alone.set(title="One robot, as fast as it goes [us]", yscale="log")
        lines(streams, content["streams"], "streams", "p50_us")
        streams.set(title="Streams as fast as they go, p50 [us]", xlabel="streams")
        lines(batches, content["batches"], "batch", "steps_per_s")
        batches.set(title="Robots on one stream, steps/s", xlabel="robots")
        lines(paced, content["paced"], "streams", "p99.9_us")
        paced.axhline(10_000, color="#bbbbbb", linestyle="--", linewidth=1)
        paced.set(title="At 12.5 Hz, p99.9 [us]; dashed: what is asked", xlabel="streams")
        for axes in (alone, streams, batches, paced):
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
        figure.legend(*alone.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        staging = path.with_name(f".{path.name}.tmp.png")
        figure.savefig(staging)
        os.replace(staging, path)


def lines(axes: Axes, rows: Sequence[Content], load: str, value: str) -> None:
    for peer in dict.fromkeys(row["peer"] for row in rows):
        points = [(row[load], row[value]) for row in rows if row["peer"] == peer]
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[peer])
    loads = sorted({row[load] for row in rows})
    axes.set(xscale="log", yscale="log", xticks=loads)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


if __name__ == "__main__":
    typer.run(main)
