"""Learning curves and ablations of the rows in a folder, as figures like the paper's Figures 6 and 7."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

from rpl_runtime.errors import require
from rpl_runtime.evaluation.figures import COLOURS, INK, STYLE
from rpl_runtime.files import staged
from rpl_train.paper.methods import METHODS, REFERENCE, WINDOW_30, Method, Published
from rpl_train.paper.results import Row, curve, read_rows, score, shared_goals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STARTS = ("nominal", "perturbed")
_START = "perturbed"  # the start of fine-tuning's episodes
_PAPER = "#b8b8b8"
_RELAY_LINE = 3  # number of first rows whose styles ablations must not use
_LINES = (  # colours and dashes
    *(("#2f6f9f", "-"), ("#e08a3c", "-"), ("#4a9a6b", "-"), ("#a04a8c", "-"), ("#b03a3a", "--"), ("#8c6d31", "--")),
    *(("#5f5f5f", "--"), ("#17a2b8", "--"), ("#111111", ":"), ("#9a9a9a", ":"), ("#6b4ac0", ":"), ("#c0904a", ":")),
)
_LEGEND = (
    f"Lines: the episodes that fine-tuning learns from, which explore, {_START} start; mean over goals with 95 % "
    "interval. Dots: evaluated afterwards without exploring, same start; dotted line: imitation alone, evaluated so."
)
_MEASURES = (  # of a curve, of an evaluation, scale, label, highest value
    ("success", "success_ever", 100.0, "all four ever done [% of episodes]", 104),
    ("steps_done", "mean_steps_ever", 1.0, "elements ever done of four", 4.16),
)


class _Panel(NamedTuple):
    """Rows compared over the same goals."""

    title: str
    rows: Sequence[Row]
    goals: tuple[str, ...]


class _Bar(NamedTuple):
    """One variant of an ablation."""

    label: str
    row: Row
    published: Published | None


def draw_paper(folder: Path) -> None:
    """Save the figures of the rows in a folder as curves.png and ablations.png in it.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the folder holds no row, or a damaged one.
    """
    require("matplotlib", "sim")
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        for name, figure in paper_figures(read_rows(folder)).items():
            with staged(folder / f"{name}.png") as staging:
                figure.savefig(staging)


def paper_figures(rows: Sequence[Row]) -> dict[str, "Figure"]:
    """The figures that rows allow: `curves` if any is fine-tuned, `ablations` if any is an ablation."""
    figures = {}
    if panels := _panels(rows):
        figures["curves"] = _curves(panels, {row.method.name: row for row in rows}.get("ril"))
    if ablations := _ablations(rows):
        figures["ablations"] = _compare(ablations)
    return figures


def _panels(rows: Sequence[Row]) -> list[_Panel]:
    """The rows with most goals; then all systems and all ablations on the goals that all rows share."""
    tuned = [row for row in rows if row.tuned]
    if not tuned:
        return []
    most, shared = max((row.goals for row in tuned), key=len), shared_goals(tuned)
    panels = [_Panel(f"On {len(most)} goals", [row for row in tuned if row.goals == most], most)]
    if shared and shared != most:
        where = f"on {', '.join(shared)}"
        systems = [row for row in tuned if row.method.table == "systems"]
        levels = [row for row in tuned if row.method.table == "levels"]
        ablations = [row for row in tuned if _group(row.method) == "ablations"]
        panels += [
            _Panel(f"{title}, {where}", rows, shared)
            for title, rows in (("Systems", systems), ("Levels", levels))
            if rows
        ]
        if ablations:
            reference = [row for row in systems if row.method.name == REFERENCE]
            panels.append(_Panel(f"Ablations, {where}", [*reference, *ablations], shared))
    return panels


def _curves(panels: Sequence[_Panel], imitated: Row | None) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels) + 0.4, 8.2), layout="constrained", dpi=150)
    grid = figure.subplots(2, len(panels), squeeze=False)
    for column, (axes, panel) in enumerate(zip(grid.T, panels, strict=True)):
        for on, (measure, evaluated, scale, label, top) in zip(axes, _MEASURES, strict=True):
            _draw_curves(on, panel, measure, evaluated, scale)
            if imitated and set(panel.goals) <= set(imitated.goals):
                before = scale * score(imitated, _START, evaluated, panel.goals).mean
                on.axhline(before, color=INK, linewidth=1.0, linestyle=(0, (1, 2)))
            on.set(ylim=(0, top), ylabel="" if column else label)
        axes[0].set_title(panel.title)
        axes[1].set_xlabel("environment steps, for each goal and seed")
        axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=8)
    figure.suptitle(fill(_LEGEND, width=int(12 * figure.get_figwidth())), x=0.008, ha="left", fontsize=10)
    return figure


def _draw_curves(axes: "Axes", panel: _Panel, measure: str, evaluated: str, scale: float) -> None:
    found = [(row, curve(row, measure, panel.goals)) for row in panel.rows]
    longest = max(line.env_steps[-1] for _, line in found)
    for row, line in found:
        colour, dashes = _style(row)
        axes.plot(line.env_steps, scale * line.mean, dashes, color=colour, linewidth=1.6, label=row.method.title)
        axes.fill_between(line.env_steps, scale * line.low, scale * line.high, color=colour, alpha=0.12, linewidth=0)
        after = score(row, _START, evaluated, panel.goals)
        axes.plot(1.05 * longest, scale * after.mean, "o", color=colour, markersize=5, clip_on=False)
    axes.set_xlim(0, 1.08 * longest)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f} k" if value else "0")
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _style(row: Row) -> tuple[str, str]:
    """A row's colour and dashes, the same in every panel; ablations reuse styles of systems in other panels."""
    group = _group(row.method)
    alike = [m.name for m in METHODS.values() if m.tunes and _group(m) == group]
    return _LINES[alike.index(row.method.name) + (_RELAY_LINE if group == "ablations" else 0)]


