"""`rpl improve`: from the logs of a task's robots to a bundle that is measured against the old one."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import drawers
import processes
from demonstrations import drawer_demonstrations
from rpl_runtime.cli.app import main
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle, load_bundle, write_bundle
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.relay.messages import Action
from rpl_runtime.relay.run import Step
from rpl_runtime.relay.run_state import POLICY
from rpl_train.data.recordings import load_demonstrations
from rpl_train.export.export import export
from rpl_train.export.parity import ParityConfig
from rpl_train.networks import NetworkConfig
from rpl_train.play import PlayConfig, play
from rpl_train.runs import read_run

TASK = drawers.TASK
SHORT = ("--task", "drawers:make", "--steps", 4, "--jobs", 1, "--episodes", 2)
SHORT += ("--set", "improve.batch=20", "--set", "parity.episodes=1", "--set", "parity.steps=3")


@pytest.fixture
def rpl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run `rpl` with these arguments: exit code, standard output, standard error in one line."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rpl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), out, " ".join(err.split())

    return run


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that imitated the drawers' script for three steps."""
    folder = tmp_path_factory.mktemp("old")
    play(TASK, PlayConfig(sequences=3, seed=5), folder / "play")
    taught = load_demonstrations([folder / "play"], TASK)
    policy, record = drawers.imitated(folder / "run", 3, NetworkConfig((8,), (8,)), taught)
    short = ParityConfig(episodes=1, steps=3)
    return export(policy, record.spec, record.provenance, folder / "bundle", record.statistics, short, TASK).bundle


