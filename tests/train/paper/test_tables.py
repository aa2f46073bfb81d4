"""The tables as a reader sees them: every row, beside the paper's figure, compared over the same goals."""

import shutil

import pytest

import rows
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.protocol import Outcome, ProtocolConfig, conditions_of
from rpl_runtime.evaluation.protocol_results import content_of
from rpl_runtime.files import write_json
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_train.paper.methods import COMPARED_GOALS, DISTILLED, METHODS
from rpl_train.paper.results import names, write_distilled, write_row
from rpl_train.paper.tables import methods_facts, print_methods, print_paper, write_markdown


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A folder with every row."""
    folder = tmp_path_factory.mktemp("page") / "results"
    for row in rows.every_row():
        write_row(row, folder)
    write_distilled(rows.distilled(), folder)
    return folder


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def line(shown: str, beginning: str) -> str:
    return next(text for text in shown.splitlines() if text.strip().startswith(beginning))


def test_the_list_has_every_row(wide, capsys):
    print_methods()
    shown = capsys.readouterr().out
    assert all(line(shown, f"{name} ") for name in names())
    assert "low by iril for completion" in line(shown, "iril-rpl")
    assert "high* low* by npg for sparse" in line(shown, "hiro")
    assert "relay" not in line(shown, "hiro")  # nothing is imitated
    assert "17 x 1" in line(shown, "ril")
    assert "21.7" in line(shown, "ril")
    assert "~82" in line(shown, "iril-rpl")  # read off a plot
    assert "[steps]" in shown  # a unit, and no markup


def test_the_list_is_legible_in_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_methods()
    shown = capsys.readouterr().out
    assert "paper" in shown
    assert "pretrained-low" in shown
    assert shown.count("~3 to 12") == 4


def test_the_facts_are_those_of_every_row():
    assert [facts["name"] for facts in methods_facts()] == names()


def test_the_table_stands_beside_the_papers(everything, wide, capsys):
    print_paper(everything)
    shown = capsys.readouterr().out
    for start in ("nominal", "perturbed"):
        assert f"From the {start} start, each row on its own goals" in shown
        assert f"From the {start} start, all on {', '.join(COMPARED_GOALS)}" in shown
    assert all(method.title in shown for method in (*METHODS.values(), DISTILLED))
    assert line(shown, "RIL, imitation alone").split()[-2:] == ["21.7", "2.4"]
    assert line(shown, "NPG-RPL, window 60").split()[-2:] == ["~47", "~2.9"]
    assert "120 000" in shown
    assert "What was run" in shown


def test_rows_that_all_have_the_same_goals_are_shown_once(tmp_path, wide, capsys):
    for name in ("hiro", "oracle"):
        write_row(rows.row(METHODS[name]), tmp_path)
    print_paper(tmp_path)
    assert capsys.readouterr().out.count("From the nominal start") == 1


def test_a_row_under_way_says_how_far_it_is(tmp_path, wide, capsys):
    whole = rows.row(METHODS["oracle"])
    write_row(whole._replace(trials=whole.trials[:3]), tmp_path)
    print_paper(tmp_path)
    assert "3 of 8" in capsys.readouterr().out


PAGE = "# Results\n\nbefore\n\n<!-- table -->\nold\n<!-- /table -->\n\nafter\n"


def cells(page: str, beginning: str) -> list[str]:
    return [text.strip() for text in line(page, f"| {beginning} |").strip("|").split("|")]


def test_a_page_gets_the_same_tables(everything):
    page = everything.parent / "results.md"
    page.write_text(PAGE)
    write_markdown(everything, page)
    text = page.read_text()
    assert text.startswith("# Results\n\nbefore\n\n<!-- table -->\n\n### From the nominal start")
    assert text.endswith("<!-- /table -->\n\nafter\n")
    assert "old" not in text
    system, goals, success, *others = cells(text, "Oracle segments, fine-tuned")
    assert (system, goals) == ("Oracle segments, fine-tuned", "4")
    assert success[0].isdigit()
    assert success.endswith(")")
    assert others[-2:] == ["~0 to 6", "~1.45, falling to 0.83"]
    assert len({text.count("|") for text in text.splitlines() if text.startswith("| RIL")}) <= 3
    [command] = [line for line in text.splitlines() if line.endswith(": `rpl evaluate made/up`")]
    assert "RIL, imitation alone; " in command  # once, with every row that it made
    write_markdown(everything, page)
    assert page.read_text() == text


def test_a_page_gets_the_hard_protocol_too_policies_first(everything):
    outcome = Outcome(
        condition="undo", number=0, goal="m", seed=1, steps=9, refused=None, goals=((("m",), ("m",)),), redrawn={}
    )
    for name, digest in (("replay", ""), ("served", "d" * 64)):
        undo = {"undo": conditions_of(KITCHEN)["undo"]}
        content = content_of(name, digest, undo, ProtocolConfig(1), KITCHEN, True, [outcome])
        write_json(everything / "hard" / f"{name}.json", content)
    page = everything.parent / "results.md"
    page.write_text(PAGE)
    write_markdown(everything, page)
    text = page.read_text()
    assert cells(text, "condition") == ["condition", "served", "replay"]
    assert cells(text, "undo") == ["undo", "1/1, 100% (21%–100%)", "1/1, 100% (21%–100%)"]
    (everything / "hard" / "replay.json").write_text("{}")
    with pytest.raises(InvalidInput, match="must be a file of `rpl evaluate --protocol hard`"):
        write_markdown(everything, page)
    shutil.rmtree(everything / "hard")


def test_the_episodes_that_explore_are_compared_before_and_after(everything):
    page = everything.parent / "results.md"
    page.write_text(PAGE)
    write_markdown(everything, page)
    table = page.read_text().partition("### Episodes that fine-tuning learns from, all on kbts")[2].partition("###")[0]
    assert "success first" in table
    assert "RIL, imitation alone" not in table  # nothing was fine-tuned
    first, last = cells(table, "Oracle segments, fine-tuned")[1:3]
    assert float(first.split()[0]) < float(last.split()[0])


@pytest.mark.parametrize("text", ["# Results\n", "<!-- table -->\n", "<!-- /table --> <!-- table -->"])
def test_a_page_without_a_place_for_the_tables_is_refused(tmp_path, text):
    write_row(rows.row(METHODS["ril"]), tmp_path / "results")
    (tmp_path / "results.md").write_text(text)
    with pytest.raises(InvalidInput, match="no place for the tables"):
        write_markdown(tmp_path / "results", tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == text
