"""`rpl run` with a Franka: what it asks for, what it says, and how it ends."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fake_clock import FakeClock
from live_robot import FakeArm
from rpl_runtime.cli.app import app
from rpl_runtime.cli.report import drive_facts, print_drive
from rpl_runtime.cli.run import exit_code
from rpl_runtime.client.budget import TimeBudget
from rpl_runtime.errors import InvalidInput, RobotUnavailable
from rpl_runtime.loop.realtime import INTERRUPTED, DriveResult
from rpl_runtime.loop.watchdog import Event, Stop
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.recording.mcap import read_log
from rpl_runtime.relay.messages import Started
from rpl_runtime.relay.run import run_result
from rpl_runtime.robots.franka.objects import UNTOUCHED
from rpl_runtime.robots.franka.sim import simulated_robot
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import kitchen_spec
from rpl_runtime.tasks.kitchen.simulator import open_kitchen


@pytest.fixture(scope="module")
def address(kitchen_bundle: Bundle) -> Iterator[str]:
    with serve_in_thread(kitchen_bundle) as address:
        yield address


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Periods that go by as fast as their answers come, however long these take."""
    monkeypatch.setattr("rpl_runtime.loop.realtime.MonotonicClock", FakeClock)
    monkeypatch.setattr("rpl_runtime.cli.run.TIME_BUDGET", TimeBudget(answer_due=1e4, hold_periods=1000))
    monkeypatch.setattr("rpl_runtime.loop.realtime._BEAT_S", 1e4)


def rpl_run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["run", "--robot", "franka", "--goal", "microwave", *arguments])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--objects", "fixed"], "needs a --host"),
        (["--host", "sim"], "--objects"),
        (["--host", "sim", "--objects", "fixed", "--record", "runs/a-v0"], "--record"),
        (["--host", "sim", "--objects", "fixed", "--profile", "ur5"], "ur5"),
        (["--host", "sim", "--objects", "fixed", "--workspace", "0 0 0"], "workspace"),
    ],
)
def test_what_a_franka_needs_is_asked_for(arguments: list[str], what: str) -> None:
    finished = rpl_run(*arguments)
    assert finished.exit_code == 2
    assert what in finished.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--dry-run"], ["--speed", "0.1"], ["--host", "sim"], ["--no-realtime"], ["--steps", "0"], ["--seed", "-1"]],
)
def test_the_kitchen_takes_no_option_that_it_would_pass_over(arguments: list[str]) -> None:
    finished = CliRunner().invoke(app, ["run", "--goal", "microwave", *arguments])
    assert finished.exit_code == 2
    assert arguments[0] in finished.stderr


def test_objects_and_a_workspace_that_cannot_be_are_refused(address: str) -> None:
    unknown = rpl_run("--address", address, "--host", "nowhere", "--objects", "camera")
    assert isinstance(unknown.exception, InvalidInput)
    assert "must be one of mirror, fixed, or HOST:PORT" in str(unknown.exception)
    empty = rpl_run(
        "--address", address, "--host", "nowhere", "--objects", "fixed", "--workspace", *["1", "0", "0", "0", "1", "1"]
    )
    assert isinstance(empty.exception, InvalidInput)
    assert "low must be below high" in str(empty.exception)


def test_untouched_objects_are_those_of_a_new_kitchen() -> None:
    with open_kitchen() as kitchen:
        kitchen.reset(0)
        np.testing.assert_allclose(kitchen.qpos[9:], UNTOUCHED, atol=0.01)


def free_host(number: int) -> str:
    return f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.{number}"


def test_nobody_at_the_host_is_a_robot_that_is_not_there(address: str) -> None:
    pytest.importorskip("franky", reason="needs the franka extra")
    finished = rpl_run("--address", address, "--host", free_host(29), "--objects", "fixed", "--no-realtime")
    assert isinstance(finished.exception, RobotUnavailable)
    assert finished.exception.exit_code == 4


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    pytest.importorskip("franky_sim", reason="needs the franka-sim extra")
    with simulated_robot(free_host(21)) as host:
        yield host


@pytest.mark.alone
@pytest.mark.usefixtures("unhurried")
class TestSimulated:
    def test_a_dry_run_commands_nothing_and_says_everything(self, address: str, host: str) -> None:
        options = ("--host", host, "--no-realtime", "--objects", "fixed", "--dry-run", "--steps", "4")
        finished = rpl_run("--address", address, *options, "--json")
        assert finished.exit_code == 1, finished.stderr
        facts = json.loads(finished.stdout)
        assert facts["dry_run"]
        assert (facts["stop"], facts["periods"], facts["steps"], facts["held"]) == (None, 4, 4, 0)
        assert facts["observe_to_command_us"]["n"] == 4
        assert facts["elements"]["microwave"]["ever_done"] is False

    def test_a_run_moves_it_inside_its_limits_and_is_logged(self, address: str, host: str, tmp_path: Path) -> None:
        log = tmp_path / "run.mcap"
        options = ("--host", host, "--no-realtime", "--objects", "mirror", "--steps", "5", "--low-level", "local")
        finished = rpl_run("--address", address, *options, "--log", str(log))
        assert finished.exit_code == 1, finished.stderr
        assert "5 control periods, 0 without an action" in finished.stdout
        assert finished.stdout.splitlines()[-1].startswith("no success: ")
        kept = read_log(log)
        assert (len(kept.steps), kept.whole, kept.header.robot) == (5, True, "franka")

    def test_a_workspace_without_the_start_is_refused(self, address: str, host: str) -> None:
        box = ["0", "0", "0", "0.1", "0.1", "0.1"]
        finished = rpl_run(
            "--address", address, "--host", host, "--no-realtime", "--objects", "fixed", "--workspace", *box
        )
        assert isinstance(finished.exception, InvalidInput)


def result(stop: Stop | None) -> DriveResult:
    spec = kitchen_spec("kitchen")
    state = FakeArm(FakeClock()).observe()
    run = run_result(Started(spec.resolve(["kettle"], state), "d" * 64, 0.08, 30), [], state, 9)
    events = (Event(0, "armed", "the policy is followed"),)
    nothing = np.array([], dtype=np.int64)
    return DriveResult(run, stop, 3, 1, np.array([1000, 3000]), nothing, {"jerk": 2}, events)


@pytest.mark.parametrize(
    ("stop", "success", "code"),
    [
        (None, True, 0),
        (None, False, 1),
        (Stop("a reflex", 5, 6), True, 6),
        (Stop(INTERRUPTED, 5, 6), False, 130),
    ],
)
def test_the_exit_code_says_how_it_ended(stop: Stop | None, success: bool, code: int) -> None:
    assert exit_code(result(stop), success) == code


def test_what_stopped_it_and_when_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    facts = drive_facts(result(Stop("joint 4 [rad] jumped", 2_500_000_000, 2_600_000_000)), dry_run=True)
    assert facts["stop"]["after_s"] == 2.5
    assert facts["stop"]["rest_after_s"] == pytest.approx(0.1)
    assert facts["stop"]["time"].endswith("+00:00")
    assert facts["late_us"] == {"n": 2, "p50": 2.0, "p90": 2.8, "p99": 3.0, "p99.9": 3.0, "p100": 3.0}
    json.dumps(facts)
    print_drive(facts)
    said = capsys.readouterr().out
    assert "stopped after 2.50 s" in said
    assert "joint 4 [rad] jumped" in said
    assert "jerk 2" in said
    assert "2 control periods, 3 without an action, 1 missed" in said
