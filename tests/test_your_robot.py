"""The pages docs/your-policy.md and docs/your-robot.md, followed literally in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

from processes import rpl
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.recording.mcap import read_log
from rpl_runtime.server.server import serve_in_thread
from source import ROOT


def page(name: str) -> tuple[list[str], list[str]]:
    """The Python blocks of a page, and its commands."""
    text = (ROOT / "docs" / name).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE), re.findall(
        r"^    (rpl .*)$", text, re.M
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_table_of_operators: None) -> Path:
    """Where both modules are written and the policy is exported, as the pages say."""
    folder = tmp_path_factory.mktemp("own")
    [policy], commands = page("your-policy.md")
    (folder / "my_policy.py").write_text(policy)
    (folder / "my_robot.py").write_text(page("your-robot.md")[0][0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in commands:
            ran = rpl(*shlex.split(line)[1:])
            assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
    return folder


def test_the_policy_of_the_page_becomes_a_bundle(folder: Path) -> None:
    spec = load_bundle(folder / "models" / "cart").spec
    assert (spec.name, list(spec.elements), spec.horizon) == ("cart", ["at the door", "at the window"], 10)


def test_the_robot_of_the_page_reaches_the_goal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    [line] = page("your-robot.md")[1]
    ran = rpl(*shlex.split(line)[1:], "--log", "run.mcap")
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    log = read_log(folder / "run.mcap")
    assert (log.header.robot, log.header.spec.name, len(log.steps)) == ("Cart", "cart", 200)
    assert rpl(*shlex.split(line)[1:], "--steps", "1").returncode == 1  # not yet there


def test_the_python_of_the_page_drives_it(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(folder)
    _, python = page("your-robot.md")[0]
    with serve_in_thread(load_bundle(folder / "models" / "cart")) as address:
        exec(compile("from my_robot import Cart\n" + python.replace("127.0.0.1:50051", address), "page", "exec"), {})
    assert capsys.readouterr().out == "100 control steps; done: at the door\n"


@pytest.mark.parametrize(
    ("robot", "sentence"),
    [
        ("my_robot:Boat", "my_robot has no factory 'Boat'; it has "),
        ("nowhere:Cart", "there is no module 'nowhere'"),
        (
            "my_robot:half",
            "my_robot:half lacks apply, close, done, observe, reset, stop; must be a rpl_runtime.robots.Robot",
        ),
        ("my_robot:Live", "my_robot:Live lacks limit_violations, profile; must be a rpl_runtime.robots.LiveRobot"),
        ("boat", "there is no robot 'boat'; must be kitchen, franka or MODULE:CLASS"),
    ],
)
def test_a_class_that_is_not_a_robot_is_one_sentence(folder, monkeypatch, robot: str, sentence: str) -> None:
    monkeypatch.chdir(folder)
    module = page("your-robot.md")[0][0]
    module += (
        "\nclass Live(Cart):\n    waits = False\n\ndef half():\n    return type('', (), {'waits': True, 'ages': 0})()\n"
    )
    name = f"module_{robot.partition(':')[2].lower()}"  # a module is imported once
    (folder / f"{name}.py").write_text(module)
    ran = rpl("run", "--robot", robot.replace("my_robot", name), "--bundle", "models/cart", "--goal", "at the door")
    assert ran.returncode == 2
    assert sentence.replace("my_robot", name) in " ".join(ran.stderr.replace("│", " ").split())


def test_what_a_robot_raises_is_one_sentence_with_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    module = page("your-robot.md")[0][0]
    module += "\nclass Mute(Cart):\n    def done(self):\n        raise OSError('the line is dead')\n"
    (folder / "muted.py").write_text(module)
    ran = rpl("run", "--robot", "muted:Mute", "--bundle", "models/cart", "--goal", "at the door")
    line = len(module.splitlines())
    assert ran.stderr.endswith(
        f"error: your own code fails in done: OSError: the line is dead (muted.py, line {line})\n"
    )
    assert ran.returncode == 2
