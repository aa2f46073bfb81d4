"""Rows on disk, and the means and intervals that are taken from them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rows
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.results import MEASURES
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS
from rpl_train.data.trajectory import Trajectory, save
from rpl_train.paper.methods import COMPARED_GOALS, DISTILLED, METHODS
from rpl_train.paper.reproduce import SHOWN, PaperConfig, RowResult, TrialResult, shown_digest
from rpl_train.paper.results import (
    curve,
    exploring,
    known_trials,
    method_facts,
    names,
    read_rows,
    score,
    shared_goals,
    write_distilled,
    write_row,
)


def written(folder, *made):
    for row in made:
        write_row(row, folder)
    return read_rows(folder)


def trial(goal: str, seed: int, counts: list[int], share: float = 0.5) -> TrialResult:
    return TrialResult((goal,), seed, rows.curve(share), rows.evaluation({goal: counts}))


def test_a_row_survives_the_round_trip(tmp_path):
    made = rows.row(METHODS["npg-bc"])
    [read] = written(tmp_path, made)
    assert read.method == made.method
    assert read.env_steps == 120_000
    assert [(one.goals, one.seed, one.curve, one.evaluation) for one in read.trials] == [tuple(t) for t in made.trials]
    assert (read.goals, read.seeds, read.episodes) == (COMPARED_GOALS, 2, rows.EPISODES)
    assert [path.name for path in tmp_path.iterdir()] == ["npg-bc.json"]  # no temporary file is left


CONFIG = PaperConfig(runs=Path("runs"), demonstrations=(), env_steps=120_000, episodes=rows.EPISODES)


def test_the_trials_of_a_row_are_known_wherever_they_were_run(tmp_path):
    made = [rows.row(METHODS["npg-bc"]), rows.row(METHODS["ril"])]
    written(tmp_path, *made)
    asked = [METHODS[name] for name in ("npg-bc", "ril", "hiro")]
    assert known_trials(asked, CONFIG, tmp_path) == {row.method.name: list(row.trials) for row in made}


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (METHODS["npg-bc"], replace(CONFIG, env_steps=1)),
        (METHODS["npg-bc"], replace(CONFIG, episodes=1)),
        (replace(METHODS["npg-bc"], objective="iril"), CONFIG),
    ],
)
def test_a_row_that_was_made_otherwise_is_not_added_to(tmp_path, method, config):
    written(tmp_path, rows.row(METHODS["npg-bc"]))
    with pytest.raises(InvalidInput, match="choose another folder"):
        known_trials([method], config, tmp_path)


def test_a_row_of_other_demonstrations_is_not_added_to(tmp_path):
    demos = tmp_path / "demos" / "0.npz"
    save(Trajectory(np.zeros((2, 30), np.float32), np.zeros((2, 9), np.float32)), demos)
    config = replace(CONFIG, demonstrations=(demos.parent,))
    method, made = METHODS["ril"], rows.row(METHODS["ril"])

    def known(digest: str):
        [trial] = made.trials
        named = trial._replace(evaluation=trial.evaluation | {SHOWN: digest})
        write_row(made._replace(trials=(named,)), tmp_path)
        return known_trials([method], config, tmp_path)

    assert known(shown_digest(config))
    with pytest.raises(InvalidInput, match=r"ril\.json was made with other demonstrations"):
        known("0" * 64)


def test_a_file_says_what_its_row_is_made_of(tmp_path):
    written(tmp_path, rows.row(METHODS["window-60"]))
    content = json.loads((tmp_path / "window-60.json").read_text())
    assert content["method"] == json.loads(json.dumps(method_facts(METHODS["window-60"])))
    assert content["method"]["imitation"]["window"] == 60
    assert content["method"]["published"] == {"success": "47", "steps": "2.9", "plot": True}
    assert set(content) == {"method", "env_steps", "trials"}
    assert set(content["trials"][0]) == {"goals", "seed", "curve", "evaluation"}


def test_rows_come_in_the_order_of_the_table(tmp_path):
    for row in reversed(rows.every_row()):
        write_row(row, tmp_path)
    write_distilled(rows.distilled(), tmp_path)
    assert [row.method.name for row in read_rows(tmp_path)] == names()
    assert names()[:5] == ["iril-rpl", "dapg-rpl", "npg-rpl", "distilled", "ril"]


def test_a_mean_weighs_every_goal_the_same_whatever_its_seeds(tmp_path):
    method = METHODS["oracle"]
    trials = (
        trial("kbts", 0, [4, 4, 4, 4]),
        trial("kbts", 1, [0, 0, 0, 0]),
        trial("mkbh", 0, [4, 4, 2, 2]),
    )
    [row] = written(tmp_path, RowResult(method, 1, trials))
    for start in ("nominal", "perturbed"):
        both = ("kbts", "mkbh")
        assert score(row, start, "mean_steps_ever", both).mean == pytest.approx((2 + 3) / 2)
        assert score(row, start, "success_ever", both).mean == pytest.approx(0.5)
        assert score(row, start, "success_end", ("kbts",)).mean == pytest.approx(0.5)
    low, high = score(row, "nominal", "mean_steps_ever", ("kbts", "mkbh"))[1:]
    assert (low, high) == (2, 3)  # over two goals, all that a draw can give


def test_an_interval_is_over_goals_and_not_over_seeds(tmp_path):
    [row] = written(tmp_path, RowResult(METHODS["oracle"], 1, (trial("kbts", 0, [0] * 4), trial("kbts", 1, [4] * 4))))
    assert score(row, "nominal", "success_ever", ("kbts",)) == (0.5, 0.5, 0.5)


def test_a_curve_is_the_mean_over_goals_of_the_mean_over_seeds(tmp_path):
    trials = (trial("kbts", 0, [4], 1.0), trial("kbts", 1, [4], 0.5), trial("mkbh", 0, [4], 0.25))
    [row] = written(tmp_path, RowResult(METHODS["oracle"], 1, trials))
    found = curve(row, "success", ("kbts", "mkbh"))
    assert found.env_steps.tolist() == [20_000 * (index + 1) for index in range(rows.ITERATIONS)]
    assert found.mean[-1] == pytest.approx((0.75 + 0.25) / 2)
    assert (found.low[-1], found.high[-1]) == (0.25, 0.75)
    assert curve(row, "steps_done", ("kbts",)).mean == pytest.approx(4 * curve(row, "success", ("kbts",)).mean)


def test_curves_of_different_lengths_are_compared_as_far_as_both_go(tmp_path):
    short = trial("mkbh", 0, [4])
    trials = (trial("kbts", 0, [4]), short._replace(curve=short.curve[:2]))
    [row] = written(tmp_path, RowResult(METHODS["oracle"], 1, trials))
    assert len(curve(row, "success", ("kbts", "mkbh")).mean) == 2


def test_a_stretch_of_a_curve_is_its_mean_over_iterations_then_seeds_then_goals(tmp_path):
    trials = (trial("kbts", 0, [4], 1.0), trial("kbts", 1, [4], 0.5), trial("mkbh", 0, [4], 0.25))
    [row] = written(tmp_path, RowResult(METHODS["oracle"], 1, trials))
    whole = curve(row, "success", ("kbts", "mkbh"))
    assert exploring(row, "success", ("kbts", "mkbh"), slice(1)).mean == pytest.approx(whole.mean[0])
    last = exploring(row, "success", ("kbts", "mkbh"), slice(-2, None))
    assert last.mean == pytest.approx(whole.mean[-2:].mean())
    assert last.low < last.mean < last.high


def test_shared_goals_are_those_of_every_row(tmp_path):
    read = written(tmp_path, rows.row(METHODS["npg-rpl"]), rows.row(METHODS["oracle"]))
    assert [len(row.goals) for row in read] == [17, len(COMPARED_GOALS)]
    assert shared_goals(read) == COMPARED_GOALS
    assert shared_goals(read[:1]) == PAPER_GOALS


def test_the_distilled_policy_is_a_row_like_any_other(tmp_path):
    write_distilled(rows.distilled(), tmp_path)
    [row] = read_rows(tmp_path)
    assert row.method == DISTILLED
    assert (row.goals, row.seeds, row.trials[0].curve) == (PAPER_GOALS, 1, ())
    assert (row.commands, row.commits) == (("rpl evaluate made/up",), ("0123456789abcdef",))
    expected = rows.distilled()["starts"]["perturbed"]
    for measure in MEASURES:
        assert score(row, "perturbed", measure, row.goals).mean == pytest.approx(expected[measure])
        assert score(row, "perturbed", measure, row.goals)[1:] == pytest.approx(expected["intervals"][measure])


def test_goals_beside_the_papers_do_not_count_for_the_distilled_policy(tmp_path):
    more = rows.counts(PAPER_GOALS, 0.9, 5) | {"mkbt": [0, 0, 0, 0]}
    write_distilled(rows.evaluation(more), tmp_path)
    [row] = read_rows(tmp_path)
    assert row.goals == PAPER_GOALS


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        (None, "was never evaluated"),
        ({"starts": {}}, "not an evaluation"),
        (rows.evaluation({"mkbs": [4]}), "lacks kbsh, .*all 17"),
    ],
)
def test_what_measures_no_distilled_policy_is_refused(tmp_path, evaluation, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        write_distilled(evaluation, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_rows_is_one_sentence(tmp_path):
    (tmp_path / "notes.json").write_text("{}")  # none of ours
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidInput, match="holds no row of the table"):
            read_rows(folder)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '{"method": 3}'])
def test_a_damaged_row_is_one_sentence(tmp_path, content):
    (tmp_path / "ril.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"ril\.json is not a row"):
        read_rows(tmp_path)


def test_a_row_is_called_after_its_file(tmp_path):
    write_row(rows.row(METHODS["ril"]), tmp_path)
    (tmp_path / "ril.json").rename(tmp_path / "bc.json")
    with pytest.raises(InvalidInput, match=r"bc\.json holds the row ril"):
        read_rows(tmp_path)


@pytest.mark.parametrize("name", names())
def test_facts_are_plain_data(name):
    facts = method_facts(METHODS.get(name, DISTILLED))
    assert json.loads(json.dumps(facts))["name"] == name
    assert np.shape(facts["goals"]) == (len(facts["goals"]),)
