"""The pictures are drawn from the files alone, of whatever rows there are."""

import struct
from dataclasses import replace

import pytest

import rows
from rpl_runtime.errors import InvalidInput
from rpl_train.paper.methods import METHODS
from rpl_train.paper.plots import draw_paper
from rpl_train.paper.results import write_distilled, write_row


def drawn(folder, *names) -> set[str]:
    for name in names:
        write_row(rows.row(METHODS[name]), folder)
    draw_paper(folder)
    return {path.name for path in folder.iterdir() if not path.name.endswith(".json")}


def width(path) -> int:
    """Of a PNG [pixels], from its header."""
    return struct.unpack(">I", path.read_bytes()[16:20])[0]


def test_curves_and_ablations_of_every_row(tmp_path):
    write_distilled(rows.distilled(), tmp_path)
    assert drawn(tmp_path, *METHODS) == {"curves.png", "ablations.png"}
    assert all((tmp_path / name).stat().st_size > 30_000 for name in ("curves.png", "ablations.png"))


def test_rows_with_other_goals_get_a_panel_in_which_all_have_the_same(tmp_path):
    drawn(tmp_path / "alike", "npg-rpl", "iril-rpl")
    drawn(tmp_path / "others", "npg-rpl", "npg-bc")
    alike, others = (width(tmp_path / folder / "curves.png") for folder in ("alike", "others"))
    assert others > 1.5 * alike


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
