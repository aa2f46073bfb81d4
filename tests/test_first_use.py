"""What a newcomer meets first: doctor, docs, new, demo, and copies of bundles."""

import errno
import json
import os
import pty
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from processes import RPL, rpl
from rpl_runtime.cli import app
from rpl_runtime.errors import BundleError, hint
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.server.server import serve_in_thread

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of a process of its own, which imports what stands in the current folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_the_doctor_says_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    well = rpl("doctor", COLUMNS="80")
    assert well.stdout.splitlines()[-1] == "everything installed works"
    assert max(map(len, well.stdout.splitlines())) <= 80
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setattr("rpl_runtime.cli.first.doctor.ADDRESS", taken)
        narrow = rpl("doctor", COLUMNS="50").stdout
    assert "…" not in narrow  # no path is cut
    assert f"{taken}: Address already in use; a" in " ".join(narrow.split())
    monkeypatch.setattr("rpl_runtime.shipped._root", lambda: Path("nowhere"))
    told = rpl("doctor", "--json")
    ill = json.loads(told.stdout)
    assert (told.returncode, ill["works"]) == (1, False)
    [broken] = [finding for finding in ill["findings"] if finding["verdict"] == "broken"]
    assert (broken["what"], "did not come with this installation" in broken["detail"]) == ("policy", True)


def test_every_page_can_be_read() -> None:
    assert "Serving" in rpl("docs", "serving").stdout
    assert rpl("docs", "docs/serving.md").stdout == rpl("docs", "serving").stdout
    listed = rpl("docs").stdout
    assert all(page.stem in listed for page in (ROOT / "docs").glob("*.md"))


def test_a_new_task_plays() -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    assert rpl("new", "task", "lights").returncode == 0
    played = run(*RPL, "demos", "play", "plays", "--task", "lights:make", "--sequences", "2", "--jobs", "1")
    assert played.returncode == 0, played.stderr
    assert len(list(Path("plays").glob("*.npz"))) == 2


def test_a_new_robot_is_driven(kitchen_bundle: Bundle) -> None:
    assert rpl("new", "robot", "arm").returncode == 0
    with serve_in_thread(kitchen_bundle) as address:
        ran = run(sys.executable, "arm.py", "--address", address, "--goal", "microwave,kettle", "--steps", "4")
        named = ("--goal", "microwave", "--steps", "4")
        driven = run(*RPL, "run", "--robot", "arm:MyRobot", "--address", address, *named)
    assert ran.stdout.startswith("4 control steps; done: "), ran.stderr
    assert "0 of 1 element done in 4 control steps" in driven.stdout, driven.stderr


def test_a_new_policy_is_two_modules_and_a_spec() -> None:
    factory = pytest.importorskip("rpl_train.export.factory", reason="needs the train extra")
    assert rpl("new", "policy", "soar").returncode == 0
    assert factory.load_factory("soar:make").spec.name == "quadrotor"


@pytest.mark.long
def test_a_new_policy_is_exported() -> None:
    pytest.importorskip("onnxscript", reason="needs the train extra")
    assert rpl("new", "policy", "fly").returncode == 0
    exported = run(*RPL, "export", "--from", "fly:make", "models/fly")
    assert exported.returncode == 0, exported.stderr
    assert load_bundle(Path("models/fly")).manifest.provenance.settings == {"factory": "fly:make"}


def test_a_bundle_is_copied_whole_and_checked(tiny_bundle: Bundle) -> None:
    assert rpl("models", "pull", tiny_bundle.path).returncode == 0  # to models/ and its name
    assert load_bundle(Path("models/tiny")).digest == tiny_bundle.digest
    with serve_in_thread(tiny_bundle) as address:
        assert rpl("models", "pull", address, "a", "--digest", tiny_bundle.digest[:8]).returncode == 0
        assert rpl("models", "pull", address, "b", "--digest", "0" * 8).returncode == 3
    assert load_bundle(Path("a")).files == dict(tiny_bundle.files)
    assert not Path("b").exists()
    again = rpl("models", "pull", tiny_bundle.path)
    assert (again.returncode, "models/tiny already holds tiny" in again.stderr) == (2, True)


def test_the_demo_serves_and_runs_a_robot() -> None:
    """The shipped policy, for real; the film is a test of the wheel's."""
    pytest.importorskip("mujoco", reason="needs the sim extra")
    shown = rpl("demo", "--no-film")
    assert "success: 2 of 2 elements done" in shown.stdout
    assert list(Path().iterdir()) == []


def test_a_near_name_is_suggested() -> None:
    assert hint("mikrowave", ["kettle", "microwave"]) == " (did you mean microwave?)"
    assert hint("window", ["kettle", "microwave"]) == ""


def test_a_page_on_a_terminal_shows_no_codes_of_colours() -> None:
    environment = os.environ | {"PAGER": "echo less is told $LESS; cat > /dev/null", "TERM": "xterm"}
    environment.pop("LESS", None)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*RPL, "docs", "glossary"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as page:
        os.close(theirs)
        shown = os.read(ours, 1000)
        page.wait()
    os.close(ours)
    assert b"less is told -FRX" in shown


@pytest.mark.parametrize(("words", "code"), [("inspect nowhere", 3), ("docs nowhere", 2), ("run --nosuch", 2)])
def test_an_error_that_cannot_be_written_keeps_its_exit_code(words: str, code: int) -> None:
    with open("/dev/full", "w") as full:
        refused = subprocess.run([*RPL, *words.split()], stderr=full, check=False)
    assert refused.returncode == code


def test_an_output_that_lacks_letters_or_columns_gets_the_text_all_the_same() -> None:
    poor = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "0"}
    page = subprocess.run([*RPL, "docs", "glossary"], env=poor, capture_output=True, text=True, check=False)
    assert (page.returncode, page.stderr) == (0, "")
    refused = subprocess.run([*RPL, "inspect", "nowhere"], env=poor, capture_output=True, text=True, check=False)
    assert "nowhere does not exist" in refused.stderr


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    refused = rpl("new", "task", "maze")
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: the current folder no longer exists; change to one that does\n",
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ValueError("Error: engine error: Could not allocate memory"),  # as MuJoCo says it
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc"),
        BundleError("high.onnx is not a graph that ONNX Runtime loads: std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_too_little_memory_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(**_: object) -> None:
        raise error

    monkeypatch.setattr(app, "command", lambda: exhausted)
    monkeypatch.setattr(app, "own_code_told", nullcontext)  # this file would be somebody's own code
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: there is not enough memory; free some, or raise this shell's limit (`ulimit -v`)\n"
    )


def test_an_output_without_space_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        told = subprocess.run([*RPL, "docs"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr == (
        "error: the standard output cannot be written: No space left on device; it must go to a disk that has space\n"
    )
