"""LeRobot data sets: by the published layout, back to the bit, and one sentence for what is not one."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import drawers
from processes import rpl
from rpl_runtime.errors import DemonstrationError, InvalidInput, MissingExtra
from rpl_runtime.relay.run_state import POLICY
from rpl_train.data.lerobot import export_lerobot, import_lerobot
from rpl_train.data.trajectory import Trajectory, digest, save_folder
from rpl_train.tasks import load_task

TASK = drawers.TASK
KITCHEN = load_task("kitchen")
DEFAULT = ["timestamp", "frame_index", "episode_index", "index", "task_index"]  # columns of every LeRobot data set


def made(task=TASK, count: int = 3) -> list[Trajectory]:
    """Demonstrations whose numbers have every bit in use, some of them with authors."""
    rng, spec = np.random.default_rng(0), task.spec
    elements = tuple(spec.elements)
    return [
        Trajectory(
            rng.normal(size=(4 + number, spec.state.dim)).astype(np.float32),
            rng.normal(size=(4 + number, spec.action.dim)).astype(np.float32),
            elements[:number],
            f"run {number}.mcap#0",
            (POLICY, "gamepad", POLICY, POLICY, "gamepad", POLICY)[: 4 + number] if number != 1 else (),
        )
        for number in range(count)
    ]


def same(one: Trajectory, other: Trajectory) -> bool:
    texts = all(getattr(one, name) == getattr(other, name) for name in ("elements", "source", "authors"))
    return texts and digest([one]) == digest([other])


@pytest.mark.parametrize("task", [TASK, KITCHEN], ids=lambda task: task.name)
def test_demonstrations_come_back_to_the_bit(task, tmp_path: Path) -> None:
    trajectories = made(task)
    export_lerobot(task, trajectories, tmp_path / "set", "CC0")
    again = import_lerobot(tmp_path / "set", task.spec)
    assert len(again) == 3
    for one, other in zip(trajectories, again, strict=True):
        assert same(one, other)


def test_the_data_set_has_the_published_layout(tmp_path: Path) -> None:
    """What lerobot 0.6 reads: its files, its columns with their types, its features and its rows of episodes."""
    trajectories = made(KITCHEN)
    export_lerobot(KITCHEN, trajectories, tmp_path / "set", "CC0")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == (
        "v3.0",
        12.5,
        3,
        15,
    )
    assert info["data_path"].format(chunk_index=0, file_index=0) == "data/chunk-000/file-000.parquet"
    assert info["splits"] == {"train": "0:3"}
    data = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string()}
    assert set(data.column_names) == set(info["features"]) == {"observation.state", "action", *DEFAULT, "author"}
    for name, feature in info["features"].items():
        kind, size = kinds[feature["dtype"]], feature["shape"][0]
        assert data.schema.field(name).type == (kind if size == 1 else pa.list_(kind, size)), name
    assert info["features"]["observation.state"]["names"] == list(KITCHEN.spec.state.names)
    assert data["frame_index"].to_pylist() == [*range(4), *range(5), *range(6)]
    assert data["index"].to_pylist() == list(range(15))
    np.testing.assert_allclose(data["timestamp"].to_numpy()[:4], [0, 0.08, 0.16, 0.24], rtol=1e-6)
    episodes = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert (episodes["dataset_from_index"], episodes["dataset_to_index"]) == ([0, 4, 9], [4, 9, 15])
    assert episodes["length"] == [4, 5, 6]
    assert [
        set(episodes[f"{part}/{what}_index"]) for part in ("data", "meta/episodes") for what in ("chunk", "file")
    ] == [{0}] * 4
    tasks = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert [[tasks["task"][int(at)].as_py()] for at in data["task_index"].to_numpy()[[0, 4, 9]]] == episodes["tasks"]
    statistics = json.loads((tmp_path / "set/meta/stats.json").read_text())["action"]
    every = np.concatenate([each.targets for each in trajectories]).astype(np.float64)
    np.testing.assert_allclose(statistics["mean"], every.mean(axis=0))
    np.testing.assert_allclose(statistics["std"], every.std(axis=0))
    assert (len(statistics["min"]), statistics["count"]) == (9, [15])


def test_a_video_has_a_picture_of_each_step(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    trajectories = [
        Trajectory(each.states[:2], each.targets[:2], each.elements, each.source) for each in made(KITCHEN, 2)
    ]
    at_rest = KITCHEN.scenery().rest if KITCHEN.scenery else np.zeros(30)
    trajectories = [Trajectory(np.stack([at_rest] * 2), each.targets, each.elements) for each in trajectories]
    export_lerobot(KITCHEN, trajectories, tmp_path / "set", "CC0", video=True)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    [key] = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    video = tmp_path / "set" / info["video_path"].format(video_key=key, chunk_index=0, file_index=0)
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 4
    episodes = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert episodes[f"videos/{key}/from_timestamp"] == [0.0, 0.16]
    assert episodes[f"videos/{key}/to_timestamp"] == [0.16, 0.32]
    assert len(import_lerobot(tmp_path / "set", KITCHEN.spec)) == 2


def test_the_commands_export_and_import(tmp_path: Path) -> None:
    save_folder(made(), tmp_path / "demos")
    task = ("--task", "drawers:make")
    ran = rpl("demos", "export", tmp_path / "demos", "--lerobot", tmp_path / "set", *task)
    assert (ran.returncode, ran.stdout) == (0, f"3 demonstrations written to {tmp_path / 'set'}\n"), ran.stderr
    ran = rpl("demos", "import", tmp_path / "set", "--out", tmp_path / "again", *task)
    assert ran.returncode == 0, ran.stderr
    for path in (tmp_path / "demos").iterdir():
        assert np.load(tmp_path / "again" / path.name)["states"].tobytes() == np.load(path)["states"].tobytes()
    ran = rpl("demos", "export", tmp_path / "demos", "--lerobot", tmp_path / "set", *task)
    assert ran.returncode == 2
    assert "a LeRobot data set never replaces a folder" in ran.stderr
    ran = rpl("demos", "export", tmp_path / "demos", *task)
    assert ran.returncode == 2
    assert "give either --minari or --lerobot" in ran.stderr


@pytest.fixture
def changed(tmp_path: Path):
    """A data set whose info is changed."""

    def change(**values) -> Path:
        export_lerobot(TASK, made(), tmp_path / "set", "CC0")
        path = tmp_path / "set/meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return tmp_path / "set"

    return change


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"codebase_version": "v2.1"}, "is a LeRobot data set of version v2.1; must be v3.0"),
        ({"fps": 30}, "has 30 steps a second; must be 10"),
        ({"features": {}}, "is damaged or not a LeRobot data set v3.0"),
    ],
)
def test_another_data_set_is_one_sentence(changed, values, sentence: str) -> None:
    with pytest.raises(DemonstrationError, match=sentence):
        import_lerobot(changed(**values), TASK.spec)


def test_a_damaged_or_a_strangers_data_set_is_one_sentence(changed) -> None:
    folder = changed()
    with pytest.raises(DemonstrationError, match="has other names of states and actions than kitchen"):
        import_lerobot(folder, KITCHEN.spec)
    (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 and then nothing PAR1")
    with pytest.raises(DemonstrationError, match="is damaged or not a LeRobot data set"):
        import_lerobot(folder, TASK.spec)
    (folder / "data/chunk-000/file-000.parquet").unlink()
    with pytest.raises(DemonstrationError, match="its Parquet files are not there"):
        import_lerobot(folder, TASK.spec)


def test_nothing_is_left_of_a_data_set_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="drawers has no renderer"):
        export_lerobot(TASK, made(), tmp_path / "set", "CC0", video=True)
    with pytest.raises(InvalidInput, match="at least one demonstration"):
        export_lerobot(TASK, [], tmp_path / "set", "CC0")
    with pytest.raises(DemonstrationError, match="has states of 3"):
        export_lerobot(KITCHEN, made(), tmp_path / "set", "CC0")
    assert not list(tmp_path.iterdir())
