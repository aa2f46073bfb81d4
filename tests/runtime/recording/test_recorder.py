"""A log kept beside a run: it takes nothing from the run, and what it could not keep is counted."""

import threading
from pathlib import Path

import numpy as np
import pytest
from test_mcap import GOAL, made
from typer.testing import CliRunner

import policies
from faults import no_file_longer_than
from rpl_runtime.cli.app import app
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidInput
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.recording import recorder as log_module
from rpl_runtime.recording.mcap import Event, LogHeader, LogWriter, read_log
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.server.server import serve_in_thread

SPEC = policies.tiny_spec()


class Recalcitrant(LogWriter):
    """A writer that keeps steps in a list and gets stuck on each until it is let go."""

    def __init__(self) -> None:
        self.kept = 0
        self.taken: list[Step | Event] = []
        self.stuck, self.let_go = threading.Event(), threading.Event()
        self.dropped: int | None = None

    def write_step(self, step: Step, over_ns: int) -> None:
        self.stuck.set()
        self.let_go.wait()
        self.taken.append(step)

    def write_event(self, event: Event, at_ns: int) -> None:
        self.taken.append(event)

    def close(self, dropped: int) -> None:
        self.dropped, self.kept = dropped, sum(isinstance(item, Step) for item in self.taken)


class Cart:
    """A robot that drives where it is told."""

    def reset(self, seed: int) -> None:
        self.position = np.zeros(5)

    def observe(self) -> np.ndarray:
        return self.position

    def apply(self, target: np.ndarray) -> None:
        self.position = self.position + 0.01 * np.pad(target, (0, 3))

    def done(self) -> frozenset[str]:
        return frozenset()

    def stop(self) -> None:
        pass


def header(robot: str = "robot") -> LogHeader:
    return LogHeader(robot=robot, seed=None, plan_lead=0, digest="d" * 64, spec=SPEC)


def test_steps_for_which_there_is_no_room_are_counted_and_events_are_kept() -> None:
    writer = Recalcitrant()
    with RunRecorder(writer, capacity=4) as log:
        log.step(made(0))
        writer.stuck.wait()
        for number in range(1, 10):
            log.step(made(number))
        log.event("stop", "by hand")
        writer.let_go.set()
    assert [item.step for item in writer.taken if isinstance(item, Step)] == [0, 1, 2, 3, 4]
    assert writer.taken[-1] == Event("stop", "by hand")
    assert log.summary == (5, 5, None)
    assert writer.dropped == 5


def test_a_disk_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_CLOSE_S", 0.0)
    writer = Recalcitrant()
    with RunRecorder(writer) as log:
        log.step(made(0))
    steps, dropped, fault = log.summary
    assert (steps, dropped) == (0, 1)
    assert fault is not None
    assert "has not answered" in fault
    writer.let_go.set()


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path: Path, tiny_client: Client) -> None:
    writer = LogWriter(tmp_path / "run.mcap", header())
    with tiny_client.control() as control, no_file_longer_than(20_000), RunRecorder(writer, capacity=10_000) as log:
        result = run(Cart(), control, RunConfig(("door",), steps=400), log.step)
    assert len(result.states) == 400
    assert log.summary.fault is not None
    assert "File too large" in log.summary.fault
    assert log.summary.steps + log.summary.dropped == 400
    kept = read_log(tmp_path / "run.mcap").steps
    assert 0 < log.summary.steps <= len(kept) < 400
    np.testing.assert_array_equal(np.array([step.target for step in kept], np.float32), result.targets[: len(kept)])


def test_what_broke_a_run_off_is_its_last_event(tmp_path: Path) -> None:
    writer = Recalcitrant()
    writer.let_go.set()
    with pytest.raises(InvalidInput, match="too much"), RunRecorder(writer):
        raise InvalidInput("too much was asked for")
    assert writer.taken == [Event("InvalidInput", "too much was asked for")]


def test_a_log_that_cannot_be_begun_stops_before_the_robot_moves(tmp_path: Path, kitchen_bundle: Bundle) -> None:
    (tmp_path / "file").touch()
    log = tmp_path / "file" / "run.mcap"
    with serve_in_thread(kitchen_bundle) as address:
        finished = CliRunner().invoke(app, ["run", "--address", address, "--goal", "kettle", "--log", str(log)])
    assert isinstance(finished.exception, InvalidInput)
    assert f"{log.parent} is not a folder" in str(finished.exception)
    assert finished.stdout == ""


def test_the_command_logs_its_run(tmp_path: Path, kitchen_bundle: Bundle) -> None:
    log = tmp_path / "logs" / "run.mcap"
    options = ["--goal", "mkbs", "--steps", "5", "--seed", "3", "--robot-id", "left", "--log", str(log)]
    with serve_in_thread(kitchen_bundle) as address:
        finished = CliRunner().invoke(app, ["run", "--address", address, *options])
    assert f"log {log}: control steps 5, dropped 0" in " ".join(finished.stderr.split())
    found = read_log(log)
    assert (found.header.robot, found.header.seed, found.header.digest) == ("left", 3, kitchen_bundle.digest)
    assert found.header.spec == kitchen_bundle.spec
    assert [step.step for step in found.steps] == list(range(5))
    assert sum(found.steps[0].mask) == 11  # the microwave 1, the kettle 7, the burner 2, the slide cabinet 1
    assert found.whole


def test_a_step_says_which_goal_it_followed(tiny_client: Client) -> None:
    heard: list[Step] = []
    with tiny_client.control() as control:
        result = run(Cart(), control, RunConfig(("door",), steps=2), heard.append)
    assert all(step.goal is result.goal for step in heard)
    np.testing.assert_array_equal(result.goal.mask, GOAL.mask)
