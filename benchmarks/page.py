"""The tables and the picture of docs/benchmarks.md, from results of the benchmarks; runs no benchmark.

    python -m benchmarks.page docs/data/benchmarks docs/benchmarks.md

Reads the JSON files of the folder, each the `--json` output of the script with that name (server.json of `rpl bench`),
draws server.png beside them and puts the tables between the marks of the page: what is asked of a server and of the low
level beside the robot at its beginning, all others at its end.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.common import markdown
from rpl_runtime.evaluation.figures import STYLE
from rpl_runtime.files import JsonDict, staged
from rpl_train.paper.tables import fill_page

COLOURS = {
    "echo": "#999999",
    "control": "#2f6f9f",
    "control_unix": "#7fb2d6",
    "control_secure": "#8a6fb0",
    "openpi": "#e08a3c",
    "zeromq": "#6a9a58",
}
PERCENTILES = ("p50", "p90", "p99", "p99.9")


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the JSON files.")],
    page: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The Markdown page to fill in.")],
) -> None:
    """Draw the picture and fill in the page."""
    paths = {name: folder / f"{name}.json" for name in TABLES}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if "server" in found:
        draw(found["server"], folder / "server.png")
        fill_page(page, list(requirements(found["server"], found.get("local"))), "asked")
    lines = [line for name, content in found.items() for line in (*TABLES[name](content), circumstances(content), "")]
    fill_page(page, lines)


# ------------------------------------------------------------------------------------------------------- tables


def requirements(content: JsonDict, beside_robot: JsonDict | None) -> Iterator[str]:
    """What is asked of a server and of the low level beside the robot, and what was found."""
    rows = [
        [one["what"], f"{one['sense']} {one['limit']:,g}", f"{one['value']:,.2f}", verdict(one)]
        for one in content["requirements"]
    ]
    if beside_robot is not None:
        [row] = [row for row in beside_robot["rows"] if row["what"] == "low level local"]
        what = f"{row['what']}, amortised over {beside_robot['amortised over']}, p50 [us]"
        rows.append([what, f"at most {beside_robot['limit_us']:g}", f"{row['p50_us']:.2f}", verdict(beside_robot)])
    yield from table(["", "required", "found", ""], rows)


def server(content: JsonDict) -> Iterator[str]:
    if ratios := content.get("ratios"):
        yield from heading("Control over its peers: the median of the runs, the lowest and the highest")
        rows = [
            [row["load"], row["figure"], row["peer"], *(f"{row[key]:.2f}" for key in ("ratio", "low", "high"))]
            for row in ratios
        ]
        yield from table(["load", "figure", "peer", "ratio", "from", "to"], rows)
    yield from heading("A server beside its peers, one robot, unpaced [us]")
    yield from table(["", "n", *PERCENTILES], [[row["what"], row["n"], *figures(row)] for row in content["alone"]])
    for title, what, load in (
        ("Parallel streams, a robot each, unpaced", "streams", "streams"),
        ("Robots on one stream, unpaced", "batches", "batch"),
    ):
        yield from heading(f"{title}: p50, p99.9 [us], control steps/s")
        yield from by_load(
            content[what], load, lambda row: f"{row['p50_us']:,.0f}, {row['p99.9_us']:,.0f}, {row['steps_per_s']:,.0f}"
        )
    yield from heading("Parallel streams at the robots' own rate: p50, p99.9 [us], deadlines missed of n")
    yield from by_load(
        content["paced"],
        "streams",
        lambda row: f"{row['p50_us']:,.0f}, {row['p99.9_us']:,.0f}, {row['missed']} of {row['n']:,}",
    )
    yield from heading("The relay loop in process [us]")
    inside = content["in_process"].values()
    yield from table(["", "n", *PERCENTILES], [[row["what"], row["n"], *figures(row)] for row in inside])
    held = ", ".join(f"{what} {mb:.0f} MB" for what, mb in content["memory_mb"].items() if mb is not None)
    yield from (f"Resident: {held}.", "")


def franka(content: JsonDict) -> Iterator[str]:
    loop, kills = content["loop"], content["kills"]
    yield from heading("The control loop of a simulated FR3 [us]")
    names = {"late_us": "period late by", "observe_to_command_us": "observation to command"}
    rows = [[what, loop[key]["n"], *(f"{loop[key][name]:,.0f}" for name in PERCENTILES)] for key, what in names.items()]
    yield from table(["", "n", *PERCENTILES], rows)
    done = sum(len(episode["done"]) == episode["of"] for episode in loop["episodes"])
    yield (
        f"{loop['missed']} of {loop['periods']:,} periods of 80 ms missed, {loop['held']} without an action in time; "
        f"{done} of {len(loop['episodes'])} episodes completed their goal."
    )
    if kills:
        yield ""
        held, stood = ([kill[key] for kill in kills] for key in ("to_hold_ms", "to_standstill_ms"))
        worst = max(excess for kill in kills for excess in kill["excess"].values())
        yield (
            f"Servers killed during motion: {len(kills)}; at most {max(held):.0f} ms to the first period that holds, "
            f"at most {max(stood):.0f} ms to standstill; a limit was exceeded in at most {worst:.2%} of the samples."
        )
    yield ""


def scheduler(content: JsonDict) -> Iterator[str]:
    yield from heading(f"The scheduler alone, periods of {content['period_s'] * 1e3:g} ms and a fake robot [us]")
    names = {"late": "period late by", "work": "work in a period"}
    yield from table(
        ["", "n", *PERCENTILES], [[what, content[key]["n"], *figures(content[key])] for key, what in names.items()]
    )
    yield from (f"{content['missed']} of {content['late']['n'] + content['missed']:,} periods missed.", "")


def local(content: JsonDict) -> Iterator[str]:
    yield from heading(f"A control step, low level beside the robot, amortised over {content['amortised over']} [us]")
    yield from table(
        ["", "control steps", "p10", "p50", "p90", "p99", "over bare"],
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
    yield from (f"Required of the low level local: at most {content['limit_us']:g} us; {verdict(content)}.", "")


def soak(content: JsonDict) -> Iterator[str]:
    yield from heading("Many short runs against one server")
    yield (
        f"{content['steps']:,} control steps of {content['runs']:,} runs in {content['seconds'] / 60:.0f} min: "
        f"{len(content['leased'])} leases left, {content['growth_mb']:+.1f} MB resident since the warm-up (at most "
        f"{content['limit_mb']:g} allowed)."
    )
    yield ""


TABLES: dict[str, Callable[[JsonDict], Iterator[str]]] = {
    "server": server,
    "local": local,
    "scheduler": scheduler,
    "franka": franka,
    "soak": soak,
}


def heading(text: str) -> Iterator[str]:
    yield from (f"### {text}", "")


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    yield from (*markdown(names, cells).splitlines(), "")


def by_load(rows: Sequence[JsonDict], load: str, cell: Callable[[JsonDict], str]) -> Iterator[str]:
    """A row for each peer, a column for each load."""
    loads = list(dict.fromkeys(row[load] for row in rows))
    peers = list(dict.fromkeys(row["what"] for row in rows))
    cells = {(row["what"], row[load]): cell(row) for row in rows}
    yield from table([load, *map(str, loads)], [[peer, *(cells[peer, one] for one in loads)] for peer in peers])


def verdict(asked: JsonDict) -> str:
    return "met" if asked["met"] else "missed"


def figures(row: JsonDict) -> list[str]:
    return [f"{row[f'{name}_us']:,.0f}" for name in PERCENTILES]


def circumstances(content: JsonDict) -> str:
    load = f", load {content['machine']['load']:.1f}" if "machine" in content else ""
    return f"`{content['command']}`, commit {content['commit'][:8]}{load}."


# ------------------------------------------------------------------------------------------------------ picture


def draw(content: JsonDict, path: Path) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.6), layout="constrained", dpi=150)
        (alone, streams), (batches, paced) = figure.subplots(2, 2)
        for row in content["alone"]:
            values = [row[f"{name}_us"] for name in PERCENTILES]
            alone.plot(PERCENTILES, values, "o-", color=COLOURS[row["peer"]], label=row["what"])
        alone.set(title="One robot, unpaced [us]", yscale="log")
        lines(streams, content["streams"], "streams", "p50_us")
        streams.set(title="Streams, unpaced, p50 [us]", xlabel="streams")
        lines(batches, content["batches"], "batch", "steps_per_s")
        batches.set(title="Robots on one stream, control steps/s", xlabel="robots")
        lines(paced, content["paced"], "streams", "p99.9_us")
        paced.axhline(10_000, color="#bbbbbb", linestyle="--", linewidth=1)
        paced.set(title="At 12.5 Hz, p99.9 [us]; dashed: required", xlabel="streams")
        for axes in (alone, streams, batches, paced):
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
        figure.legend(*alone.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        with staged(path) as staging:
            figure.savefig(staging)


def lines(axes: Axes, rows: Sequence[JsonDict], load: str, value: str) -> None:
    for peer in dict.fromkeys(row["peer"] for row in rows):
        points = [(row[load], row[value]) for row in rows if row["peer"] == peer]
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[peer])
    loads = sorted({row[load] for row in rows})
    axes.set(xscale="log", yscale="log", xticks=loads)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


if __name__ == "__main__":
    typer.run(main)