def log(path: Path, digest: str, pilot: str = "gamepad") -> Path:
    """The log of a run of twelve steps by the policy and twelve by a pilot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    [shown] = drawer_demonstrations(1).trajectories
    writer = LogWriter(path, LogHeader(robot="arm", seed=None, plan_lead=0, digest=digest, spec=TASK.spec))
    goal = TASK.spec.resolve(drawers.GOAL, shown.states[0].clip(-1, 3))
    for number, (state, target) in enumerate(zip(shown.states, shown.targets, strict=True)):
        action = Action(target, state, number % 4, number % 4 == 0, (number + 1) * 10**8)
        step = Step(number, state, action, frozenset(), goal, None, POLICY if number < 12 else pilot)
        writer.write_step(step, action.valid_until_ns)
    writer.close(dropped=0)
    return path


class Improved(NamedTuple):
    command: tuple[object, ...]
    before: dict[str, bytes]  # the old bundle's files
    printed: str  # JSON
    new: Path
    work: Path
    logs: Path


@pytest.fixture(scope="module")
def improved(old: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Improved:
    """A bundle that was improved by the log of one run; to be read only."""
    folder = tmp_path_factory.mktemp("improved")
    new, work, logs = folder / "new", folder / "work", log(folder / "logs" / "a.mcap", old.digest).parent
    command = ("improve", old.path, new, "--logs", logs, "--work", work, *SHORT)
    before = {path.name: path.read_bytes() for path in old.path.iterdir()}
    ran = processes.rpl(*map(str, command), "--json")
    assert ran.returncode == 0, ran.stderr
    return Improved(command, before, ran.stdout, new, work, logs)


def test_the_whole_way_leaves_a_bundle_and_says_whether_it_is_better(rpl, old: Bundle, improved: Improved) -> None:
    """The demonstrations are played again, from what the bundle says of them."""
    found = json.loads(improved.printed)["beside"]
    assert found["pairs"] == 2
    assert -1 <= found["interval"][0] <= found["difference"] <= found["interval"][1] <= 1
    new = load_bundle(improved.new)
    provenance = new.manifest.provenance
    assert provenance == read_run(improved.work).provenance
    assert [source["name"] for source in provenance.data] == ["play", "logs"]
    assert provenance.parents == (old.digest,)
    assert new.evaluation is not None
    assert new.spec.name == "new"
    assert {path.name: path.read_bytes() for path in old.path.iterdir()} == improved.before
    code, out, err = rpl(*improved.command)  # once more: everything is kept
    assert code == 0, err
    assert "trained before" in err
    assert "the new policy is not told apart" in out.splitlines()[-1]
    assert load_bundle(improved.new).digest == new.digest


def test_an_export_may_measure_when_to_ask_for_help(rpl, old: Bundle, tmp_path: Path) -> None:
    command = ("export", old.path, tmp_path / "asking", "--task", "drawers:make")
    code, out, err = rpl(*command, "--stall", "0.5", "--json")
    assert code == 0, err
    asking = load_bundle(tmp_path / "asking")
    assert asking.manifest.stall is not None
    assert asking.manifest.stall.rate == 0.5
    assert json.loads(out)["digest"] == asking.digest
    code, _, err = rpl(*command, "--stall", "2", "--force")
    assert code == 2
    assert "the rate of false alarms is 2; must be between 0 and 1" in err
    assert load_bundle(tmp_path / "asking").digest == asking.digest


def learned_from(bundle: Bundle, folder: Path, **source: object) -> Bundle:
    """The same bundle, with something else said of its demonstrations."""
    provenance = bundle.manifest.provenance
    changed = provenance.model_copy(update={"data": ({**provenance.data[0], **source},)})
    manifest = bundle.manifest.model_copy(update={"provenance": changed})
    return write_bundle(folder, manifest, bundle.files[HIGH], bundle.files[LOW])


def test_demonstrations_with_other_last_digits_are_noted_and_named(rpl, old: Bundle, tmp_path: Path) -> None:
    """Another processor, or an earlier demonstrator, played those that the bundle learned from."""
    other = learned_from(old, tmp_path / "other", digest="d" * 64)
    logs, work = log(tmp_path / "logs" / "a.mcap", other.digest).parent, tmp_path / "work"
    code, _, err = rpl("improve", other.path, tmp_path / "new", "--logs", logs, "--work", work, *SHORT)
    assert code == 0, err
    assert "note: the demonstrations have the digests" in err
    played = old.manifest.provenance.data[0]["digest"]
    [source, _] = load_bundle(tmp_path / "new").manifest.provenance.data  # and not those that nobody has
    assert source["digest"] == played


def test_an_improved_policy_is_improved_by_what_it_names(rpl, improved: Improved, tmp_path: Path) -> None:
    later = log(tmp_path / "later" / "b.mcap", load_bundle(improved.new).digest, "anna").parent
    command = ("improve", improved.new, tmp_path / "newer", "--logs", later, "--work", tmp_path / "work", *SHORT)
    code, _, err = rpl(*command)
    assert code == 2
    assert "learned from logs, which drawers cannot play again" in err
    [played] = (improved.work / "play").iterdir()
    code, _, err = rpl(*command, "--demos", played, "--demos", improved.logs)
    assert code == 0, err
    assert "note:" not in err
    sources = load_bundle(tmp_path / "newer").manifest.provenance.data
    assert [source["name"] for source in sources] == ["play", "logs", "later"]


def test_shifts_are_not_played_again(rpl, old: Bundle, tmp_path: Path) -> None:
    play = old.manifest.provenance.data[0]["play"]
    other = learned_from(old, tmp_path / "other", name="shifts-1", play={**play, "shifts": True, "driver": "d" * 64})
    logs, work = log(tmp_path / "logs" / "a.mcap", other.digest).parent, tmp_path / "work"
    code, _, err = rpl("improve", other.path, tmp_path / "new", "--logs", logs, "--work", work, *SHORT)
    assert code == 2
    assert "learned from shifts-1, which drawers cannot play again; name all that it learned from with --demos" in err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("cut", "was cut off after step 23; must be the log of a run that ended"),
        ("bundle", "is a run of the bundle eeeeeeeeeeee; must be of"),
        ("none", "holds no logs; must be a file of `rpl run --log`"),
        ("no hand", "the policy decided every step of the logs"),
        ("same", "is the bundle that is improved; choose another path"),
    ],
)
def test_what_cannot_improve_a_policy_is_one_sentence(
    rpl, old: Bundle, tmp_path: Path, change: str, sentence: str
) -> None:
    pilot = POLICY if change == "no hand" else "gamepad"
    path = log(tmp_path / "logs" / "a.mcap", "e" * 64 if change == "bundle" else old.digest, pilot)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    if change == "none":
        path.unlink()
    new = old.path if change == "same" else tmp_path / "new"
    code, out, err = rpl("improve", old.path, new, "--logs", tmp_path / "logs", "--work", tmp_path / "work", *SHORT)
    assert (code, out) == (2, "")
    assert err.startswith("error:")
    assert sentence in err
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "work").exists()  # neither is anything played again
