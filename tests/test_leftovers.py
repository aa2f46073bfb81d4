"""A test that leaves something behind fails, and no other test does."""

import os
import sys

import pytest

CONFTEST = """
import leftovers
from leftovers import *
leftovers.WAIT_S = 0.1
leftovers.ROOT = leftovers.Path(__file__).parent / "source"
leftovers.ROOT.mkdir()
"""
LEAKS = """
import pathlib, socket, subprocess, sys, tempfile, threading

kept = []

def test_child():
    kept.append(subprocess.Popen(["sleep", "1000"]))

def test_orphan():
    subprocess.run("sleep 1001 &", shell=True, check=True)

def test_thread():
    threading.Thread(target=threading.Event().wait, name="endless", daemon=True).start()

def test_socket():
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_file():
    pathlib.Path(tempfile.gettempdir(), "forgotten").touch()

def test_clean(tmp_path):
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)):
        subprocess.run(["true"], check=True)

def test_source():
    pathlib.Path("source", "written").touch()
"""


def test_a_test_that_leaves_something_behind_fails_and_no_other(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(LEAKS)
    ran = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    ran.assert_outcomes(passed=7, errors=6)
    ran.stdout.re_match_lines_random(
        [
            "left behind: processes sleep 1000",
            "left behind: processes sleep 1001",
            "left behind: threads endless",
            r"left behind: sockets tcp, port \d+ to port 0",
            "left behind: files .*forgotten",
            "tests wrote into the source tree: .*written",
            *(f"ERROR .*::test_{name}" for name in ("child", "orphan", "thread", "socket", "file", "source")),
        ]
    )
