"""Recordings of every kind, read and written by the commands."""

import re
import resource
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rpl_runtime.errors import DemonstrationError, InvalidInput, RecordingError
from rpl_train.cli.app import register
from rpl_train.data.minari import export_minari
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.trajectory import Trajectory, digest, load_folder, save_folder
from rpl_train.tasks.kitchen.task import KITCHEN

REST = [0.15, -1.77, 1.84, -2.48, 0.26, 0.71, 1.6, 0.04, 0.04, *[0.0] * 14, -0.27, 0.35, 1.62, 1.0, 0.0, 0.0, 0.0]


def made(count: int = 3, steps: int = 4, width: int = 30) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    states = [rng.normal(0, 1, (steps, width)).astype(np.float32) for _ in range(count)]
    return [Trajectory(s, s[:, :9], ("kettle",), f"made#{index}") for index, s in enumerate(states)]


def log(path: Path, bend: float = 0.0) -> Path:
    """A raw log of an arm that rests."""
    records = np.zeros((121, 69), dtype="<f4")
    records[:, 0] = 0.002 * np.arange(121)
    records[:, 1:31] = REST
    records[:, 60:69] = REST[:9]
    records[:, 60] += bend
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<7i", 30, 29, 9, 0, 0, 0, 0) + records.tobytes())
    return path


def d4rl(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((3, 60), np.float32)
        file["actions"] = np.zeros((3, 9), np.float32)
        file["terminals"] = np.array([False, False, True])
    return path


def run(*arguments: str | Path):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["demos", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def small_disk():
    """Files may grow to a few hundred kilobytes only, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_kind_of_recording_is_known(tmp_path):
    save_folder(made(), tmp_path / "folder")
    export_minari(KITCHEN, made(), tmp_path / "play-v0", "none")
    paths = [
        tmp_path / "folder",
        tmp_path / "play-v0",
        tmp_path / "play-v0" / "data",
        log(tmp_path / "a.mjl"),
        log(tmp_path / "logs" / "friday_kettle" / "b.mjl").parents[1],
        d4rl(tmp_path / "c.hdf5"),
    ]
    found = load_demonstrations(paths, KITCHEN)
    assert [(source["name"], source["episodes"]) for source in found.sources] == [
        ("folder", 3),
        ("play-v0", 3),
        ("data", 3),
        ("a.mjl", 1),
        ("logs", 1),
        ("c.hdf5", 1),
    ]
    assert digest(found.trajectories[:3]) == digest(found.trajectories[3:6]) == digest(made())


@pytest.mark.parametrize("name", ["none.hdf5", "none", "none.mjl"])
def test_a_missing_path_is_one_sentence(tmp_path, name):
    with pytest.raises(DemonstrationError, match=f"{name} does not exist"):
        load_demonstrations([tmp_path / name], KITCHEN)


@pytest.mark.parametrize("name", ["a.hdf5", "a.mjl", "folder/a.npz", "play-v0/data/metadata.json"])
def test_a_file_of_zero_length_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(DemonstrationError):
        load_demonstrations([tmp_path / name.split("/")[0]], KITCHEN)


def test_import_says_what_it_leaves_out(tmp_path):
    log(tmp_path / "logs" / "a.mjl")
    (tmp_path / "logs" / "b.mjl").touch()
    result = run("import", tmp_path / "logs", "--out", tmp_path / "out")
    assert re.search(r"left out: .*b\.mjl is empty", result.output)
    assert "1 demonstration written" in result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-00000.npz"]


def test_import_replays_through_the_physics(tmp_path):
    path = log(tmp_path / "friday_kettle" / "a.mjl", bend=0.3)
    result = run("import", path, "--replay", "--out", tmp_path / "out")
    assert "0 of 1 demonstrations complete all their elements" in result.output
    (found,) = load_folder(tmp_path / "out")
    assert found.states[-1, 0] > REST[0] + 0.1  # the log's own states never moved


def test_what_is_exported_is_imported_again(tmp_path):
    save_folder(made(), tmp_path / "folder")
    assert "now holds 3" in run("export", tmp_path / "folder", "--minari", tmp_path / "play-v0").output
    assert "now holds 6" in run("export", tmp_path / "folder", "--minari", tmp_path / "play-v0").output
    run("import", tmp_path / "folder", "--out", tmp_path / "again")
    assert digest(load_folder(tmp_path / "again")) == digest(made())


def test_a_full_disk_keeps_what_was_written(tmp_path, small_disk):
    demonstrations = [*made(2), *made(1, steps=4000)]
    demonstrations[2] = Trajectory(demonstrations[2].states, demonstrations[2].targets, (), "long#2")
    with pytest.raises(RecordingError, match=r"took 2 of 3 .* are kept; long-00002\.npz .*: File too"):
        save_folder(demonstrations, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-00000.npz", "made-00001.npz"]
    assert digest(load_folder(tmp_path)) == digest(made(2))


def test_two_demonstrations_of_one_name_are_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"would be called made-00000\.npz"):
        save_folder([*made(1), *made(1)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_demonstrations_is_not_added_to(tmp_path):
    save_folder(made(2), tmp_path)
    save_folder(made(2), tmp_path)  # the same again
    other = Trajectory(made(1)[0].states, made(1)[0].targets, (), "scripted play, human order, seed 0 #0")
    with pytest.raises(InvalidInput, match=r"holds other demonstrations, such as made-00000\.npz"):
        save_folder([other], tmp_path)
    save_folder([other], tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["scripted-play-human-order-seed-0-00000.npz"]
