"""Files of strangers: each is read, or refused in one sentence, and leads nobody out of its folder."""

import json
import os
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard
from mcap.writer import CompressionType, Writer

from attack.files import FORMATS, spoiled
from processes import rpl
from rpl_runtime.errors import DemonstrationError, InvalidInput, RelayError
from rpl_runtime.recording.mcap import read_log
from rpl_train.data import trajectory
from rpl_train.data.lerobot import _ACTION, _STATE, import_lerobot
from rpl_train.data.trajectory import Trajectory, load, save_folder
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.minari import import_minari
from rpl_train.tasks.kitchen.task import KITCHEN

KEPT_MB = 200.0  # [MB] that reading hostile files may keep


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("files", "seed"), [(40, 0), pytest.param(1000, 1, marks=pytest.mark.long)])
def test_a_spoiled_file_is_read_or_refused_in_one_sentence(name: str, files: int, seed: int, tmp_path: Path) -> None:
    sound = FORMATS[name](tmp_path)
    content, rng, around = sound.file.read_bytes(), random.Random(f"{name} {seed}"), set(tmp_path.rglob("*"))
    sound.read()
    if name.startswith("parquet"):  # each of which is read in a process of its own, for a second
        files //= 5
    before_kb, refusals = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, list[str]()
    for _ in range(files):
        sound.file.write_bytes(spoiled(content, rng))
        try:
            sound.read()
        except RelayError as error:
            refusals.append(str(error))
    assert [refusal for refusal in refusals if "\n" in refusal] == []
    assert len(refusals) > files / 10
    assert set(tmp_path.rglob("*")) == around
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < KEPT_MB * 1000


def test_parquet_that_aborts_the_process_that_reads_it_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Its histogram of definition levels has another size than its schema says; found by the test above, seed 1."""
    sound = FORMATS["parquet of episodes"](tmp_path)
    shutil.copy(Path(__file__).with_name("aborts.parquet"), sound.file)
    with pytest.raises(DemonstrationError, match="the process that reads its Parquet files has died"):
        sound.read()


@pytest.mark.parametrize("name", FORMATS)
def test_a_pipe_in_place_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    sound = FORMATS[name](tmp_path)
    sound.file.unlink()
    os.mkfifo(sound.file, 0o600)
    with pytest.raises(RelayError):
        sound.read()


def _external_link(file: h5py.File, secret: Path) -> None:
    del file["observations"]
    file["observations"] = h5py.ExternalLink(str(secret), "observations")


def _soft_link(file: h5py.File, secret: Path) -> None:
    file.move("observations", "elsewhere")
    file["observations"] = h5py.SoftLink("/elsewhere")


def _external_storage(file: h5py.File, secret: Path) -> None:
    del file["observations"]
    file.create_dataset("observations", (6, 60), "f4", external=[(str(secret), 0, 6 * 60 * 4)])


def _virtual(file: h5py.File, secret: Path) -> None:
    del file["observations"]
    layout = h5py.VirtualLayout((6, 60), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "observations", (6, 60))
    file.create_virtual_dataset("observations", layout)


def _huge(file: h5py.File, secret: Path) -> None:
    del file["observations"]
    file.create_dataset("observations", (1 << 40, 60), "f4", chunks=(64, 60), compression="gzip")


def _never_written(file: h5py.File, secret: Path) -> None:
    for name, width in (("observations", (60,)), ("actions", (9,)), ("terminals", ())):
        del file[name]
        file.create_dataset(name, (1 << 20, *width), "f4" if width else "?", fillvalue=1)
    del file["infos"]
    file.create_dataset("infos/elements", (1 << 20,), h5py.string_dtype())


def _of_another_type(file: h5py.File, secret: Path) -> None:
    del file["observations"]
    file["observations"] = np.full((6, 60), b"x", dtype="S1")


def _complex_numbers(file: h5py.File, secret: Path) -> None:
    del file["actions"]
    file["actions"] = np.zeros((6, 9), dtype=complex)


def _infinite(file: h5py.File, secret: Path) -> None:
    file["actions"][2, 3] = np.float32(3e38)
    file["observations"][0, 0] = np.inf


def _names_that_are_numbers(file: h5py.File, secret: Path) -> None:
    del file["infos"]
    file["infos/elements"] = [1, 2]


def _names_of_any_length(file: h5py.File, secret: Path) -> None:
    del file["infos"]
    file["infos/elements"] = ["kettle|microwave", "kettle"]


def _a_group_for_numbers(file: h5py.File, secret: Path) -> None:
    del file["terminals"]
    file.create_group("terminals")


HDF5 = (
    *(_external_link, _soft_link, _external_storage, _virtual, _huge, _never_written),
    *(_of_another_type, _complex_numbers, _infinite, _names_that_are_numbers),
    *(_names_of_any_length, _a_group_for_numbers),
)


@pytest.mark.parametrize("spoil", HDF5)
def test_hdf5_that_leads_out_of_its_file_or_holds_something_else(
    spoil: Callable[[h5py.File, Path], None], tmp_path: Path
) -> None:
    sound, secret = FORMATS["d4rl"](tmp_path), tmp_path / "secret.hdf5"
    secret.write_bytes(sound.file.read_bytes())
    with h5py.File(sound.file, "a") as file:
        spoil(file, secret)
    with pytest.raises(DemonstrationError):
        import_d4rl(sound.file)


def test_the_code_that_a_data_set_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari would import the entry point of an environment to learn its spaces."""
    file = FORMATS["metadata"](tmp_path).file
    (tmp_path / "harmful.py").write_text("raise SystemExit('the code of a data set ran')")
    monkeypatch.syspath_prepend(tmp_path)
    metadata = json.loads(file.read_text())
    spec = json.loads(metadata["env_spec"]) | {"entry_point": "harmful:run"}
    del metadata["observation_space"], metadata["action_space"]
    file.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    assert len(import_minari(tmp_path / "play-v0")) == 1


