"""From a task that nobody here has seen to a served and evaluated policy, by the commands alone."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import drawers
import policies
from demonstrations import drawer_demonstrations
from rpl_runtime.cli.app import main
from rpl_runtime.client import Access
from rpl_runtime.errors import DemonstrationError, InvalidInput, WorldFault
from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.server.server import serve_in_thread
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.trajectory import load_folder, save_folder
from rpl_train.play import PlayConfig, play
from rpl_train.rl.finetune import FinetuneConfig, finetune
from rpl_train.runs import load_run, read_run
from source import ROOT

pytestmark = pytest.mark.usefixtures("one_table_of_operators")

DRAWERS = "drawers:make"
SMALL = ("--set", "imitate.networks.low_hidden=[32]", "--set", "imitate.networks.high_hidden=[32]")


@pytest.fixture
def rpl(monkeypatch, capfd):
    """Call the command line; returns its exit code and what it said."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rpl", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        code = 0
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capfd.readouterr()

    return call


def test_the_drawers_go_from_play_to_an_evaluated_bundle(rpl, tmp_path):
    demos, base = tmp_path / "play", tmp_path / "base"
    task = ("--task", DRAWERS)
    code, out, err = rpl("demos", "play", demos, *task, "--sequences", 12, "--jobs", 1, "--json")
    assert code == 0, err
    assert json.loads(out)["complete"] == 1.0
    assert json.loads(rpl("demos", "info", demos, *task, "--json")[1])["done_at_end"] == {"microwave": 12, "kettle": 12}
    assert rpl("imitate", base, "--demos", demos, *task, *SMALL, "--steps", 600, "--jobs", 1)[0] == 0
    record = read_run(base)
    assert (record.task, record.spec.library) == (DRAWERS, {"mk": drawers.GOAL})

    tuned = ("--goal", "mk", "--demos", demos, "--env-steps", 200, "--set", "finetune.episodes=4")
    assert rpl("finetune", base, tmp_path / "mk", *tuned)[0] == 0
    settings = ("--set", "distill.rounds=1", "--set", "distill.episodes=2", "--set", "distill.steps=20")
    distilled = (
        "distill",
        base,
        tmp_path / "one",
        "--specialist",
        f"mk={tmp_path / 'mk'}",
        "--demos",
        demos,
        *settings,
    )
    assert rpl(*distilled)[0] == 0
    assert rpl("export", tmp_path / "one", tmp_path / "bundle")[0] == 0

    code, out, err = rpl("evaluate", tmp_path / "bundle", *task, "--episodes", 4, "--jobs", 1, "--write", "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["protocol"]["task"] == "drawers"
    assert content["starts"]["beside"]["success_ever"] == 1.0
    assert load_bundle(tmp_path / "bundle").evaluation == content
    assert rpl("run", *task, "--goal", "mk", "--bundle", tmp_path / "bundle")[0] == 0
    assert rpl("evaluate", tmp_path / "bundle")[0] == 2  # not a policy for the kitchen


EXAMPLES = ("examples.point_maze:make", "examples.fetch_pick_and_place:make")


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_trained_served_and_evaluated(example, rpl, tmp_path):
    """In short; docs/your-task.md has the numbers of the whole."""
    options = ("--sequences", 2, "--steps", 3, "--jobs", 1, "--episodes", 1, *SMALL)
    options += ("--set", "parity.episodes=1", "--set", "parity.steps=4", "--run", tmp_path / "run")
    code, _, err = rpl("train", tmp_path / "bundle", "--task", example, *options)
    assert code == 0, err
    evaluation = load_bundle(tmp_path / "bundle").evaluation
    assert evaluation is not None
    assert evaluation["protocol"]["goals_given_as"] == "whole states"
    steps, played = load_run(tmp_path / "run").record.spec.horizon, load_folder(tmp_path / "run" / "play")
    assert len(played) == 2
    assert all(len(trajectory) > 2 * steps for trajectory in played)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_examples_script_reaches_its_goals_and_its_seeds_fix_them(example):
    from rpl_train.tasks import load_task

    task = load_task(example)
    world = task.open()
    assert task.demonstrator is not None
    for index in range(3):
        first = task.demonstrator.perform(task, world, 0, index)
        assert world.done()
    again = task.demonstrator.perform(task, world, 0, 2)
    assert np.array_equal(first.states, again.states)
    world.close()


def test_demonstrations_of_another_task_are_one_sentence(rpl, tmp_path):
    save_folder(drawer_demonstrations(2).trajectories[:1], tmp_path / "demos")
    code, _, err = rpl("demos", "info", tmp_path / "demos")
    assert code == 2
    assert "has states of 3 and targets of 1 numbers; kitchen has 30 and 9" in " ".join(err.split())
    assert rpl("imitate", tmp_path / "run", "--demos", tmp_path / "demos")[0] == 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(DemonstrationError, match="holds no demonstrations"):
        load_demonstrations([tmp_path], drawers.TASK)


class Failing(drawers.Drawers):
    """Drawers that show another state from the sixth step of an episode on."""

    def __init__(self, shown: np.ndarray) -> None:
        self._shown, self._steps = shown, 0
        super().__init__()

    def reset(self, seed: int, start: float) -> np.ndarray:
        self._steps = 0
        return super().reset(seed, start)

    def step(self, target: np.ndarray) -> np.ndarray:
        self._steps += 1
        super().step(target)
        if self._steps > 5:
            self.state = self._shown
        return self.state

    def done(self) -> frozenset[str]:
        return frozenset()


@pytest.mark.parametrize(
    ("shown", "sentence"), [([0.0, np.nan, 0.0], "has .* = nan; must be a finite"), ([0.0] * 4, "has shape \\(4,\\)")]
)
def test_a_world_that_fails_in_the_middle_is_one_sentence_and_leaves_nothing_half_written(shown, sentence, tmp_path):
    task = replace(drawers.TASK, open_world=lambda: Failing(np.array(shown, np.float32)))
    said = pytest.raises(WorldFault, match=f"the state that the world of drawers returned {sentence}")
    with said:
        play(task, PlayConfig(sequences=1), tmp_path / "play")
    assert [path.name for path in (tmp_path / "play").iterdir()] == ["play.json"]
    bundle = policies.tiny_bundle(tmp_path / "bundle", drawers.spec())
    with serve_in_thread(bundle) as address, said:
        journal = tmp_path / "episodes.jsonl"
        evaluate(address, task, EvaluateConfig(episodes=1, jobs=1), journal, access=Access())
    assert len(journal.read_text().splitlines()) <= 1  # no episode
    base = drawers.imitated(tmp_path / "base", steps=3)
    tuning = FinetuneConfig(goal=drawers.GOAL, objective="npg", env_steps=1, episodes=2, worlds=1)
    with said:
        finetune(task, base, drawer_demonstrations(2), tmp_path / "run", tuning)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_task_without_a_demonstrator_asks_for_demonstrations(tmp_path):
    with pytest.raises(InvalidInput, match="drawers has no demonstrator, so it needs --demos"):
        play(drawers.task_of(drawers.spec()), PlayConfig(), tmp_path / "play")
    assert not (tmp_path / "play").exists()


def test_settings_come_from_the_task_then_a_file_then_the_command_line(rpl, tmp_path):
    (tmp_path / "mine.toml").write_text("[imitate]\nsteps = 50\nbatch = 64\n[imitate.pool]\nnamed_goals = 0.8\n")
    common = ("imitate", tmp_path / "run", "--demos", tmp_path, "--task", DRAWERS, "--show-config")
    assert "steps = 30\n" in rpl(*common)[1]
    code, out, _ = rpl(*common, "--config", tmp_path / "mine.toml", "--set", "imitate.batch=16")
    assert code == 0
    for line in ("steps = 50", "batch = 16", "named_goals = 0.8", "learning_rate = 0.001"):
        assert line in out.splitlines()
    assert "steps = 7" in rpl(*common, "--config", tmp_path / "mine.toml", "--steps", 7)[1].splitlines()
    (tmp_path / "all.toml").write_text(out)
    assert rpl(*common, "--config", tmp_path / "all.toml")[1] == out  # what is printed can be read again
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("imitate.stps=3", "there is no setting imitate.stps; is it imitate.steps?"),
        ("imitate.pool.nois=0", "there is no setting imitate.pool.nois; is it imitate.pool.low_noise?"),
        ("imitation.steps=3", "there is no setting imitation.steps; is it imitate?"),
        ("imitate.steps=many", "the setting imitate.steps is 'many'; must be a valid integer"),
        ("imitate.pool=3", "imitate.pool is a group of settings; name one setting"),
        ("finetune.objective=best", "the setting finetune.objective is 'best'; must be 'npg', 'dapg' or 'iril'"),
        ("imitate.networks.flat=1.5", "the setting imitate.networks.flat is 1.5; must be"),
        ("steps", "'steps' is not a setting; must be NAME=VALUE"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(setting, sentence, rpl, tmp_path):
    command = ("imitate", tmp_path / "run", "--demos", tmp_path, "--task", DRAWERS, "--set", setting)
    code, _, err = rpl(*command)
    assert code == 2
    assert sentence in " ".join(err.split())
    assert not (tmp_path / "run").exists()
