"""What people get wrong: each is refused by a sentence and an exit code, without a traceback, and changes nothing.

The table is tests/bad_inputs.txt: a command line, its exit code, and what it must say.
"""

import logging
import re
import shlex
import socket
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

import policies
from processes import rpl
from rpl_runtime.server.server import serve_in_thread
from rpl_train.data.trajectory import Trajectory, save_folder

pytest.importorskip("mujoco", reason="needs the sim extra")
pytest.importorskip("torch", reason="needs the train extra")

TABLE = [line.split(" | ") for line in (Path(__file__).parent / "bad_inputs.txt").read_text().splitlines()]
# By command: each is one test.
CASES = [(word, list(rows)) for word, rows in groupby(TABLE, lambda row: row[0].split()[0])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of what the commands are given, and the addresses in them."""
    folder = tmp_path_factory.mktemp("bad")
    kitchen = policies.kitchen_bundle(folder / "kitchen")
    for name in ("tiny", "cut", "changed"):
        policies.tiny_bundle(folder / name)
    manifest, graph = folder / "cut" / "manifest.json", folder / "changed" / "low.onnx"
    manifest.write_bytes(manifest.read_bytes()[:100])
    graph.write_bytes(graph.read_bytes() + b"0")
    (folder / "file.txt").write_text("nothing of use\n")
    (folder / "other.json").write_text('{"a": 1}')
    for name in ("empty.txt", "taken.py", "log.mcap"):
        (folder / name).touch(mode=0o644)
    for name in ("empty", "empty.mp4", "broken", "odd"):
        (folder / name).mkdir()
    (folder / "broken" / "run.json").write_text("{")
    (folder / "odd" / "run.json").write_text("{}")
    (folder / "loop").symlink_to("loop")
    carts = np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32)
    save_folder([Trajectory(*carts)], folder / "carts")
    assert rpl("tokens", "new", folder / "tokens", "arm", "--right", "act").returncode == 0
    with serve_in_thread(kitchen) as at, socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        yield folder, {"at": at, "dead": "127.0.0.1:1", "taken": taken}


def said(stderr: str) -> str:
    """What a command said, without the frame of a usage error and its line breaks."""
    return re.sub(r"[│╭╮╰╯─\s]+", " ", stderr)


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(("word", "rows"), CASES, ids=[word for word, _ in CASES])
def test_what_people_get_wrong_is_one_sentence(
    word: str, rows: list[list[str]], place: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, addresses = place
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # `rpl serve` adds its own
    before, faults = contents(folder), []
    for line, code, sentence in rows:
        refused = rpl(*(text.format(**addresses) for text in shlex.split(line)))
        heard = said(refused.stderr)
        if (str(refused.returncode), sentence in heard, "Traceback" in heard) != (code, True, False):
            faults.append(f"rpl {line}: {refused.returncode}, {heard}")
        if heard.count("error:") > 1 or contents(folder) != before:
            faults.append(f"rpl {line} says it more than once, or left {contents(folder) ^ before}")
    assert faults == []


def test_the_table_is_long_enough_and_says_nothing_twice() -> None:
    lines = [row[0] for row in TABLE]
    assert len(lines) == len(set(lines)) >= 200