def test_a_log_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(1 << 20))
    head = struct.pack("<QQQI", 0, 0, 1 << 40, 0) + struct.pack("<I", 4) + b"zstd" + struct.pack("<Q", len(bomb))
    magic = b"\x89MCAP0\r\n"
    (tmp_path / "a.mcap").write_bytes(magic + b"\x06" + struct.pack("<Q", len(head) + len(bomb)) + head + bomb)
    with pytest.raises(InvalidInput, match="unpacks to another size"):
        read_log(tmp_path / "a.mcap")
    with (tmp_path / "b.mcap").open("wb") as file:
        writer = Writer(file, compression=CompressionType.LZ4)
        writer.start()
        writer.add_message(writer.register_channel("/state", "", 0), 0, b"x", 0)
        writer.finish()
    with pytest.raises(InvalidInput, match="is compressed with 'lz4'"):
        read_log(tmp_path / "b.mcap")


def test_a_demonstration_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "_MOST_BYTES", 1 << 20)
    zeros = np.zeros((1 << 18, 2), dtype=np.float32)
    np.savez_compressed(tmp_path / "a.npz", states=zeros, targets=zeros, elements=[], source="")
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    with pytest.raises(DemonstrationError, match="it unpacks to"):
        load(tmp_path / "a.npz")


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    sound = FORMATS["result"](tmp_path)
    sound.file.write_text("[" * 100_000)
    with pytest.raises(InvalidInput, match="is not JSON"):
        sound.read()


def _one_long_text(rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 100_000]))


def _many_numbers(rows: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(30_000 * rows, np.float32)), 30_000)


@pytest.mark.parametrize(
    ("column", "made", "sentence"),
    [
        ("source", lambda: _one_long_text(1000), "its texts have 100,000,000 characters"),
        ("elements", lambda: pa.ListArray.from_arrays(range(1001), _one_long_text(1000)), "its texts have 100,000,000"),
        (_STATE, lambda: _many_numbers(1000), "it unpacks to 30,00[0-9],000 values"),
    ],
)
def test_parquet_that_unpacks_without_end_is_refused(
    column: str, made: Callable[[], pa.Array], sentence: str, tmp_path: Path
) -> None:
    file = FORMATS["parquet" if column == _STATE else "parquet of episodes"](tmp_path).file
    columns = {"episode_index": np.zeros(1000, np.int64)} | ({_ACTION: np.zeros(1000)} if column == _STATE else {})
    parquet.write_table(pa.table(columns | {column: made()}), file)
    assert file.stat().st_size < 20_000
    with pytest.raises(DemonstrationError, match=sentence):
        import_lerobot(tmp_path / "set", KITCHEN.spec)


SOURCES = ["a#../../outside", "../../a#1", "/etc/a#/etc/b", "#", "a#" + "9" * 500, "a#\0", "#.."]


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_names_no_file_outside_of_its_folder(source: str, tmp_path: Path) -> None:
    numbers = np.zeros((3, 2), dtype=np.float32)
    save_folder([Trajectory(numbers, numbers, source=source)], tmp_path / "a" / "b" / "demos")
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.npz")}
    assert len(written) == 1
    assert {path.parent for path in written} == {Path("a/b/demos")}


@pytest.mark.parametrize("command", [("inspect",), ("replay",), ("demos", "info"), ("tokens", "list"), ("evaluate",)])
def test_a_nul_in_a_path_is_one_sentence(command: tuple[str, ...]) -> None:
    ended = rpl(*command, "models\0/kitchen")
    assert ended.returncode in (1, 2, 3)
    assert "Traceback" not in ended.stderr
