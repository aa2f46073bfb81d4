"""Demonstrations in Minari data sets: those that rpl writes, and those of the public layout."""

import json
import shutil
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, TARGET_HIGH, TARGET_LOW
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
from rpl_train.data.minari import export_minari
from rpl_train.data.trajectory import Trajectory, digest
from rpl_train.tasks.kitchen.minari import import_minari, is_minari_folder, is_minari_name
from rpl_train.tasks.kitchen.task import KITCHEN

ENTRY_POINT = "gymnasium_robotics.envs.franka_kitchen:KitchenEnv"


def made(steps: int = 5, seed: int = 0, elements=("kettle",)) -> Trajectory:
    rng = np.random.default_rng(seed)
    states = rng.normal(0, 1, (steps, 30)).astype(np.float32)
    return Trajectory(states, rng.normal(0, 1, (steps, 9)).astype(np.float32), elements, f"made#{seed}")


def public(
    data: Path, spec: EnvSpec | None = None, width: int = 59, episodes: int = 2, steps: int = 4, observation=None
) -> Path:
    """Write a data set as the public ones are laid out: nested goals, T + 1 observations, `ctrl` in the infos."""
    box = gymnasium.spaces.Box
    goals = {"kettle": box(-np.inf, np.inf, (7,), np.float64)}
    observed = gymnasium.spaces.Dict(
        {
            "observation": box(-np.inf, np.inf, (width,), np.float64),
            "achieved_goal": gymnasium.spaces.Dict(goals),
            "desired_goal": gymnasium.spaces.Dict(goals),
        }
    )
    data.parent.mkdir(parents=True, exist_ok=True)
    storage = MinariStorage.new(
        data, observed, box(-1, 1, (9,), np.float64), spec or EnvSpec("FrankaKitchen-v1", ENTRY_POINT)
    )
    storage.update_metadata({"dataset_id": "D4RL/kitchen/made-v2", "minari_version": minari.__version__})
    rng = np.random.default_rng(0)
    kettle = {"kettle": np.zeros((steps + 1, 7))}
    storage.update_episodes(
        EpisodeBuffer(
            observations={
                "observation": rng.uniform(-0.5, 0.5, (steps + 1, width))
                if observation is None
                else np.tile(observation, (steps + 1, 1)),
                "achieved_goal": kettle,
                "desired_goal": kettle,
            },
            actions=rng.uniform(-1, 1, (steps, 9)),
            rewards=[0.0] * steps,
            terminations=[False] * steps,
            truncations=[False] * steps,
            infos={"ctrl": np.zeros((steps + 1, 9))},
        )
        for _ in range(episodes)
    )
    return data


def test_reading_back_gives_the_same_demonstrations(tmp_path):
    written = [made(seed=0), made(9, 1, ("microwave", "hinge cabinet")), made(2, 2, ())]
    assert export_minari(KITCHEN, written, tmp_path / "play-v0", "none") == 3
    found = import_minari(tmp_path / "play-v0")
    assert digest(found) == digest(written)
    assert [(t.elements, t.source) for t in found] == [(t.elements, t.source) for t in written]
    assert all(t.states.dtype == t.targets.dtype == np.float32 for t in found)


def test_the_public_layout_becomes_positions_and_targets(tmp_path):
    first, second = import_minari(public(tmp_path / "data"))
    raw = minari.MinariDataset(tmp_path / "data")[1]
    observed = raw.observations["observation"]
    assert second.states == pytest.approx(np.hstack([observed[:4, :9], observed[:4, 18:39]]))
    expected = np.clip(observed[:4, :9] + raw.actions * MAX_TARGET_STEP, TARGET_LOW, TARGET_HIGH)
    assert second.targets == pytest.approx(expected, abs=1e-6)
    assert (len(first), len(second), second.source) == (4, 4, "D4RL/kitchen/made-v2#1")


