"""The rows of the paper's table: that none is missing, and that each is a system that can be built."""

from pathlib import Path
from typing import get_args

import pytest

from rpl_runtime.tasks.kitchen.elements import HORIZON, PAPER_GOALS
from rpl_train.paper.methods import COMPARED_GOALS, DISTILLED, METHODS, RELAY, Method
from rpl_train.paper.results import read_rows
from rpl_train.rl.finetune import Objective
from rpl_train.rl.rewards import RewardName
from rpl_train.tuples import Relabelling

ROWS = [*METHODS.values(), DISTILLED]


def rows(**wanted) -> set[str]:
    """The names of the rows with these values."""
    return {row.name for row in ROWS if all(getattr(row, key) == value for key, value in wanted.items())}


def named(*names: str) -> list[Method]:
    return [METHODS[name] for name in names]


def test_every_figure_of_the_paper_has_a_row():
    published = {row.name: (row.published.success, row.published.steps) for row in ROWS if row.published}
    assert published == {
        "iril-rpl": ("82", "3.5"),
        "dapg-rpl": ("78", "3.5"),
        "npg-rpl": ("75", "3.45"),
        "distilled": ("70.5", "3.28"),
        "ril": ("21.7", "2.4"),
        "gcbc": ("8.8", "2.2"),
        "bc": ("7.6", "1.78"),
        **dict.fromkeys(("npg-bc", "npg-gcbc", "dapg-gcbc", "dapg-bc"), ("3 to 12", "0.75 to 1.9")),
        "oracle": ("0 to 6", "1.45, falling to 0.83"),
        "nearest": ("0", "1.45"),
        **dict.fromkeys(("hiro", "pretrained-low"), ("0", "0.06")),
        "window-60": ("47", "2.9"),
        "window-90": ("0", "1.05"),
        "sparse": ("85", "3.66"),
        "euclidean": ("26", "2.6"),
        "elements": ("26", "2.45"),
    }
    exact = {row.name for row in ROWS if row.published and not row.published.plot}
    assert exact == {"ril", "gcbc", "bc"}  # the paper prints these


def test_names_are_the_keys_and_titles_differ():
    assert all(METHODS[name].name == name for name in METHODS)
    assert len({row.title for row in ROWS}) == len(ROWS)
    assert DISTILLED.name not in METHODS  # no job of the table makes it


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_consistent(row: Method):
    assert set(row.scratch) <= set(row.tunes)
    assert row.goals
    assert set(row.goals) <= set(PAPER_GOALS)
    assert len(set(row.goals)) == len(row.goals)
    assert row.objective in get_args(Objective)
    assert row.reward in get_args(RewardName)
    if row.imitation is None:
        assert not row.tunes
        return
    assert row.imitation.relabelling in get_args(Relabelling)
    assert row.imitation.flat == (row.imitation.relabelling in ("goal", "end"))
    if row.imitation.flat:
        assert row.tunes in ((), ("low",))  # a flat policy has no other level
        assert row.imitation.components == 1


def test_the_compared_goals_are_some_of_the_papers():
    assert len(COMPARED_GOALS) >= 4
    assert set(COMPARED_GOALS) < set(PAPER_GOALS)


def test_the_relay_line_has_every_goal_and_the_rest_at_least_four_with_two_seeds():
    relay = named("iril-rpl", "dapg-rpl", "npg-rpl")
    assert all(row.goals == PAPER_GOALS for row in relay)
    assert [row.objective for row in relay] == ["iril", "dapg", "npg"]
    for row in METHODS.values():
        if row.tunes and row not in relay:
            assert len(row.goals) >= 4
            assert len(row.seeds) >= 2


def test_rows_with_one_start_share_its_weights():
    starts = {row.imitation for row in METHODS.values() if row.imitation}
    assert len({start.name for start in starts}) == len(starts) == 10
    assert len({RELAY.name, *(RELAY._replace(seed=seed).name for seed in (1, 2))}) == 3
    assert RELAY.window == HORIZON
    assert {row.name for row in METHODS.values() if row.imitation == RELAY} >= {"ril", "npg-rpl", "hiro", "sparse"}


def test_ablations_change_one_thing_of_npg_rpl():
    reference = METHODS["npg-rpl"]
    for row in METHODS.values():
        if row.table in ("systems", "levels"):
            continue
        changed = {
            name
            for name in ("imitation", "tunes", "objective", "reward", "high_reward", "likelihood", "scratch")
            if getattr(row, name) != getattr(reference, name)
        }
        assert changed == {"windows": {"imitation"}, "rewards": {"reward"}}[row.table]
    windows = {row.name: row.imitation for row in METHODS.values() if row.table == "windows" and row.imitation}
    assert {name: (start.window, start.horizon or start.window) for name, start in windows.items()} == {
        "window-60": (60, 60), "window-90": (90, 90), "window-60-kept-30": (60, 30), "window-90-kept-30": (90, 30)
    }  # fmt: skip


def test_rpl_is_run_with_each_objective_at_one_level_and_both_for_our_reward_and_the_papers():
    levels = [row for row in METHODS.values() if row.table == "levels"]
    made = {(row.objective, row.tunes, row.reward) for row in levels}
    assert len(levels) == len(made) == 12
    assert {reward for _, _, reward in made} == {"completion", "sparse-objects"}
    assert {tunes for _, tunes, _ in made} == {("low",), ("high", "low")}
    for row in levels:
        assert (row.goals, row.seeds, row.imitation_seeds) == (COMPARED_GOALS, (0, 1, 2), True)
        assert row.likelihood >= 0.1


def test_what_was_measured_before_means_what_it_meant():
    """Every file of the first table is read, and holds the row that is called so."""
    folder = Path(__file__).parents[3] / "docs" / "data" / "results"
    found = {row.method.name: row.method for row in read_rows(folder)}
    assert len(found) == 20
    assert {name: METHODS.get(name, DISTILLED) for name in found} == found


def test_what_starts_from_scratch():
    assert METHODS["hiro"].scratch == ("high", "low")
    assert METHODS["pretrained-low"].scratch == METHODS["pretrained-low"].tunes == ("high",)
    assert METHODS["hiro-dense"].scratch == ("high", "low")
    assert (METHODS["hiro-dense"].reward, METHODS["hiro-dense"].high_reward) == ("euclidean", "completion")
    assert rows(scratch=()) == {row.name for row in ROWS} - {"hiro", "hiro-dense", "pretrained-low"}
