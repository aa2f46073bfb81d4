"""The training commands as a user types them: what they print, what they leave behind, how they fail."""

import json
import sys

import numpy as np
import pytest

from rpl_runtime.cli import main
from rpl_runtime.kitchen.elements import ELEMENTS, ROBOT_DIM, STATE_DIM
from rpl_train.checkpoint import load_run
from rpl_train.demos.trajectory import Trajectory, save


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
    code, out, _ = rpl(*command)
    assert code == 0
    assert "trained before" in out
    code, _, err = rpl(*command, "--seed", 1)
    assert code == 1
    assert err.startswith("error:")
    assert "other settings (seed)" in err


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
    assert code == 1
    assert "holds no run.json" in err