def test_the_positions_stand_where_the_environment_puts_them(tmp_path):
    with open_kitchen() as kitchen:
        observation, _ = kitchen._env.reset(seed=0)
        found, _ = import_minari(public(tmp_path / "data", observation=observation["observation"]))
        assert found.states[0] == pytest.approx(kitchen.qpos, abs=0.02)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (EnvSpec("AdroitHandDoor-v1", "elsewhere:Door"), "is of AdroitHandDoor-v1; only FrankaKitchen-v1 can be read"),
        (EnvSpec("FrankaKitchen-v1", ENTRY_POINT, kwargs={"frame_skip": 20}), "recorded at 25 Hz; .* only 12.5 Hz"),
    ],
)
def test_another_environment_or_rate_is_one_sentence(tmp_path, spec, sentence):
    with pytest.raises(DemonstrationError, match=sentence):
        import_minari(public(tmp_path / "data", spec))


def test_a_data_set_of_no_environment_is_one_sentence(tmp_path):
    data = public(tmp_path / "data")
    metadata = json.loads((data / "metadata.json").read_text())
    del metadata["env_spec"]
    (data / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DemonstrationError, match="is of no environment; only FrankaKitchen-v1"):
        import_minari(tmp_path)


def test_other_observations_are_one_sentence(tmp_path):
    with pytest.raises(DemonstrationError, match=r"observations are \(5, 60\); FrankaKitchen-v1 has \(T, 59\)"):
        import_minari(public(tmp_path / "data", width=60))


def test_observations_without_names_are_one_sentence(tmp_path):
    storage = MinariStorage.new(
        tmp_path / "data",
        gymnasium.spaces.Box(-1, 1, (59,), np.float64),
        gymnasium.spaces.Box(-1, 1, (9,), np.float64),
        EnvSpec("FrankaKitchen-v1", ENTRY_POINT),
    )
    storage.update_metadata({"dataset_id": "D4RL/kitchen/made-v2", "minari_version": minari.__version__})
    ends = {"rewards": [0.0], "terminations": [False], "truncations": [True]}
    storage.update_episodes([EpisodeBuffer(observations=np.zeros((2, 59)), actions=np.zeros((1, 9)), **ends)])
    with pytest.raises(DemonstrationError, match=r"is damaged or not a Minari data set|cannot be read: No such file"):
        import_minari(tmp_path)


def test_a_data_set_without_episodes_is_one_sentence(tmp_path):
    with pytest.raises(DemonstrationError, match="holds no episode"):
        import_minari(public(tmp_path / "data", episodes=0))


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_truncated_data_set_is_one_sentence(tmp_path, name, keep):
    path = public(tmp_path / "data") / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DemonstrationError, match=r"is damaged or not a Minari data set|cannot be read: No such file"):
        import_minari(tmp_path)


def test_a_missing_part_is_one_sentence(tmp_path):
    (public(tmp_path / "data") / "main_data.hdf5").unlink()
    with pytest.raises(DemonstrationError, match=r"is damaged or not a Minari data set|cannot be read: No such file"):
        import_minari(tmp_path)


def test_a_name_is_looked_up_in_the_store_and_then_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    prepared = public(tmp_path / "data")
    asked = []

    def download(name):
        asked.append(name)
        shutil.copytree(prepared, tmp_path / "store" / name / "data")

    monkeypatch.setattr(minari, "download_dataset", download)
    for _ in range(2):
        assert len(import_minari(Path("D4RL/kitchen/complete-v2"))) == 2
    assert asked == ["D4RL/kitchen/complete-v2"]


def test_a_name_that_cannot_be_downloaded_is_one_sentence(tmp_path, monkeypatch):
    def offline(_name):
        raise ConnectionError("no route to host")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(minari, "download_dataset", offline)
    with pytest.raises(
        DemonstrationError, match="run `minari download D4RL/kitchen/mixed-v2` with a network: no route"
    ):
        import_minari(Path("D4RL/kitchen/mixed-v2"))


def test_names_and_folders_are_told_apart(tmp_path):
    assert is_minari_name("D4RL/kitchen/complete-v2")
    assert not any(map(is_minari_name, ("a.hdf5", "/there/play-v0", "folder", "../play-v0", "play-v0/data")))
    assert is_minari_folder(public(tmp_path / "data").parent)
    assert not is_minari_folder(tmp_path / "none")
