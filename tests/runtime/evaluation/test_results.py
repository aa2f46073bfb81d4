"""Statistics, tables and pictures of evaluations, from episodes whose results are known by hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.figures import draw_results
from rpl_runtime.evaluation.results import MEASURES, Episode, bootstrap_interval, described, print_results, summarize
from rpl_runtime.robots.degraded import Conditions
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal


def episode(goal: str, ever: str, end: str, seed: int = 0, refused: str | None = None) -> Episode:
    """An episode in which the elements with these letters were done."""
    elements = compound_goal(goal)
    return Episode(
        start="nominal",
        goal=goal,
        elements=elements,
        seed=seed,
        steps=280,
        refused=refused,
        first_done=dict.fromkeys(compound_goal(ever), 10),
        done_at_end=compound_goal(end),
        final_distance={name: 0.0 if name[0] in end else 0.5 for name in elements},
    )


def evaluation(
    starts: tuple[str, ...] = ("nominal", "perturbed"), goals: tuple[str, ...] = PAPER_GOALS
) -> dict[str, Any]:
    """What evaluation.json holds, made up."""
    results = summarize([episode(goal, goal[:3], goal[:2], seed) for goal in goals for seed in range(3)], KITCHEN)
    protocol = {"policy": "made up", "environment": "FrankaKitchen-v1", "episodes": 3, "steps": 280}
    return {"protocol": protocol, "starts": dict.fromkeys(starts, results)}


def test_means_weigh_every_goal_the_same():
    results = summarize(
        [
            episode("mkbs", "mkbs", "mkb", seed=0),
            episode("mkbs", "mk", "", seed=1),
            episode("mkbs", "mk", "", seed=2),
            episode("ktlh", "ktlh", "ktlh"),
        ],
        KITCHEN,
    )
    goals = results["goals"]
    assert goals["mkbs"]["mean_steps_ever"] == pytest.approx(8 / 3)
    assert goals["mkbs"]["mean_steps_end"] == pytest.approx(1.0)
    assert goals["mkbs"]["success_ever"] == pytest.approx(1 / 3)
    assert goals["mkbs"]["success_end"] == 0
    assert results["mean_steps_ever"] == pytest.approx((8 / 3 + 4) / 2)
    assert results["success_ever"] == pytest.approx((1 / 3 + 1) / 2)
    assert results["success_end"] == pytest.approx(0.5)


def test_goals_are_reported_by_where_they_come_from():
    results = summarize([episode(goal, goal, "") for goal in ("mkbs", "kbth", "mkbt", "mk")], KITCHEN)
    assert {name: goal["group"] for name, goal in results["goals"].items()} == {
        "mkbs": "paper",
        "kbth": "human",
        "mkbt": "unseen",
        "mk": "other",
    }
    assert list(results["groups"]) == ["paper", "human", "unseen", "other"]
    assert results["groups"]["other"]["mean_steps_ever"] == 2


def test_elements_count_only_where_a_goal_names_them():
    elements = summarize([episode("mkbs", "mk", "m"), episode("mkls", "s", "s")], KITCHEN)["elements"]
    assert list(elements) == ["microwave", "kettle", "bottom burner", "light switch", "slide cabinet"]
    assert elements["microwave"] == {"episodes": 2, "ever": 0.5, "end": 0.5, "final_distance": 0.25}
    assert elements["slide cabinet"]["ever"] == 0.5
    assert elements["light switch"] == {"episodes": 1, "ever": 0.0, "end": 0.0, "final_distance": 0.5}


@given(st.lists(st.floats(0, 4), min_size=1, max_size=20))
def test_an_interval_lies_in_the_range_of_the_values_and_is_the_same_each_time(values: list[float]):
    low, high = bootstrap_interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap_interval(values) == (low, high)


def test_an_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([0.5] * 17) == (0.5, 0.5)


def test_an_interval_is_as_wide_as_the_normal_one_for_many_values():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(list(values))
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)


def test_the_tables_show_every_goal_the_mean_and_refusals(capsys: pytest.CaptureFixture[str]):
    content = evaluation(("nominal",))
    content["starts"]["nominal"] = summarize(
        [episode("mkbs", "mkb", "", refused="out of range"), episode("ktlh", "", "")], KITCHEN
    )
    print_results(content)
    shown = capsys.readouterr().out
    assert "mkbs 3.00 0.00 0% 0%" in " ".join(shown.split())
    assert "nominal start 1.50 0.00 0.0% 0.0%" in " ".join(shown.split())
    assert "unseen goals 0.00 0.00 0.0% 0.0%" in " ".join(shown.split())
    assert "nominal start: 1 of 2 episodes ended early" in shown


def test_the_tables_fit_into_80_columns_and_end_with_the_means_and_the_success(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    content = evaluation()
    content["protocol"]["episodes"] = 1
    print_results(content)
    shown = capsys.readouterr().out.splitlines()
    # Cut nowhere: four measures from each of the two starts stand in a row.
    assert ["mkbs", *2 * ["3.00", "2.00", "0%", "0%"]] in [line.split() for line in shown]
    assert [line.split()[:2] for line in shown[-5:-1]] == [
        ["nominal", "start"],
        ["95", "%"],
        ["perturbed", "start"],
        ["95", "%"],
    ]
    assert shown[-1] == "success: 0.0% (nominal), 0.0% (perturbed); 1 episode of each goal"
    assert max(map(len, shown)) <= 80
    assert "1 episodes" not in " ".join(shown)


@pytest.mark.parametrize("suffix", ["png", "svg", "PNG"])
@pytest.mark.parametrize("goals", [PAPER_GOALS, ("mkbs",)])
def test_the_picture_is_drawn_from_the_numbers_alone(tmp_path: Path, suffix: str, goals: tuple[str, ...]):
    path = tmp_path / "new" / f"results.{suffix}"
    draw_results(evaluation(goals=goals), path)
    assert path.stat().st_size > 10_000


def test_one_start_is_enough_for_a_picture(tmp_path: Path):
    draw_results(evaluation(("perturbed",)), tmp_path / "results.png")
    assert (tmp_path / "results.png").exists()


def test_a_picture_of_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"'\.xyz'; must be one that can be written, such as \.png"):
        draw_results(evaluation(), tmp_path / "results.xyz")


@pytest.mark.parametrize("content", [{}, {"starts": {}, "protocol": {}}, {"starts": {"nominal": {}}}])
def test_what_is_no_evaluation_is_refused(content: dict[str, Any], tmp_path: Path):
    with pytest.raises(InvalidInput, match="not an evaluation"):
        draw_results(content, tmp_path / "results.png")
    with pytest.raises(InvalidInput, match="not an evaluation"):
        print_results(content)


def test_every_measure_has_an_interval():
    results = evaluation()["starts"]["nominal"]
    assert set(results["intervals"]) == set(MEASURES)


def test_limit_violations_are_counted_for_each_step():
    one, other = episode("mkbs", "", ""), episode("mkbs", "", "", seed=1)
    found = summarize([one.model_copy(update={"limit_violations": {"jerk": 28, "velocity": 56}}), other], KITCHEN)
    assert found["limit_violations"] == {"jerk": 0.05, "velocity": 0.1}


def test_conditions_are_described_where_they_are_not_the_kitchens_own():
    assert described(asdict(Conditions())) == ""
    conditions = Conditions("fr3", position_noise=0.01, object_latency=2)
    known = Conditions(angle_noise=0.1, still_known=True)
    assert described(asdict(known)) == "angle noise 0.1 rad, still known"
    assert described(asdict(Conditions(hand_time=0.0))) == "hand time 0.0 s"
    assert described(asdict(conditions)) == "profile fr3, position noise 0.01 m, object latency 2 periods"
