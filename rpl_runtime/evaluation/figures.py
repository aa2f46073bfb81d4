"""The picture of an evaluation, drawn from the content of evaluation.json alone."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rpl_runtime.errors import InvalidInput, require
from rpl_runtime.evaluation.results import check_evaluation
from rpl_runtime.files import JsonDict, check_place, staged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6f9f", "#e08a3c")  # one for each start
INK = "#333333"
_END = {"color": INK, "linewidth": 1.6}  # the line for "done at the end"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_USUAL = (".png", ".svg", ".pdf", ".jpg", ".mp4", ".mov", ".webp", ".mcap")  # of the many suffixes that can be written


def picture_suffixes() -> list[str]:
    """The suffixes that `draw_results` can write.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    backend = require("matplotlib.backends.backend_agg", "sim")
    return [f".{name}" for name in backend.FigureCanvasAgg.get_supported_filetypes()]


def check_output(path: Path, suffixes: Collection[str]) -> None:
    """Check a path of a file that is to be written, before the work that fills it.

    Raises:
        InvalidInput: it has another suffix, or no file can be put there.
    """
    if path.suffix.lower() not in suffixes:
        usual = ", ".join(suffix for suffix in _USUAL if suffix in suffixes)
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; must be one that can be written, such as {usual}")
    check_place(path)


def draw_results(evaluation: JsonDict, path: Path) -> None:
    """Draw an evaluation: elements done and success of each goal and on average, and how often each element was done.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: `rpl evaluate` did not write the evaluation, or the suffix is not that of an image format.
    """
    check_output(path, picture_suffixes())
    check_evaluation(evaluation)
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    protocol, starts = evaluation["protocol"], evaluation["starts"]
    goals = list(next(iter(starts.values()))["goals"])
    with mpl.rc_context(STYLE):
        width = max(5.5, 2.0 + 0.34 * len(goals))  # [inch] of the panels by goal
        figure = Figure(figsize=(width + 3.6, 5.8), layout="constrained", dpi=150)

        grid = figure.add_gridspec(2, 2, width_ratios=(width, 3.6))
        done, success = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
        elements = figure.add_subplot(grid[:, 1])
        _bars(done, starts, goals, "mean_steps", scale=1.0)
        done.set(title="Elements done of those in the goal", ylim=(0, 4.15))
        _bars(success, starts, goals, "success", scale=100.0)
        success.set(title="Episodes with all of them done [%]", ylim=(0, 104))
        _element_bars(elements, starts)
        handles = [
            *(Patch(color=colour, label=f"{start} start") for start, colour in zip(starts, COLOURS, strict=False)),
            Patch(facecolor="#dddddd", label="bar: ever done"),
            Line2D([], [], **_END, label="line: done at the end"),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False)
        title = (
            f"{protocol['policy']} in {protocol['environment']}, {protocol['steps']} control steps; "
            f"episodes of each goal: {protocol['episodes']}; mean over goals with 95 % interval"
        )
        figure.suptitle(title, x=0.008, ha="left", fontsize=11)
        with staged(path) as staging:
            figure.savefig(staging)


def _bars(axes: "Axes", starts: Mapping[str, JsonDict], goals: list[str], measure: str, scale: float) -> None:
    """For each goal, and apart from them for the mean, a bar for "ever done" and a line for "done at the end"."""
    ever, end = f"{measure}_ever", f"{measure}_end"
    places, widths = np.arange(len(goals) + 1.0), np.full(len(goals) + 1, 0.8 / len(starts))
    places[-1] += 1.1
    widths[-1] *= 2.5
    for index, (results, colour) in enumerate(zip(starts.values(), COLOURS, strict=False)):
        rows = [*(results["goals"][goal] for goal in goals), results]
        x = places + (index - (len(starts) - 1) / 2) * widths
        axes.bar(x, [scale * row[ever] for row in rows], 0.92 * widths, color=colour)
        axes.hlines([scale * row[end] for row in rows], x - 0.42 * widths, x + 0.42 * widths, **_END)
        low, high = results["intervals"][ever]
        axes.vlines(x[-1], scale * low, scale * high, color=INK, linewidth=1.0)
        label = f"{results[ever]:.2f}" if scale == 1 else f"{scale * results[ever]:.1f}"
        style = {"ha": "center", "color": "white", "weight": "bold", "size": 8}
        axes.annotate(label, (x[-1], 0), (0, 4), textcoords="offset points", **style)
    axes.axvline(len(goals) - 0.2, color="#cccccc", linewidth=0.8)
    axes.set_xticks(places, [*goals, "mean"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.7, places[-1] + 1.2)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _element_bars(axes: "Axes", starts: Mapping[str, JsonDict]) -> None:
    names = list(next(iter(starts.values()))["elements"])
    height = 0.8 / len(starts)
    for index, (results, colour) in enumerate(zip(starts.values(), COLOURS, strict=False)):
        y = np.arange(len(names)) + (index - (len(starts) - 1) / 2) * height
        found = [results["elements"][name] for name in names]
        axes.barh(y, [100 * element["ever"] for element in found], height * 0.92, color=colour)
        axes.vlines([100 * element["end"] for element in found], y - 0.42 * height, y + 0.42 * height, **_END)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title="Element done when in the goal [%]", xlim=(0, 104))
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
