"""The importer of raw logs, on small logs made here."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.tasks.kitchen.elements import TARGET_HIGH, TARGET_LOW
from rpl_train.tasks.kitchen.mjl import import_mjl, import_mjl_folder

SIZES = (30, 29, 9)
EXTRA = (1, 2, 3)  # mocap bodies, sensor values, user values


def log(path: Path, seconds: float = 0.4, period: float = 0.002, begin: float = 7.0, seed: int = 0, **changes) -> Path:
    """Write a log in which each number differs from every other."""
    mocap, sensors, user = EXTRA
    times = begin + period * np.arange(round(seconds / period))
    width = sum(SIZES) + 7 * mocap + sensors + user
    rows = np.random.default_rng(seed).uniform(-1, 1, (len(times), width))
    records = np.column_stack([changes.get("times", times), changes.get("rows", rows)]).astype("<f4")
    name = b"kitchen\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack("<7i", *changes.get("sizes", SIZES), *EXTRA, len(name))
    path.write_bytes(header + name + records.tobytes())
    return path


def records_of(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), "<f4", offset=28 + 8).reshape(-1, 1 + sum(SIZES) + 7 + 2 + 3)


@pytest.mark.parametrize(("period", "stride"), [(0.002, 40), (0.004, 20), (0.01, 8), (0.08, 1)])
def test_one_record_is_kept_for_each_control_step(tmp_path, period, stride):
    path = log(tmp_path / "a.mjl", 0.4, period)
    found, records = import_mjl(path), records_of(path)[::stride]
    assert np.array_equal(found.states, records[:, 1:31])
    assert np.array_equal(found.targets, np.clip(records[:, 60:69], TARGET_LOW, TARGET_HIGH))
    assert len(found) == 5
    assert found.source == "a.mjl#0"


def test_the_folder_of_the_release_names_the_elements(tmp_path):
    found = import_mjl(log(tmp_path / "friday_microwave_topknob_switch_hinge" / "a.mjl"))
    assert found.elements == ("microwave", "top burner", "light switch", "hinge cabinet")


def test_elsewhere_the_elements_are_those_it_completes(tmp_path):
    rows = np.zeros((200, sum(SIZES) + 12))
    rows[100:, 22], rows[150:, 19] = -0.75, 0.37
    assert import_mjl(log(tmp_path / "a.mjl", rows=rows)).elements == ("microwave", "slide cabinet")


@pytest.mark.parametrize("period", [0.003, 0.05, 0.1, 0.5])
def test_another_control_rate_is_one_sentence(tmp_path, period):
    with pytest.raises(DemonstrationError, match=r"a record every .* held for 80 ms"):
        import_mjl(log(tmp_path / "a.mjl", 5.0, period))


def test_a_log_with_a_hole_is_one_sentence(tmp_path):
    times = 0.002 * np.arange(4000)
    times[2000:] += 0.06
    with pytest.raises(DemonstrationError, match="62 ms at the longest"):
        import_mjl(log(tmp_path / "a.mjl", 8.0, times=times))


@pytest.mark.parametrize("times", [np.zeros(200), np.arange(200, 0, -1), np.full(200, np.nan)])
def test_times_must_go_forward(tmp_path, times):
    with pytest.raises(DemonstrationError, match="do not increase"):
        import_mjl(log(tmp_path / "a.mjl", times=times))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x1e\0\0\0", "has 4 bytes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not a MuJoCo log of this kitchen"),
        (
            struct.pack("<7i", 14, 14, 8, 0, 0, 0, 0) + bytes(400),
            r"sizes \(14, 14, 8, 0, 0, 0, 0\); must be \(30, 29, 9\)",
        ),
        (struct.pack("<7i", *SIZES, -1, 0, 0, 0) + bytes(400), "four that are not negative"),
        (struct.pack("<7i", *SIZES, 0, 0, 0, 2**30) + bytes(400), "is truncated"),
        (struct.pack("<7i", *SIZES, 0, 0, 0, 0), "is truncated"),
    ],
)
def test_a_foreign_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.mjl"
    path.write_bytes(content)
    with pytest.raises(DemonstrationError, match=sentence):
        import_mjl(path)


def test_a_log_cut_anywhere_is_one_sentence(tmp_path_factory):
    whole = log(tmp_path_factory.mktemp("whole") / "a.mjl", 0.16).read_bytes()
    record = 4 * (1 + sum(SIZES) + 12)

    @given(st.integers(0, len(whole) - 1).filter(lambda size: (size - 36) % record))
    def cut(size):
        path = tmp_path_factory.mktemp("cut") / "a.mjl"
        path.write_bytes(whole[:size])
        with pytest.raises(DemonstrationError):
            import_mjl(path)

    cut()


def test_a_number_that_is_not_finite_is_named(tmp_path):
    rows = np.zeros((200, sum(SIZES) + 12))
    rows[80, 4] = np.nan
    with pytest.raises(DemonstrationError, match=r"a\.mjl#0: state 4 at step 2 is nan"):
        import_mjl(log(tmp_path / "a.mjl", rows=rows))


def test_a_folder_reads_copies_once_and_names_what_it_leaves_out(tmp_path):
    first = log(tmp_path / "friday_kettle" / "a.mjl")
    log(tmp_path / "friday_hinge" / "b.mjl", seed=1)
    (tmp_path / "friday_kettle" / "a (1).mjl").write_bytes(first.read_bytes())
    (tmp_path / "friday_kettle" / "c.mjl").write_bytes(first.read_bytes()[:-7])
    found = import_mjl_folder(tmp_path)
    assert [t.source for t in found.trajectories] == ["b.mjl#0", "a.mjl#0"]
    assert len(found.left_out) == 1
    assert "c.mjl is truncated" in found.left_out[0]


def test_a_folder_without_a_sound_log_is_one_sentence(tmp_path):
    (tmp_path / "a.mjl").touch()
    with pytest.raises(DemonstrationError, match=r"holds no MuJoCo log that can be read: .*a\.mjl is empty"):
        import_mjl_folder(tmp_path)
