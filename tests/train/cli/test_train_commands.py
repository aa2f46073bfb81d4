"""The training commands as a user types them: what they print, what they leave behind, how they fail."""

import json
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.core import TyperGroup

import policies
import rows
from rpl_runtime.cli.app import main
from rpl_runtime.cli.measure import commands
from rpl_runtime.policy.bundle import attach_evaluation, load_bundle
from rpl_runtime.policy.novelty import Novelty
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, ROBOT_DIM, STATE_DIM
from rpl_train.cli.app import register
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory, save
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.paper.methods import METHODS
from rpl_train.paper.results import write_row
from rpl_train.rl.rollout import rollout
from rpl_train.runs import load_run, read_run
from rpl_train.tasks.kitchen.task import KITCHEN

SHIPPED = Path(__file__).parents[3] / "models" / "kitchen"


@pytest.fixture
def demonstrations(tmp_path):
    """A folder of two made-up kitchen demonstrations in which the microwave opens."""
    rng = np.random.default_rng(0)
    for index in range(2):
        states = rng.uniform(-0.01, 0, (40, STATE_DIM)).astype(np.float32)
        states[:, 22] = np.linspace(0, -0.75, 40)
        targets = np.clip(states[:, :ROBOT_DIM] + 0.01, 0, 0.04)
        save(Trajectory(states, targets, ("microwave",), f"made#{index}"), tmp_path / "demos" / f"{index}.npz")
    return tmp_path / "demos"