def _group(method: Method) -> str:
    """The kind of panel in which a row is drawn."""
    return method.table if method.table in ("systems", "levels") else "ablations"


def _ablations(rows: Sequence[Row]) -> dict[str, list[_Bar]]:
    """The ablations of NPG-RPL: windows, and rewards."""
    named = {row.method.name: row for row in rows}
    reference = named.get(REFERENCE)
    if reference is None:
        return {}
    windows, rewards = [_Bar("30", reference, WINDOW_30)], [_Bar("completion\n(ours)", reference, None)]
    for row in rows:
        if row.method.table == "windows" and row.method.imitation:
            start = row.method.imitation
            label = f"{start.window}\nkept {start.horizon}" if start.horizon else str(start.window)
            windows.append(_Bar(label, row, row.method.published))
        if row.method.table == "rewards":
            rewards.append(_Bar(row.method.reward, row, row.method.published))
    compared = {"window, and for how long a subgoal is kept [steps]": windows, "reward of fine-tuning": rewards}
    return {
        title: bars for title, bars in compared.items() if len(bars) > 1 and shared_goals([bar.row for bar in bars])
    }


def _compare(ablations: dict[str, list[_Bar]]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(4.6 * len(ablations) + 0.4, 6.4), layout="constrained", dpi=150)
    grid = figure.subplots(2, len(ablations), squeeze=False)
    for column, (axes, (title, bars)) in enumerate(zip(grid.T, ablations.items(), strict=True)):
        goals = shared_goals([bar.row for bar in bars])
        for on, (_, measure, scale, label, top) in zip(axes, _MEASURES, strict=True):
            _draw_bars(on, bars, measure, scale, goals)
            on.set(ylim=(0, 1.06 * top), ylabel="" if column else label)
        axes[0].set_title(f"NPG-RPL on {', '.join(goals)}")
        axes[1].set_xlabel(title)
    handles = [Patch(color=colour, label=f"{start} start") for start, colour in zip(_STARTS, COLOURS, strict=True)]
    handles.append(Patch(color=_PAPER, label="the paper, 17 goals (read off a plot)"))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False)
    return figure


def _draw_bars(axes: "Axes", bars: Sequence[_Bar], measure: str, scale: float, goals: Sequence[str]) -> None:
    """For each variant, a bar with interval for each start, and the paper's bar."""
    width, form = 0.27, "{:.0f}" if measure == "success_ever" else "{:.2f}"

    def draw(place: float, value: float, top: float, colour: str) -> None:
        axes.bar(place, value, 0.92 * width, color=colour)
        axes.annotate(form.format(value), (place, top), (0, 2), textcoords="offset points", ha="center", fontsize=7)

    for place, bar in enumerate(bars):
        for index, (start, colour) in enumerate(zip(_STARTS, COLOURS, strict=True)):
            mean, low, high = (scale * value for value in score(bar.row, start, measure, goals))
            draw(place + (index - 1) * width, mean, high, colour)
            axes.vlines(place + (index - 1) * width, low, high, color=INK, linewidth=1)
        if bar.published:
            value = float(bar.published.success if measure == "success_ever" else bar.published.steps)
            draw(place + width, value, value, _PAPER)
    axes.set_xticks(range(len(bars)), [bar.label for bar in bars])
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
