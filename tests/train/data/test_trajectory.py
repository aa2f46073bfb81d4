"""Demonstrations on disk."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.files import staged
from rpl_train.data.trajectory import Trajectory, digest, load, load_folder, save

finite = st.floats(-10, 10, width=32)


def arrays(columns):
    return st.integers(2, 6).flatmap(lambda rows: hnp.arrays(np.float32, (rows, columns), elements=finite))


@given(arrays(3))
def test_a_demonstration_survives_the_round_trip(tmp_path_factory, states):
    path = tmp_path_factory.mktemp("t") / "a.npz"
    made = Trajectory(states, states[:, :2] + 1, ("kettle",), "here#0")
    save(made, path)
    found = load(path)
    assert np.array_equal(found.states, made.states)
    assert np.array_equal(found.targets, made.targets)
    assert (found.elements, found.source) == (made.elements, made.source)
    assert digest([found]) == digest([made])
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["states", "targets"])
def test_a_number_that_is_not_finite_is_named(which, bad):
    arrays = {"states": np.zeros((4, 3), np.float32), "targets": np.zeros((4, 2), np.float32)}
    arrays[which][2, 1] = bad
    with pytest.raises(DemonstrationError, match=rf"here: {which[:-1]} 1 at step 2 is {bad}"):
        Trajectory(**arrays, source="here")


@pytest.mark.parametrize("shapes", [((4, 3), (5, 2)), ((1, 3), (1, 2)), ((4,), (4, 2))])
def test_shapes_must_agree(shapes):
    with pytest.raises(DemonstrationError, match="the same T >= 2"):
        Trajectory(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_foreign_file_is_one_sentence(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DemonstrationError, match="not a demonstration written by"):
        load_folder(tmp_path)


@given(st.data())
def test_a_damaged_file_is_one_sentence_or_still_a_demonstration(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "a.npz"
    write = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    zeros = np.zeros((4, 2), np.float32)
    write(path, states=zeros, targets=zeros, elements=np.array(["kettle"]), source=np.array("here"))
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(DemonstrationError):
        load(path)


def test_what_is_almost_a_demonstration_is_one_sentence(tmp_path):
    zeros = np.zeros((4, 2), np.float32)
    np.save(tmp_path / "a.npy", zeros)
    (tmp_path / "a.npy").rename(tmp_path / "array.npz")
    np.savez(tmp_path / "name.npz", states=zeros, targets=zeros, elements=np.array("kettle"), source=np.array("here"))
    for name in ("array", "name"):
        with pytest.raises(DemonstrationError, match=rf"{name}\.npz is damaged or not a demonstration"):
            load(tmp_path / f"{name}.npz")


def test_an_empty_folder_says_what_fills_it(tmp_path):
    with pytest.raises(DemonstrationError, match="rpl demos import"):
        load_folder(tmp_path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_args, **_arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        save(Trajectory(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32)), tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_was_cut_off_is_not_taken_for_a_demonstration(tmp_path):
    whole = Trajectory(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32))
    with staged(tmp_path / "b.npz") as cut_off:
        cut_off.write_bytes(b"half")
        save(whole, tmp_path / "a.npz")
        assert len(load_folder(tmp_path)) == 1