@pytest.fixture
def rpl(monkeypatch, capfd):
    """Run `rpl` with these arguments: exit code, standard output, standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rpl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capfd.readouterr()

    return run


def test_imitate_leaves_a_run_that_loads_and_goes_on(rpl, demonstrations, tmp_path):
    command = ("imitate", tmp_path / "run", "--demos", demonstrations, "--steps", 30, "--jobs", 1)
    code, out, _ = rpl(*command)
    assert code == 0
    assert "rpl export" in out
    policy, record = load_run(tmp_path / "run")
    assert record.provenance.data[0]["episodes"] == 2
    state = np.zeros((1, STATE_DIM), np.float32)
    noise = np.zeros((1, record.spec.high_noise), np.float32)
    assert policy.plan(state, state, state, noise).shape == (1, STATE_DIM)
    code, _, err = rpl(*command)
    assert code == 0
    assert "trained before" in err
    code, _, err = rpl(*command, "--seed", 1)
    assert code == 1
    assert err.startswith("error:")
    assert "other settings (seed)" in err


def test_one_folder_takes_one_training_at_a_time(rpl, occupy, demonstrations, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    options = ("--demos", demonstrations, "--steps", 3, "--jobs", 1, "--components", 1)
    assert rpl("imitate", base, *options)[0] == 0
    first = occupy(run)
    for command in (
        ("imitate", run, *options),
        ("finetune", base, run, "--goal", "m", "--objective", "npg", "--env-steps", 1),
        ("distill", base, run, "--demos", demonstrations, "--specialist", f"m={base}"),
    ):
        code, _, err = rpl(*command)
        assert code == 2
        assert f"another command writes to {run} now" in as_one_line(err)
    assert [path.name for path in run.iterdir()] == [".lock"]
    first.kill()
    first.wait()
    assert rpl("imitate", run, *options)[0] == 0


def test_info_counts_what_there_is(rpl, demonstrations):
    code, out, _ = rpl("demos", "info", demonstrations, "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["episodes"], summary["steps"], summary["complete"]) == (2, 80, 2)
    assert summary["done_at_end"] == {name: 2 * (name == "microwave") for name in ELEMENTS}
    code, out, _ = rpl("demos", "info", demonstrations)
    assert code == 0
    assert "microwave" in out


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n and no more", b"text"])
def test_a_foreign_file_is_one_sentence_and_exit_code_2(rpl, tmp_path, content):
    (tmp_path / "a.hdf5").write_bytes(content)
    code, out, err = rpl("demos", "import", tmp_path / "a.hdf5", "--out", tmp_path / "out")
    assert code == 2
    assert out == ""
    assert err.startswith("error:")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_cannot_be_exported(rpl, tmp_path):
    code, _, err = rpl("export", tmp_path / "none", tmp_path / "bundle")
    assert code == 2
    assert "holds no run.json" in err


def test_every_command_and_option_has_a_help_text():
    app = typer.Typer()
    register(app)
    group = typer.main.get_group(app)
    [demos] = [command for command in group.commands.values() if isinstance(command, TyperGroup)]
    assert len(group.commands) + len(demos.commands) == 18
    for command in (*group.commands.values(), *demos.commands.values()):
        assert command.help
        assert [p.name for p in command.params if not getattr(p, "help", None)] == [], command.name


def as_one_line(text: str) -> str:
    """Without the frames and the line breaks of a terminal."""
    return " ".join(text.replace("│", " ").split())


def refused(rpl, *arguments) -> str:
    """The sentence with which bad input ends."""
    code, out, err = rpl(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    return as_one_line(err)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of the kitchen's that has learned next to nothing."""
    states = np.random.default_rng(0).uniform(-0.01, 0, (4, STATE_DIM)).astype(np.float32)
    shown = Demonstrations([Trajectory(states, states[:, :ROBOT_DIM])], [])
    config = ImitateConfig(steps=1, jobs=1, networks=NetworkConfig((8,), (8,)))
    run = tmp_path_factory.mktemp("base")
    imitate(shown, KITCHEN, run, config, lambda level, step, loss: None)
    return run


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--goal", "mkbs", "--objective", "iril"), "iril needs the --demos"),
        (("--goal", "mkbs"), "iril needs the --demos"),  # the default
        (("--goal", "mxbs", "--objective", "npg"), "'mxbs' is not a goal (did you mean mbs?); must be"),
        (("--goal", "mm", "--objective", "npg"), "names an element twice"),
        (("--goal", "paper", "--objective", "npg"), "paper is 17 goals; must be one"),
        (("--goal", "mkbs", "--objective", "ppo"), "'ppo' is not one of"),
        (("--goal", "mkbs", "--objective", "npg", "--reward", "dense"), "'dense' is not one of"),
        (("--goal", "mkbs", "--objective", "npg", "--env-steps", 0), "--env-steps"),
        (("--objective", "npg"), "Missing option '--goal'"),
    ],
)
def test_finetune_refuses_bad_input_before_it_begins(rpl, base, tmp_path, options, sentence):
    assert sentence in refused(rpl, "finetune", base, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_the_kitchens_recipe_has_the_settings_that_models_kitchen_was_made_with(rpl):
    code, out, _ = rpl("train", "mine", "--recipe", "kitchen", "--show-config")
    assert code == 0
    asked, made = tomllib.loads(out), json.loads((SHIPPED / "manifest.json").read_text())["provenance"]
    play, *shifts = made["data"]
    assert asked["play"]["sequences"] == play["episodes"]
    assert asked["aggregate"]["rounds"] == len(shifts) - 1
    assert asked["aggregate"]["last"] == made["settings"]["steps"]
    assert asked["imitate"]["networks"] == made["settings"]["networks"]
    pool = {name: value for name, value in made["settings"]["pool"].items() if value is not None}
    assert asked["aggregate"]["imitate"]["pool"] == pool


@pytest.mark.parametrize("seed", [-1, 2**31])
@pytest.mark.parametrize(
    "command",
    [
        ("imitate", "run", "--demos", "demos"),
        ("train", "run", "--demos", "demos"),
        ("finetune", "base", "run", "--goal", "mkbs"),
        ("distill", "base", "run", "--demos", "demos", "--specialist", "mkbs=one"),
    ],
    ids=lambda command: command[0],
)
def test_a_seed_that_is_none_is_refused_before_a_folder_is_claimed(rpl, tmp_path, monkeypatch, command, seed):
    monkeypatch.chdir(tmp_path)
    assert "Invalid value for '--seed'" in refused(rpl, *command, "--seed", seed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("specialists", "sentence"),
    [
        (("mkbs",), "'mkbs' is not a specialist; must be GOAL=RUN"),
        (("mkbs=one", "mkbs=two"), "a goal has several specialists"),
        ((), "Missing option '--specialist'"),
    ],
)
def test_distill_refuses_bad_input_before_it_begins(rpl, demonstrations, tmp_path, specialists, sentence):
    options = [word for specialist in specialists for word in ("--specialist", specialist)]
    given = refused(rpl, "distill", tmp_path / "base", tmp_path / "run", "--demos", demonstrations, *options)
    assert sentence in given
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [("finetune", "--goal", "m", "--objective", "npg"), ("distill",)])
def test_a_base_that_is_not_there_is_one_sentence(rpl, demonstrations, tmp_path, command):
    more = ("--specialist", f"m={tmp_path / 'none'}", "--demos", demonstrations) if command == ("distill",) else ()
    code, _, err = rpl(command[0], tmp_path / "none", tmp_path / "run", *command[1:], *more)
    assert code == 2
    assert "holds no run.json" in err
    assert "Traceback" not in err


