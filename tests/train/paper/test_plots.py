"""The pictures are drawn from the files alone, of whatever rows there are."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import Rectangle

import rows
from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS
from rpl_train.paper.methods import COMPARED_GOALS, METHODS
from rpl_train.paper.plots import draw_paper, paper_figures
from rpl_train.paper.results import curve, read_rows, score, write_row

STARTS = ("nominal", "perturbed")


def drawn(folder, *names) -> set[str]:
    for name in names:
        write_row(rows.row(METHODS[name]), folder)
    draw_paper(folder)
    return {path.name for path in folder.iterdir() if not path.name.endswith(".json")}


def figures(folder, *made):
    for row in made:
        write_row(row, folder)
    read = {row.method.name: row for row in read_rows(folder)}
    return read, paper_figures(list(read.values()))


def lines(axes) -> dict[str, np.ndarray]:
    """The points (N, 2) of a panel's lines, by their label."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def test_every_fine_tuned_row_has_its_learning_curve_in_percent_and_in_elements(tmp_path):
    read, drawn = figures(tmp_path, *rows.every_row())
    axes = drawn["curves"].axes
    success, elements = axes[0], axes[len(axes) // 2]  # the panel of the rows with most goals
    most = [row for row in read.values() if row.tuned and row.goals == PAPER_GOALS]
    assert set(lines(success)) == set(lines(elements)) == {row.method.title for row in most}
    for row in most:
        for panel, measure, scale in ((success, "success", 100), (elements, "steps_done", 1)):
            expected = curve(row, measure, PAPER_GOALS)
            found = lines(panel)[row.method.title]
            assert found == pytest.approx(np.column_stack([expected.env_steps, scale * expected.mean]))


def test_every_ablation_has_bars_of_its_scores_and_of_the_papers(tmp_path):
    names = ("npg-rpl", "window-60", "window-90")
    read, drawn = figures(tmp_path, *(rows.row(METHODS[name]) for name in names))
    success, _ = drawn["ablations"].axes
    ours = [100 * score(read[n], start, "success_ever", COMPARED_GOALS).mean for n in names for start in STARTS]
    heights = [bar.get_height() for bar in success.patches if isinstance(bar, Rectangle)]
    assert sorted(heights) == pytest.approx(sorted([*ours, 76, 47, 0]))  # the paper's 30, 60 and 90
    assert [text.get_text() for text in success.get_xticklabels()] == ["30", "60", "90"]


def test_rows_with_other_goals_get_a_panel_in_which_all_have_the_same(tmp_path):
    _, alike = figures(tmp_path / "alike", *(rows.row(METHODS[name]) for name in ("npg-rpl", "iril-rpl")))
    _, others = figures(tmp_path / "others", *(rows.row(METHODS[name]) for name in ("npg-rpl", "npg-bc")))
    assert [axes.get_title() for axes in alike["curves"].axes[:1]] == ["On 17 goals"]
    titles = [axes.get_title() for axes in others["curves"].axes[:2]]
    assert titles == ["On 17 goals", f"Systems, on {', '.join(COMPARED_GOALS)}"]
    assert set(lines(others["curves"].axes[1])) == {METHODS[name].title for name in ("npg-rpl", "npg-bc")}


@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        (("ril", "nearest"), set()),  # nothing is fine-tuned
        (("hiro",), {"curves.png"}),
        (("window-60", "sparse"), {"curves.png"}),  # without what they are compared with
        (("npg-rpl", "window-90"), {"curves.png", "ablations.png"}),
    ],
)
def test_what_there_is_is_drawn(tmp_path, names, pictures):
    assert drawn(tmp_path, *names) == pictures


def test_an_ablation_without_a_goal_of_what_it_is_compared_with_is_not_drawn(tmp_path):
    only, *others = METHODS["sparse"].goals
    write_row(rows.row(replace(METHODS["npg-rpl"], goals=(only,))), tmp_path)
    write_row(rows.row(replace(METHODS["sparse"], goals=tuple(others))), tmp_path)
    assert drawn(tmp_path) == {"curves.png"}


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(InvalidInput, match="holds no row"):
        draw_paper(tmp_path)
