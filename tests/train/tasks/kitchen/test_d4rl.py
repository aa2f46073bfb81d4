"""The importer of D4RL's HDF5 layout, on files made here and, where they are, on the human recordings."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, TARGET_HIGH, TARGET_LOW, kitchen_spec
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.summary import summarise
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.task import KITCHEN

HUMAN = Path(__file__).parents[5] / "shared" / "demos"
COMPLETE, SEQUENCES = HUMAN / "d4rl_kitchen_complete_v0.hdf5", HUMAN / "kitchen_human_24x4.hdf5"
needs_recordings = pytest.mark.skipif(not SEQUENCES.exists(), reason="the human recordings are not here")


def write(path: Path, lengths=(3, 4), **changes) -> Path:
    rng = np.random.default_rng(0)
    steps = sum(lengths)
    terminals = np.zeros(steps, bool)
    terminals[np.cumsum(lengths) - 1] = True
    data = {
        "observations": rng.uniform(-1, 0, (steps, 60)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 9)).astype(np.float32),
        "terminals": terminals,
    } | changes
    with h5py.File(path, "w") as file:
        for name, value in data.items():
            if value is not None:
                file[name] = value
    return path


def test_actions_become_position_targets(tmp_path):
    path = write(tmp_path / "a.hdf5")
    first, second = import_d4rl(path)
    assert (len(first), len(second)) == (3, 4)
    with h5py.File(path) as file:
        velocity, reading = file["actions"][3], file["observations"][3, :9]
    expected = np.clip(reading + velocity * MAX_TARGET_STEP, TARGET_LOW, TARGET_HIGH)
    assert second.targets[0] == pytest.approx(expected, abs=1e-6)
    assert second.states.shape == (4, 30)
    assert second.source == "a.hdf5#1"


def test_steps_after_the_last_terminal_are_no_demonstration(tmp_path):
    terminals = np.array([False, True, False, False])
    assert [len(t) for t in import_d4rl(write(tmp_path / "a.hdf5", (4,), terminals=terminals))] == [2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"actions": None}, "not in D4RL's layout"),
        ({"observations": np.zeros((7, 30), np.float32)}, r"observations \(7, 30\)"),
        ({"actions": np.zeros((7, 8), np.float32)}, r"actions \(7, 8\)"),
        ({"terminals": np.zeros(7, bool)}, "no terminal step"),
        ({"terminals": np.zeros(5, bool)}, r"terminals \(5,\)"),
        ({"actions": np.full((7, 9), np.nan, np.float32)}, "every number must be finite"),
        ({"observations": b"text"}, "not in D4RL's layout|D4RL's kitchen has"),
    ],
)
def test_a_foreign_layout_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(DemonstrationError, match=sentence):
        import_d4rl(write(tmp_path / "a.hdf5", **changes))


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_truncated_file_is_one_sentence(tmp_path, keep):
    path = write(tmp_path / "a.hdf5")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(DemonstrationError, match="damaged or not in D4RL's layout"):
        import_d4rl(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(DemonstrationError, match="does not exist"):
        load_demonstrations([tmp_path / "none.hdf5"], KITCHEN)


@needs_recordings
def test_the_human_recordings_hold_what_their_description_says():
    summary = summarise(load_demonstrations([COMPLETE, SEQUENCES], KITCHEN), kitchen_spec("kitchen"))
    assert (summary.episodes, summary.steps) == (115, 3680 + 20730)
    assert len(summary.sequences) == 24
    assert all("relay-policy-learning" in source["licence"] for source in summary.sources)


@needs_recordings
def test_targets_played_in_the_kitchen_complete_the_demonstration():
    kitchen = Kitchen()
    for demonstration in (import_d4rl(COMPLETE)[0], import_d4rl(SEQUENCES)[40]):
        kitchen.restore(demonstration.states[0], seed=0)
        ever: set[str] = set()
        for target in demonstration.targets:
            kitchen.step(target)
            ever |= kitchen.done()
        assert set(demonstration.elements) <= ever
    kitchen.close()