def test_finetune_leaves_a_run_that_can_be_exported(rpl, demonstrations, tmp_path, monkeypatch):
    from rpl_train.rl import finetune

    monkeypatch.setattr(finetune, "rollout", partial(rollout, steps=4))  # and not 280
    base, run = tmp_path / "base", tmp_path / "run"
    assert rpl("imitate", base, "--demos", demonstrations, "--steps", 3, "--jobs", 1, "--components", 1)[0] == 0
    command = ("finetune", base, run, "--goal", "microwave,kettle", "--objective", "npg", "--env-steps", 1)
    code, out, _ = rpl(*command)
    assert code == 0
    assert f"rpl export {run}" in as_one_line(out)
    assert load_run(run).record.provenance.settings["goal"] == ["microwave", "kettle"]
    code, _, err = rpl(*command, "--seed", 1)
    assert code == 1
    assert "other settings (seed" in err
    assert "iterations" not in err  # of which none began


def test_a_packed_file_is_replaced_by_force_alone(rpl, base, tmp_path):
    file = tmp_path / "all.safetensors"
    command = ("pack", base, file, "--specialist", f"mkbs={base}")
    assert rpl(*command)[0] == 0
    packed = file.stat().st_size
    file.write_text("mine")
    assert f"{file} already exists; pass --force to replace it" in refused(rpl, *command)
    assert file.read_text() == "mine"
    assert rpl(*command, "--force")[0] == 0
    assert file.stat().st_size == packed


@pytest.fixture
def short_episodes(monkeypatch):
    """Episodes of two steps in the evaluation, and not 280."""
    shortly = partial(commands.evaluate_command, goals=["mkbs"], steps=2, jobs=1)
    monkeypatch.setattr(commands, "evaluate_command", shortly)


def test_train_evaluates_its_bundle_and_replaces_one_of_its_own_run_or_by_force(
    rpl, short_episodes, occupy, demonstrations, tmp_path
):
    bundle, evaluation = tmp_path / "bundle", tmp_path / "run" / "evaluation"
    options = (
        "--demos",
        demonstrations,
        "--steps",
        3,
        "--jobs",
        1,
        "--components",
        1,
        "--episodes",
        1,
        "--set",
        "parity.steps=2",
    )
    command = ("train", bundle, "--run", tmp_path / "run", *options)
    in_the_way = occupy(evaluation)
    code, _, err = rpl(*command)  # broken off once the bundle is there
    assert code == 2
    assert f"another command writes to {evaluation} now" in as_one_line(err)
    first = load_bundle(bundle)
    assert first.evaluation is None
    assert first.manifest.parity["steps"] == (17 + 64) * 2
    in_the_way.kill()
    in_the_way.wait()
    code, out, _ = rpl(*command)
    assert code == 0
    assert f"bundle {first.digest[:12]}" in out
    second = load_bundle(bundle)
    assert second.spec.name == "bundle"  # as its folder
    assert second.digest == first.digest
    found = json.loads((evaluation / "evaluation.json").read_text())
    assert found["bundle_digest"] == first.digest
    assert second.evaluation == found

    other = ("train", bundle, "--run", tmp_path / "other", *options, "--seed", 1)
    for refused_one in (other, (*command, "--recipe", "relay"), ("export", tmp_path / "run", bundle)):
        assert f"{bundle} already holds bundle {first.digest[:12]}; pass --force" in refused(rpl, *refused_one)
    assert not (tmp_path / "other").exists()
    code, out, _ = rpl(*other, "--force")
    assert code == 0
    assert f"bundle {first.digest[:12]}" in out
    assert load_bundle(bundle).manifest.provenance == read_run(tmp_path / "other").provenance


