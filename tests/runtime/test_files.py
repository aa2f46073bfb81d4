"""Writing whole files and reading those of strangers."""

import os
import re
import threading
from pathlib import Path

import pytest

from rpl_runtime.errors import BundleError, InvalidInput
from rpl_runtime.files import alone_in, check_place, locked, read, staged, translated


def test_a_file_that_is_replaced_keeps_its_mode_and_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 12345, 23456)
    before = file.stat()
    with staged(file) as staging:
        staging.write_text("after")
    after = file.stat()
    assert file.read_text() == "after"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_be_begun_is_named_as_it_was_asked_for() -> None:
    with pytest.raises(OSError, match="No such file") as refused, staged(Path("/proc/settings.json")):
        pass
    assert refused.value.filename == "/proc/settings.json"


def test_a_place_in_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(InvalidInput, match=f"{tmp_path} cannot be written to, so {tmp_path}/new/film.mp4 cannot"):
        check_place(tmp_path / "new" / "film.mp4")
    check_place(Path("film.mp4"))


def test_a_link_stays_and_leads_to_the_new_content(tmp_path: Path) -> None:
    file, link = tmp_path / "below" / "file", tmp_path / "link"
    link.symlink_to(file)  # which does not exist yet
    for text in ("first", "second"):
        with staged(link) as staging:
            staging.write_text(text)
        assert (link.is_symlink(), file.read_text()) == (True, text)
    assert os.listdir(file.parent) == ["file"]


def test_what_is_not_a_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    before = set(tmp_path.iterdir())
    for name in ("pipe", "folder", "a", "nul\0"):
        with (
            pytest.raises(OSError, match=r"must be a regular file|symbolic links|must not hold a NUL"),
            staged(tmp_path / name),
        ):
            pass
    assert set(tmp_path.iterdir()) == before


def test_a_failure_leaves_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), staged(file) as staging:
        staging.write_text(str(1 / 0))
    assert (file.read_text(), os.listdir(tmp_path)) == ("before", ["file"])


def test_a_full_disk_is_told_of_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as full, staged(tmp_path / "file"):
        Path("/dev/full").write_bytes(b"1")
    assert full.value.filename == str(tmp_path / "file")


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1234")
    assert read(file, 4) == b"1234"
    with pytest.raises(OSError, match="has 4 bytes; must be 3 or less"):
        read(file, 3)
    with pytest.raises(OSError, match="must be a regular file"):
        read(Path("/dev/null"), 4)


@pytest.mark.parametrize("what", ["pipe", "folder", "/dev/zero"])
def test_what_never_ends_is_not_read(what: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="must be a regular file"):
        read(tmp_path / what, 10)


def test_changes_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")

    def count() -> None:
        for _ in range(50):
            with locked(file):
                number = int(file.read_text())
                with staged(file) as staging:
                    staging.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "200"
    assert os.listdir(tmp_path) == ["count"]


def test_a_lock_that_is_a_pipe_or_a_link_stops_nobody_for_ever(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for make in (os.mkfifo, lambda path: os.symlink(outside, path)):
        folder = tmp_path / f"folder-{make}"
        folder.mkdir()
        make(folder / ".lock")
        try:
            with alone_in(folder):
                pass
        except OSError:
            pass
    assert not outside.exists()


def test_a_readers_errors_become_one_sentence(tmp_path: Path) -> None:
    raised = (ValueError("odd\nsecond line"), KeyError("x"), RecursionError(), MemoryError(), OSError(5, "Input"))
    for error in raised:
        with pytest.raises(BundleError) as caught, translated(tmp_path / "file", BundleError, "a thing"):
            raise error
        assert re.fullmatch(".*/file (is damaged or not a thing|cannot be read): .+", str(caught.value))
    with pytest.raises(InvalidInput, match="as it is"), translated(tmp_path / "file", BundleError, "a thing"):
        raise InvalidInput("as it is")
