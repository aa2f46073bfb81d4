"""Recordings of the kitchen as Minari data sets."""

import json
import resource
from pathlib import Path

import minari
import numpy as np
import pytest
from typer.testing import CliRunner

from rpl_runtime.cli.app import app
from rpl_runtime.errors import InvalidInput, RecordingError
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.recording.minari import Recording, check_record, record, recording_of
from rpl_runtime.relay.run import RunResult
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, MAX_TARGET_STEP

ABOUT = {"description": "made here", "licence": "none"}


def made(steps: int = 6, after: bool = True, seed: int = 0) -> Recording:
    """Targets within reach of the readings, but for one; the microwave opens at the third observation."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-0.2, 0.2, (steps + after, 30)).astype(np.float32)
    states[2:, 22] = ELEMENTS["microwave"].goal[0]
    targets = states[:steps, :9] + rng.uniform(-0.15, 0.15, (steps, 9)).astype(np.float32)
    targets[1, 0] = states[1, 0] + 0.5
    return Recording(states, targets, ("microwave", "kettle"), f"made#{seed}")


@pytest.fixture
def small_disk():
    """Files may grow to some tens of kilobytes only, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_minari_loads_it_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert record(KITCHEN, [made(seed=0), made(seed=1)], tmp_path / "play-v0", ABOUT) == 2
    dataset = minari.load_dataset("play-v0")
    assert dataset.env_spec.id == "FrankaKitchen-v1"
    assert (dataset.total_episodes, dataset.total_steps) == (2, 12)
    assert minari.list_local_datasets()["play-v0"]["licence"] == "none"
    episode = dataset[1]
    assert np.array_equal(episode.observations["observation"], made(seed=1).states)
    assert all(dataset.observation_space.contains({"observation": o}) for o in episode.observations["observation"])
    assert all(dataset.action_space.contains(a) for a in episode.actions)
    assert np.flatnonzero(episode.truncations).tolist() == [5]


def test_an_action_leads_from_its_reading_to_its_target(tmp_path):
    recording = made()
    record(KITCHEN, [recording], tmp_path / "play-v0", ABOUT)
    (episode,) = minari.MinariDataset(tmp_path / "play-v0" / "data")
    reached = episode.observations["observation"][:-1, :9] + episode.actions * MAX_TARGET_STEP
    exact = np.abs(recording.targets - recording.states[:-1, :9]) < MAX_TARGET_STEP
    assert reached[exact] == pytest.approx(recording.targets[exact], abs=1e-6)
    assert np.argwhere(~exact).tolist() == [[1, 0]]
    assert episode.actions[1, 0] == 1.0


def test_the_reward_counts_the_elements_at_their_goal(tmp_path):
    record(KITCHEN, [made()], tmp_path / "play-v0", ABOUT)
    (episode,) = minari.MinariDataset(tmp_path / "play-v0" / "data")
    assert episode.rewards.tolist() == [0, 1, 1, 1, 1, 1]


def test_without_a_last_observation_the_last_target_stands_in_the_infos_alone(tmp_path):
    recording = made(after=False)
    record(KITCHEN, [recording], tmp_path / "play-v0", ABOUT)
    (episode,) = minari.MinariDataset(tmp_path / "play-v0" / "data")
    assert (len(episode.observations["observation"]), len(episode)) == (6, 5)
    assert np.array_equal(episode.infos["target"], recording.targets)


def test_a_data_set_grows(tmp_path):
    folder = tmp_path / "play-v0"
    assert [record(KITCHEN, [made(seed=seed)], folder, ABOUT) for seed in range(3)] == [1, 2, 3]
    found = [episode.observations["observation"] for episode in minari.MinariDataset(folder / "data")]
    assert all(np.array_equal(found[seed], made(seed=seed).states) for seed in range(3))
    assert [path.name for path in tmp_path.iterdir()] == ["play-v0"]


def test_a_folder_may_be_named_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for held in (1, 2):
        assert record(KITCHEN, [made()], Path("play-v0"), ABOUT) == held
    assert len(minari.MinariDataset(tmp_path / "play-v0" / "data")) == 2