def test_train_refuses_a_folder_that_is_not_a_bundle_before_it_begins(rpl, demonstrations, tmp_path):
    code, _, err = rpl("train", demonstrations, "--demos", demonstrations, "--run", tmp_path / "run", "--force")
    assert code == 3
    assert "exists and is not a bundle" in err
    assert not (tmp_path / "run").exists()


def test_methods_are_listed_for_machines_too(rpl):
    code, out, _ = rpl("methods", "--json")
    assert code == 0
    facts = json.loads(out)
    assert {"iril-rpl", "distilled", "window-90"} < {row["name"] for row in facts}
    code, out, _ = rpl("methods")
    assert code == 0
    assert "iril-rpl" in out


def test_paper_draws_what_the_folder_holds(rpl, tmp_path):
    for name in ("npg-rpl", "sparse"):
        write_row(rows.row(METHODS[name]), tmp_path / "results")
    (tmp_path / "results.md").write_text("<!-- table -->\n<!-- /table -->\n")
    code, out, _ = rpl("paper", tmp_path / "results", "--page", tmp_path / "results.md")
    assert code == 0
    assert "What was run" in out
    assert {path.name for path in (tmp_path / "results").glob("*.png")} == {"curves.png", "ablations.png"}
    assert "| NPG-RPL |" in (tmp_path / "results.md").read_text()


def test_paper_takes_the_distilled_policys_row_from_its_bundle(rpl, own_bundle, tmp_path):
    given = refused(rpl, "paper", tmp_path / "results", "--distilled", own_bundle.path)
    assert "was never evaluated" in given
    attach_evaluation(own_bundle, rows.distilled())
    code, out, _ = rpl("paper", tmp_path / "results", "--distilled", own_bundle.path)
    assert code == 0
    assert "~70.5" in out
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["distilled.json"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "holds no row of the table"),
        (("--row", "npg"), "no row is called npg; must be"),
        (("--executor", "slurm"), "'slurm' is not one of"),
    ],
)
def test_paper_refuses_bad_input(rpl, tmp_path, options, sentence):
    assert sentence in refused(rpl, "paper", tmp_path / "results", *options)


def test_an_older_bundle_is_taught_to_score_states(rpl, demonstrations, tmp_path):
    policies.kitchen_bundle(tmp_path / "bundle")
    code, out, _ = rpl("novelty", tmp_path / "bundle", "--demos", demonstrations)
    added = load_bundle(tmp_path / "bundle")
    assert code == 0
    assert added.digest in out
    assert Novelty.of(added.manifest.statistics) is not None


@pytest.mark.parametrize("command", ["demos play", "imitate", "methods", "stall", "train"])
def test_without_torch_a_command_says_what_to_install(rpl, tmp_path, monkeypatch, command):
    words = command.split()
    more = [tmp_path / "new"] if command != "methods" else []
    more += ["--demos", tmp_path] if command == "imitate" else []
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = rpl(*words, *more)
    assert (code, "this needs torch, which is not installed" in err, "Traceback" in err) == (1, True, False)
