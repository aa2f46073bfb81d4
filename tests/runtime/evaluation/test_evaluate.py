"""Evaluation through the real server, with a policy that was never trained."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import policies
from rpl_runtime.cli.app import app
from rpl_runtime.errors import InvalidGoal, InvalidInput, RelayError, ServerUnavailable
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.evaluation.evaluate import (
    FIRST_SEED,
    EvaluateConfig,
    Evaluation,
    evaluate,
    plan_trials,
)
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.policy.bundle import Bundle, attach_evaluation, load_bundle
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, STATE_NAMES, compound_goal

SHORT = EvaluateConfig(goals=("mkbs", "ktlh"), episodes=1, steps=20, jobs=1, sample=True)


@pytest.fixture(scope="module")
def evaluated(kitchen_bundle: Bundle) -> Evaluation:
    with serve_in_process(kitchen_bundle.path) as address:
        return evaluate(address, KITCHEN, SHORT)


def test_an_evaluation_holds_what_was_asked_for(evaluated: Evaluation, kitchen_bundle: Bundle):
    content = evaluated.content
    assert [(e.start, e.goal) for e in evaluated.episodes] == [
        ("nominal", "mkbs"),
        ("nominal", "ktlh"),
        ("perturbed", "mkbs"),
        ("perturbed", "ktlh"),
    ]
    assert content["bundle_digest"] == kitchen_bundle.digest
    assert list(content["starts"]) == ["nominal", "perturbed"]
    assert list(content["starts"]["nominal"]["goals"]) == ["mkbs", "ktlh"]
    assert content["protocol"]["steps"] == 20
    assert content["seeds"]["first"] >= FIRST_SEED
    assert content["versions"]["mujoco"]
    assert json.loads(json.dumps(content)) == content
    for episode in evaluated.episodes:
        assert all(1 <= steps <= episode.steps for steps in episode.first_done.values())
        assert set(episode.done_at_end) <= set(episode.first_done) <= set(episode.elements)


def test_a_perturbed_start_is_another_one(evaluated: Evaluation):
    nominal, _, perturbed, _ = evaluated.episodes
    assert nominal.seed == perturbed.seed
    assert nominal.final_distance != perturbed.final_distance


def test_results_are_the_same_with_any_number_of_simulators(evaluated: Evaluation, kitchen_bundle: Bundle):
    heard: list[Episode] = []
    with serve_in_thread(kitchen_bundle) as address:
        parallel = evaluate(address, KITCHEN, EvaluateConfig(**{**vars(SHORT), "jobs": 2}), on_episode=heard.append)
    assert parallel.episodes == evaluated.episodes
    assert parallel.content["starts"] == evaluated.content["starts"]
    assert sorted(heard, key=str) == sorted(parallel.episodes, key=str)


def test_an_evaluation_goes_on_where_its_server_was_lost(evaluated: Evaluation, kitchen_bundle: Bundle, tmp_path: Path):
    journal = tmp_path / "out" / "episodes.jsonl"

    def lose(episode: Episode) -> None:
        raise ServerUnavailable("the server is gone")

    with serve_in_thread(kitchen_bundle) as address:
        with pytest.raises(ServerUnavailable):
            evaluate(address, KITCHEN, SHORT, journal, on_episode=lose)
        with journal.open("a") as file:
            file.write('{"start": "nominal", "goal": "kt')  # what a killed process may leave
        resumed = evaluate(address, KITCHEN, SHORT, journal)
    assert resumed.episodes == evaluated.episodes
    assert len(journal.read_text().splitlines()) == 1 + len(evaluated.episodes)


def test_what_the_robot_does_is_recorded_and_belongs_to_the_journal(kitchen_bundle: Bundle, tmp_path: Path):
    journal = tmp_path / "episodes.jsonl"
    robot = Conditions("fr3", 0.01, 0.02, object_latency=2, object_dropout=0.1, latency=1)
    config = EvaluateConfig(
        goals=("mkbs",), episodes=2, starts=("perturbed",), steps=12, robot=robot, plan_lead=3, jobs=1
    )
    with serve_in_thread(kitchen_bundle) as address:
        alone = evaluate(address, KITCHEN, config, journal)
        together = evaluate(address, KITCHEN, replace(config, jobs=2))
        with pytest.raises(InvalidInput, match="robot"):
            evaluate(address, KITCHEN, replace(config, robot=Conditions("panda")), journal)
    assert alone.episodes == together.episodes
    assert Conditions(**alone.content["protocol"]["robot"]) == robot
    assert alone.content["protocol"]["plan_lead"] == 3
    measured = Calibration.model_validate(alone.content["protocol"]["estimator"])
    assert measured.arm_age_s == pytest.approx(0.08, abs=0.02)
    counted = sum(episode.limit_violations["acceleration"] for episode in alone.episodes)
    assert alone.content["starts"]["perturbed"]["limit_violations"]["acceleration"] == pytest.approx(counted / 24)
    assert counted > 0


def test_states_are_estimated_only_where_senses_have_faults(kitchen_bundle: Bundle, tmp_path: Path):
    """Perfect ones need no calibration, and readings are used as they are where that is asked for."""
    config = EvaluateConfig(goals=("mkbs",), episodes=1, starts=("nominal",), steps=4, jobs=1, robot=Conditions("fr3"))
    noisy = replace(config, robot=Conditions(position_noise=0.01))
    given = Calibration(names=STATE_NAMES, rest=(0.0,) * 30, sigma=(0.02,) * 30)
    journal = tmp_path / "episodes.jsonl"
    with serve_in_thread(kitchen_bundle) as address:
        perfect, raw, estimated = (
            evaluate(address, KITCHEN, each, kept).content["protocol"]["estimator"]
            for each, kept in ((config, None), (replace(noisy, estimate=False), None), (noisy, journal))
        )
        with pytest.raises(InvalidInput, match="estimator"):
            evaluate(address, KITCHEN, replace(noisy, calibration=given), journal)
    assert (perfect, raw) == (None, None)
    assert dict(zip(estimated["names"], estimated["sigma"], strict=True))["kettle_x"] == pytest.approx(0.01, rel=0.3)


def test_a_journal_of_another_policy_is_refused(kitchen_bundle: Bundle, tmp_path: Path):
    journal = tmp_path / "episodes.jsonl"
    one = EvaluateConfig(goals=("mkbs",), episodes=1, starts=("nominal",), steps=2, jobs=1)
    with serve_in_thread(kitchen_bundle) as address:
        evaluate(address, KITCHEN, one, journal)
    with (
        serve_in_thread(policies.kitchen_bundle(tmp_path / "other", seed=1)) as address,
        pytest.raises(InvalidInput, match="bundle_digest"),
    ):
        evaluate(address, KITCHEN, one, journal)


def test_a_file_that_is_no_journal_is_refused(kitchen_bundle: Bundle, tmp_path: Path):
    journal = tmp_path / "episodes.jsonl"
    journal.write_text("something else\n")
    with serve_in_thread(kitchen_bundle) as address, pytest.raises(InvalidInput, match="not a journal"):
        evaluate(address, KITCHEN, SHORT, journal)
    assert journal.read_text() == "something else\n"


def test_a_state_that_the_policy_refuses_ends_its_episode(kitchen_bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    observe, calls = DegradedRobot.observe, iter(range(1000))
    monkeypatch.setattr(DegradedRobot, "observe", lambda robot: observe(robot) + (100.0 if next(calls) == 5 else 0.0))
    config = EvaluateConfig(goals=("mkbs",), episodes=2, starts=("nominal",), steps=8, jobs=1)
    with serve_in_thread(kitchen_bundle) as address:
        first, second = evaluate(address, KITCHEN, config).episodes
    assert first.steps == 5
    assert "must be" in (first.refused or "")
    assert (second.steps, second.refused) == (8, None)


def test_a_policy_of_another_robot_is_refused(tiny_bundle: Bundle):
    with serve_in_thread(tiny_bundle) as address, pytest.raises(InvalidInput, match="must be a policy for kitchen"):
        evaluate(address, KITCHEN, SHORT)


def test_nobody_at_the_address_is_one_sentence():
    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1"):
        evaluate("127.0.0.1:1", KITCHEN, SHORT)


def test_goals_have_one_name_however_they_are_written():
    assert KITCHEN.parse_goals("mkbs") == [("mkbs", compound_goal("mkbs"))]
    assert (
        KITCHEN.parse_goals("slide cabinet, kettle,bottom burner,microwave")
        == KITCHEN.parse_goals("sbkm")
        == KITCHEN.parse_goals("mkbs")
    )
    assert KITCHEN.parse_goals("kettle,microwave") == [("mk", ("microwave", "kettle"))]
    assert [name for name, _ in KITCHEN.parse_goals("paper")] == list(PAPER_GOALS)
    assert [len(KITCHEN.parse_goals(group)) for group in ("human", "unseen", "all35")] == [7, 11, 35]
    assert [len(KITCHEN.parse_goals(f"sets{size}")) for size in range(1, 8)] == [7, 21, 35, 35, 21, 7, 1]
    assert set(KITCHEN.parse_goals("sets4")) == set(KITCHEN.parse_goals("all35"))


@pytest.mark.parametrize("goal", ["", "xyz", "toaster", "microwave,toaster", "mm", "kettle,kettle"])
def test_an_impossible_goal_is_refused(goal: str):
    with pytest.raises(InvalidGoal):
        KITCHEN.parse_goals(goal)


def test_no_two_episodes_share_a_seed_and_no_seed_depends_on_the_selection():
    every = plan_trials(KITCHEN, EvaluateConfig(goals=("all35", "mkbs", "kettle"), episodes=20))
    assert len(every) == len(set(every)) == 2 * 36 * 20
    assert len({task.seed for task in every}) == 36 * 20
    assert set(plan_trials(KITCHEN, EvaluateConfig(goals=("kettle",), episodes=3))) < set(every)
    assert KITCHEN.episode_seed(0, ("kettle",), 7) == 2007


@pytest.mark.parametrize(
    "wrong",
    [
        {"starts": ("upside down",)},
        *({"episodes": episodes} for episodes in (0, 1001)),
        {"steps": -1},
        {"jobs": 0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict):
    with pytest.raises(RelayError, match="must be"):
        plan_trials(KITCHEN, EvaluateConfig(**wrong))


def test_a_saved_evaluation_is_printed_and_drawn_again(evaluated: Evaluation, tmp_path: Path):
    saved, picture = tmp_path / "evaluation.json", tmp_path / "results.png"
    saved.write_text(json.dumps(evaluated.content))
    result = CliRunner().invoke(app, ["evaluate", "--from", str(saved), "--picture", str(picture)])
    assert result.exit_code == 0
    assert "ktlh" in result.output
    assert picture.exists()


def test_the_command_writes_into_the_bundle_and_a_folder(tmp_path: Path):
    bundle, output = policies.kitchen_bundle(tmp_path / "bundle"), tmp_path / "out"
    attach_evaluation(bundle, {"bundle_digest": bundle.digest, "hard": {"undo": "kept"}})
    options = ["--goals", "kettle", "--episodes", "1", "--start", "nominal", "--jobs", "1", "--write", "--json"]
    options += ["--steps", "20", "--profile", "fr3", "--object-noise", "0.01", "0.02", "--object-dropout", "0.1"]
    result = CliRunner().invoke(app, ["evaluate", str(bundle.path), "--output", str(output), *options])
    assert result.exit_code == 0, result.output
    attached = load_bundle(bundle.path).evaluation
    assert attached is not None
    assert attached.pop("hard") == {"undo": "kept"}  # of the other protocol
    assert attached == json.loads((output / "evaluation.json").read_text()) == json.loads(result.stdout)
    assert (attached["protocol"]["goals"], attached["protocol"]["steps"]) == (["k"], 20)
    assert Conditions(**attached["protocol"]["robot"]) == Conditions("fr3", 0.01, 0.02, object_dropout=0.1)
    assert (output / "results.png").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--video", "out.foo"],
            r"out\.foo has the suffix '\.foo'; must be one that can be written, such as \.mp4, \.mov, \.webp$",
        ),
        (["--video", "out.webm"], "must be one that can be written"),  # a video, but not of this encoder
        (
            ["--sheet", "out"],
            r"out has the suffix ''; must be one that can be written, such as \.png, \.pdf, \.jpg, \.webp$",
        ),
        (["--picture", "out.mp4"], r"such as \.png, \.svg, \.pdf, \.jpg, \.webp$"),
        (["--video", "out.mp4", "--video-goal", "zzz"], "'zzz' is not a goal"),
        (["--goals", "zzz"], "'zzz' is not a goal"),
    ],
)
def test_a_wrong_suffix_or_goal_is_refused_before_anything_runs(options: list[str], sentence: str):
    # Whoever goes as far as the server finds nobody there.
    result = CliRunner().invoke(app, ["evaluate", "--address", "127.0.0.1:1", *options])
    assert isinstance(result.exception, InvalidInput)
    assert re.search(sentence, str(result.exception))


def test_a_file_that_cannot_be_written_loses_neither_the_table_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    bundle, output = policies.kitchen_bundle(tmp_path / "bundle"), tmp_path / "out"
    (output / "results.png").mkdir(parents=True)  # a folder where a file should go
    monkeypatch.setattr("rpl_runtime.policy.bundle.staged", full)
    options = ["--goals", "kettle", "--episodes", "1", "--steps", "4", "--start", "nominal", "--jobs", "1", "--write"]
    options += ["--output", str(output), "--picture", str(tmp_path / "picture.svg")]
    result = CliRunner().invoke(app, ["evaluate", str(bundle.path), *options])
    assert result.exit_code == 1
    assert "nominal start" in result.stdout
    first, second = result.stderr.strip().splitlines()
    assert first == f"error: {bundle.path} was not written: No space left on device"
    assert second.startswith(f"error: {output / 'results.png'} was not written: ")
    assert json.loads((output / "evaluation.json").read_text())["bundle_digest"] == bundle.digest
    assert (tmp_path / "picture.svg").exists()
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock",
        "episodes.jsonl",
        "evaluation.json",
        "results.png",
    ]


def test_the_table_is_out_and_the_results_are_kept_before_filming(
    kitchen_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rpl_runtime.cli.measure.standard.film", interrupted)
    options = ["--goals", "kettle", "--episodes", "1", "--steps", "4", "--start", "nominal", "--jobs", "1"]
    options += ["--output", str(tmp_path / "out"), "--video", str(tmp_path / "film.mp4")]
    result = CliRunner().invoke(app, ["evaluate", str(kitchen_bundle.path), *options])
    assert result.exit_code == 130
    assert "nominal start" in result.stdout
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_one_folder_takes_one_evaluation_at_a_time(
    occupy: Callable[[Path], subprocess.Popen[str]], evaluated: Evaluation, tmp_path: Path
):
    saved, output = tmp_path / "evaluation.json", tmp_path / "out"
    saved.write_text(json.dumps(evaluated.content))
    first = occupy(output)
    for source in (["--address", "127.0.0.1:1"], ["--from", str(saved)]):
        result = CliRunner().invoke(app, ["evaluate", *source, "--output", str(output)])
        assert isinstance(result.exception, InvalidInput)
        assert f"another command writes to {output}" in str(result.exception)
    assert [path.name for path in output.iterdir()] == [".lock"]
    first.kill()
    first.wait()
    result = CliRunner().invoke(app, ["evaluate", "--from", str(saved), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert (output / "evaluation.json").exists()


def test_a_reader_that_is_gone_loses_no_file(evaluated: Evaluation, tmp_path: Path):
    saved, output = tmp_path / "evaluation.json", tmp_path / "out"
    saved.write_text(json.dumps(evaluated.content))
    reader, writer = os.pipe()
    os.close(reader)
    script = "from rpl_runtime.cli import main; main()"
    command = [sys.executable, "-c", script, "evaluate", "--from", str(saved), "--output", str(output)]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert json.loads((output / "evaluation.json").read_text()) == evaluated.content
    assert (output / "results.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bundle", "--address", "127.0.0.1:1"],
        *(
            ["--address", "127.0.0.1:1", *more]
            for more in (["--write"], ["--providers", "CUDA"], ["--executor", "ray"])
        ),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]):
    assert CliRunner().invoke(app, ["evaluate", *arguments]).exit_code == 2
