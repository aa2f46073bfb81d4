"""Rows from beginning to end, with episodes of a few steps; and that finished work is not done again.

One row is exported and served as in earnest. The others are trained and evaluated through gRPC too, but what they are
evaluated on is one small policy that a single server offers to all of them.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput, TrainingError
from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS, PAPER_GOALS, ROBOT_DIM, STATE_DIM, compound_goal
from rpl_train.data.trajectory import Trajectory, load, save
from rpl_train.export.parity import ParityConfig
from rpl_train.networks import NetworkConfig
from rpl_train.paper import reproduce as paper
from rpl_train.paper.methods import COMPARED_GOALS, METHODS, Method
from rpl_train.paper.reproduce import PaperConfig, Trial, chosen, finetune_config, plan, pool_config, reproduce
from rpl_train.rl import finetune
from rpl_train.rl.finetune import FinetuneConfig
from rpl_train.rl.rollout import rollout
from rpl_train.runs import read_run


@pytest.fixture(scope="module")
def kitchen_address(kitchen_bundle):
    """The address of a server of a small policy for the kitchen."""
    with serve_in_thread(kitchen_bundle) as address:
        yield address


@pytest.fixture
def config(unserved, kitchen_address, monkeypatch):
    """The same, where every policy is evaluated as the small one."""

    def evaluate_small(trained, trial, protocol):
        return evaluate(kitchen_address, KITCHEN, protocol).content

    monkeypatch.setattr(paper, "_evaluate", evaluate_small)
    return unserved


@pytest.fixture
def unserved(tmp_path, monkeypatch):
    """A budget of seconds, in this process: small networks, a run of one iteration, episodes of a few steps."""
    rng = np.random.default_rng(0)
    for index in range(2):
        states = rng.uniform(-0.01, 0, (40, STATE_DIM)).astype(np.float32)
        states[:, 22] = np.linspace(0, -0.75, 40)
        targets = np.clip(states[:, :ROBOT_DIM] + 0.01, 0, 0.04)
        save(Trajectory(states, targets, ("microwave",), f"made#{index}"), tmp_path / "demos" / f"{index}.npz")

    def here(jobs, executor, workers, progress):
        results = []
        for job in jobs:
            results.append(job.call(*job.arguments))
            progress(job, results[-1])
        return results

    monkeypatch.setattr(paper, "run_jobs", here)
    monkeypatch.setattr(paper, "_protocol", lambda trial, config: EvaluateConfig(trial.goals, 1, steps=3, jobs=1))
    monkeypatch.setattr(finetune, "rollout", partial(rollout, steps=4))
    monkeypatch.setattr(paper, "_GATE", ParityConfig(episodes=1, steps=2))
    monkeypatch.setattr(paper, "FinetuneConfig", partial(FinetuneConfig, episodes=2, worlds=2))
    monkeypatch.setattr(paper, "NetworkConfig", partial(NetworkConfig, high_hidden=(16,), low_hidden=(16,)))
    return PaperConfig(
        runs=tmp_path / "runs", demonstrations=(tmp_path / "demos",), env_steps=2 * EPISODE_STEPS, imitation_steps=3
    )


def short(name: str, goals: tuple[str, ...] = ("mkbs",)) -> Method:
    return replace(METHODS[name], goals=goals, seeds=(0,))


def test_rows_are_chosen_by_name():
    assert chosen(None) == list(METHODS.values())
    assert [method.name for method in chosen(["ril", "hiro"])] == ["ril", "hiro"]
    with pytest.raises(InvalidInput, match="no row is called rel; must be one of iril-rpl, "):
        chosen(["ril", "rel"])


def test_a_row_has_a_trial_for_each_goal_and_seed():
    assert plan(METHODS["ril"]) == [Trial(METHODS["ril"], PAPER_GOALS, 0)]
    trials = plan(METHODS["oracle"])
    assert {(trial.goals, trial.seed) for trial in trials} == {((g,), seed) for g in COMPARED_GOALS for seed in (0, 1)}
    every = [trial.name for method in METHODS.values() for trial in plan(method)]
    assert len(set(every)) == len(every)  # each has a folder of its own


@pytest.mark.parametrize(
    "method", [method for method in METHODS.values() if method.tunes], ids=lambda method: method.name
)
def test_a_trial_is_fine_tuned_as_its_row_says(method, tmp_path):
    trial = plan(method)[-1]
    found = finetune_config(trial, PaperConfig(runs=tmp_path, demonstrations=(), env_steps=9))
    assert found.goal == compound_goal(trial.goals[0])
    assert (found.objective, found.levels, found.scratch) == (method.objective, method.tunes, method.scratch)
    assert (found.reward, found.high_reward, found.likelihood) == (method.reward, method.high_reward, method.likelihood)
    assert (found.env_steps, found.seed) == (9, trial.seed)
    assert method.imitation
    assert found.pool == pool_config(method.imitation)
    assert (found.pool.relabelling, found.pool.low_window) == (method.imitation.relabelling, method.imitation.window)


def reproduced(methods, config, known=None):
    """The rows, each as it was kept last, and what was reported on the way."""
    kept, seen = {}, []
    reproduce(
        methods,
        config,
        known or {},
        lambda *progress: seen.append(progress),
        lambda row: kept.update({row.method.name: row}),
    )
    return kept, seen


def test_a_row_is_imitated_fine_tuned_exported_and_evaluated_through_its_own_server(unserved):
    found, _ = reproduced([short("npg-bc")], unserved)
    [trial] = found["npg-bc"].trials
    assert [point.env_steps for point in trial.curve] == [8]
    assert trial.evaluation["protocol"]["policy"] == "kitchen"
    assert {start: list(results["goals"]) for start, results in trial.evaluation["starts"].items()} == {
        "nominal": ["mkbs"], "perturbed": ["mkbs"]
    }  # fmt: skip


def test_rows_from_beginning_to_end(config):
    found, seen = reproduced([short("npg-bc"), short("bc", ("mkbs", "kbts")), short("nearest")], config)
    rows = [found[name] for name in ("npg-bc", "bc", "nearest")]
    assert [row.env_steps for row in rows] == [2 * EPISODE_STEPS, 0, 0]
    tuned, imitated, nearest = (row.trials[0] for row in rows)
    assert [point.env_steps for point in tuned.curve] == [8]
    assert imitated.curve == nearest.curve == ()
    assert list(imitated.evaluation["starts"]["perturbed"]["goals"]) == ["mkbs", "kbts"]
    assert seen == [("imitation", 0, 1), ("imitation", 1, 1), *(("trials", done, 3) for done in range(4))]
    folders = {str(path.parent.relative_to(config.runs)) for path in config.runs.rglob("evaluation.json")}
    assert folders == {"npg-bc/mkbs-0", "bc/all", "nearest/all"}


def test_a_row_with_seeds_of_imitation_starts_each_trial_from_its_own_and_tunes_a_mixture(config):
    method = replace(METHODS["npg-both-sparse-objects"], goals=("mkbs",), seeds=(0, 1))
    kept, _ = reproduced([method], config)
    assert len(kept[method.name].trials) == 2
    starts = {path.name: read_run(path) for path in (config.runs / "imitation").iterdir()}
    assert {name: found.provenance.seeds for name, found in starts.items()} == {
        "relay-relay-30": (0,), "relay-relay-30-seed-1": (1,)
    }  # fmt: skip
    seeds = [
        read_run(config.runs / method.name / f"mkbs-{seed}").provenance.settings["imitation"]["seed"] for seed in (0, 1)
    ]
    assert seeds == [0, 1]


def test_a_subgoal_is_kept_as_long_as_its_row_says(config):
    for name in ("window-60", "window-60-kept-30"):
        reproduced([short(name)], config)
    runs = {path.name: read_run(path).spec.horizon for path in (config.runs / "imitation").iterdir()}
    assert runs == {"relay-relay-60": 60, "relay-relay-60-kept-30": 30}


def test_what_the_runs_hold_is_not_done_again(config, monkeypatch):
    methods = [short("npg-bc"), short("nearest")]
    found, _ = reproduced(methods, config)
    for name in ("_evaluate", "evaluate_nearest"):
        monkeypatch.setattr(paper, name, None)
    monkeypatch.setattr(finetune, "rollout", None)
    assert reproduced(methods, config)[0] == found


def test_another_protocol_is_evaluated_anew_and_nothing_trained_again(config, monkeypatch):
    methods = [short("npg-bc"), short("nearest")]
    reproduced(methods, config)
    monkeypatch.setattr(finetune, "rollout", None)
    for episodes in (2, 1):
        protocol = partial(EvaluateConfig, episodes=episodes, steps=3, jobs=1)
        monkeypatch.setattr(paper, "_protocol", lambda trial, config, protocol=protocol: protocol(trial.goals))
        for row in reproduced(methods, config)[0].values():
            assert row.trials[0].evaluation["protocol"]["episodes"] == episodes


def test_what_is_damaged_in_a_folder_of_runs_is_measured_again_or_named(config):
    method = short("npg-bc")
    found, _ = reproduced([method], config)
    [evaluation], [curve] = config.runs.rglob("evaluation.json"), config.runs.rglob("curve.json")
    for damage in ("", "[]", "{}"):
        evaluation.write_text(damage)
        again, _ = reproduced([method], config)
        assert again[method.name].trials[0].evaluation["starts"] == found[method.name].trials[0].evaluation["starts"]
    curve.write_text('[{"iteration"')
    with pytest.raises(TrainingError, match=r"curve\.json is damaged"):
        reproduced([method], config)


def test_other_demonstrations_are_refused_by_what_learned_and_played_by_what_does_not(config, tmp_path):
    found, _ = reproduced([short("npg-bc"), short("nearest")], config)
    shown = paper.shown_digest(config)
    assert {row.trials[0].evaluation["demonstrations"] for row in found.values()} == {shown}
    made = load(tmp_path / "demos" / "0.npz")
    save(replace(made, states=made.states + 0.01), tmp_path / "others" / "0.npz")
    others = replace(config, demonstrations=(tmp_path / "others",))
    again, _ = reproduced([short("nearest")], others)
    assert again["nearest"].trials[0].evaluation["demonstrations"] == paper.shown_digest(others) != shown
    with pytest.raises(TrainingError, match=r"other settings \(.*statistics"):
        reproduced([short("npg-bc")], others)


def test_known_trials_need_no_runs_and_a_row_grows_by_what_is_missing(config, tmp_path):
    method = replace(short("npg-bc", ("mkbs", "kbts")), seeds=(0, 1))
    whole = reproduced([method], config)[0]["npg-bc"].trials
    assert [(trial.goals, trial.seed) for trial in whole] == [
        (("mkbs",), 0), (("kbts",), 0), (("mkbs",), 1), (("kbts",), 1)
    ]  # fmt: skip
    elsewhere = replace(config, runs=tmp_path / "elsewhere")
    known = {"npg-bc": [whole[3], *whole[:2]]}
    found, seen = reproduced([method], elsewhere, known)
    assert [(trial.goals, trial.seed) for trial in found["npg-bc"].trials] == [(t.goals, t.seed) for t in whole]
    assert seen[-2:] == [("trials", 0, 1), ("trials", 1, 1)]
    assert [path.name for path in (tmp_path / "elsewhere" / "npg-bc").iterdir()] == ["mkbs-1"]
    assert reproduced([method], replace(config, runs=tmp_path / "nowhere"), {"npg-bc": whole})[0] == {}
    assert not (tmp_path / "nowhere").exists()


def test_every_row_has_a_trial_of_a_seed_before_any_has_one_of_the_next(config):
    grown = []
    methods = [replace(short(name), seeds=(0, 1)) for name in ("npg-bc", "npg-gcbc")]
    reproduce(methods, config, {}, lambda *_: None, lambda row: grown.append((row.method.name, len(row.trials))))
    assert grown == [("npg-bc", 1), ("npg-gcbc", 1), ("npg-bc", 2), ("npg-gcbc", 2)]


def test_every_row_has_a_goal_that_all_have_before_any_has_the_next(config, monkeypatch):
    first, second = COMPARED_GOALS[:2]
    attempted = []
    monkeypatch.setattr(paper, "run_jobs", lambda jobs, *_: attempted.extend(job.name for job in jobs))
    methods = [short("npg-bc", (first, second)), short("npg-rpl", ("mbsh", first, second))]
    reproduce(methods, config, {}, lambda *_: None, lambda row: None)
    assert attempted[2:] == [  # after the imitations
        *(f"{row}/{goal}-0" for goal in (first, second) for row in ("npg-bc", "npg-rpl")),
        "npg-rpl/mbsh-0",
    ]