def test_an_episode_that_was_written_and_not_counted_is_replaced(tmp_path):
    folder = tmp_path / "play-v0"
    record(KITCHEN, [made(seed=0)], folder, ABOUT)
    counted = (folder / "data" / "metadata.json").read_bytes()
    record(KITCHEN, [made(seed=1)], folder, ABOUT)
    (folder / "data" / "metadata.json").write_bytes(counted)
    assert len(minari.MinariDataset(folder / "data")) == 1
    assert record(KITCHEN, [made(seed=2)], folder, ABOUT) == 2
    last = minari.MinariDataset(folder / "data")[1]
    assert np.array_equal(last.observations["observation"], made(seed=2).states)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, small_disk):
    with pytest.raises(RecordingError, match="nothing of it is left: File too large"):
        record(KITCHEN, [made(steps=500, seed=seed) for seed in range(4)], tmp_path / "play-v0", ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_episodes_that_were_there(tmp_path, request):
    folder = tmp_path / "play-v0"
    record(KITCHEN, [made()], folder, ABOUT)
    before = {path.name: path.read_bytes() for path in (folder / "data").iterdir()}
    request.getfixturevalue("small_disk")
    with pytest.raises(RecordingError, match="its earlier episodes are kept"):
        record(KITCHEN, [made(steps=500, seed=seed) for seed in range(4)], folder, ABOUT)
    assert {path.name: path.read_bytes() for path in (folder / "data").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["play-v0"]


@pytest.mark.parametrize("name", ["play", "play-v", "a b-v0", "play-v0.1"])
def test_a_folder_must_be_named_like_a_data_set(tmp_path, name):
    with pytest.raises(InvalidInput, match="must be NAME-vN, such as play-v0"):
        check_record(KITCHEN, tmp_path / name)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "play-v0"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds no data set of kitchen that rpl wrote"):
        record(KITCHEN, [made()], folder, ABOUT)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("states", "targets", "elements", "sentence"),
    [
        ((4, 5), (4, 2), (), r"got targets \(4, 2\) with states \(4, 5\)"),
        ((6, 30), (4, 9), (), r"got targets \(4, 9\) with states \(6, 30\)"),
        ((4, 30), (4, 9), ("drawer",), "kitchen has no drawer; must be one of microwave"),
    ],
)
def test_what_is_not_of_the_kitchen_is_one_sentence(states, targets, elements, sentence, tmp_path):
    recording = Recording(np.zeros(states, np.float32), np.zeros(targets, np.float32), elements)
    with pytest.raises(InvalidInput, match=sentence):
        record(KITCHEN, [recording], tmp_path / "play-v0", ABOUT)


def test_the_command_records_its_run(tmp_path, kitchen_bundle):
    folder = tmp_path / "runs-v0"
    arguments = ["run", "--bundle", kitchen_bundle.path, "--goal", "mkbs", "--steps", 3, "--record", folder, "--json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert json.loads(result.stdout)["steps"] == 3
    (episode,) = minari.MinariDataset(folder / "data")
    assert (len(episode), len(episode.infos["target"])) == (3, 3)
    (names,) = minari.MinariDataset(folder / "data").storage.get_episode_metadata([0])
    assert names["elements"] == "microwave|kettle|bottom burner|slide cabinet"
    assert kitchen_bundle.digest[:12] in names["source"]


def test_a_run_keeps_what_was_observed_after_its_last_step():
    recording = made()
    result = RunResult(
        goal=ResolvedGoal(np.zeros(30, np.float32), np.zeros(30, np.float32)),
        digest="0" * 64,
        states=recording.states[:-1],
        targets=recording.targets,
        subgoals=recording.states[:-1],
        replanned=np.zeros(6, bool),
        done=(frozenset(),) * 6,
        final_state=recording.states[-1],
        authors=("policy",) * 6,
    )
    found = recording_of(result, ["kettle"], "here")
    assert np.array_equal(found.states, recording.states)
    assert (found.elements, found.source) == (("kettle",), "here")
