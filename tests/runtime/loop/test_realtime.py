"""Runs in a world that does not wait: whatever goes wrong, the arm keeps its limits and is at rest in the end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_clock import FakeClock
from faults import Cable, Meddler, no_file_longer_than
from limits_kept import assert_inside
from live_robot import PERIOD_NS, START, FakeArm
from rpl_runtime.client.budget import TimeBudget
from rpl_runtime.client.control import Control
from rpl_runtime.client.reconnect import ReconnectConfig, lasting_control
from rpl_runtime.errors import BundleError, InvalidInput, ObjectsLost, RobotStopped, ServerUnavailable
from rpl_runtime.estimation.body import Ages, Body
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.loop.realtime import INTERRUPTED, DriveResult, drive
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.process import own_process
from rpl_runtime.recording.mcap import LogHeader, LogWriter, read_log
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.server.server import ServerConfig, serve, serve_in_thread
from rpl_runtime.tasks.kitchen.elements import PERIOD
from scripted_line import MODEL, MS, SPEC, Script

# Answers are waited for as long as they take: nothing here depends on how fast this machine is.
PATIENT = TimeBudget(answer_due=1e4)


def driven(answer: Callable[[int], Any], steps: int = 12, robot: FakeArm | None = None, **more: Any) -> DriveResult:
    """A run of a fake arm, answered by a script; its arm is `driven.robot` and must be at rest, and inside."""
    clock = robot._clock if robot else FakeClock()
    robot = robot or FakeArm(clock)
    line = Script(clock, answer)
    config = RunConfig(("microwave",), steps)
    result = drive(robot, Control(MODEL, line), config, budget=PATIENT, clock=clock, **more)
    assert line.closed
    assert_stands_inside(robot)
    return result


def assert_stands_inside(robot: FakeArm) -> None:
    assert robot.at_rest
    assert robot.stopped >= 1
    if robot.commanded:
        commanded = np.vstack(robot.commanded)
        stands = np.repeat(commanded[-1:], 10, axis=0)
        assert_inside(robot.profile, START, np.concatenate([commanded, stands]))  # at rest: to stand breaks no limit


def kinds(result: DriveResult) -> list[str]:
    return [event.kind for event in result.events]


def test_a_run_without_faults_is_its_actions_one_a_period() -> None:
    heard: list[int] = []
    result = driven(lambda number: 5 * MS, on_step=lambda step: heard.append(step.step))
    assert heard == list(range(12))
    assert result.run.states.shape == (12, 30)
    assert result.stop is None
    assert (result.held, result.missed, kinds(result)) == (0, 0, ["armed"])
    assert result.answer_ns.tolist() == [5 * MS] * 12
    assert result.late_ns.tolist() == [0] * 12
    assert result.run.states[-1][0] > START[0] + 0.3


EXACT = Ages(0.0, 0.0)


class Shifted(Estimator):
    """Sees every joint 0.01 rad higher, and keeps the hand open."""

    def __init__(self) -> None:
        names = SPEC.state.names
        exact = Calibration(names=names, rest=(0.0,) * 30, sigma=(0.0,) * 30)
        super().__init__(Body.plain(names, SPEC.action.names), exact, None, PERIOD)
        self.held = 0

    def see(self, reading: np.ndarray, ages: Ages = EXACT) -> np.ndarray:
        return reading + np.float32(0.01)

    def command(self, target: np.ndarray) -> np.ndarray:
        return np.append(target[:7], [0.04, 0.04])

    def hold(self) -> None:
        self.held += 1


def test_the_policy_decides_in_estimated_states_and_the_robot_gets_the_estimators_commands() -> None:
    """A period without an action is one without a command for the estimator, too."""
    estimator, heard = Shifted(), list[Step]()
    late = ServerUnavailable("lost")
    result = driven(lambda number: late if number == 4 else 5 * MS, on_step=heard.append, estimator=estimator)
    assert (result.held, estimator.held) == (1, 1)
    for step in heard:
        assert step.reading is not None
        np.testing.assert_array_equal(step.state, step.reading + np.float32(0.01))
    np.testing.assert_array_equal(result.run.states, [step.state for step in heard])


def test_a_server_that_is_gone_is_a_hold_in_the_same_period_and_a_stop_after_two() -> None:
    clock = FakeClock()
    robot, gone = FakeArm(clock), ServerUnavailable("killed")
    held_from: list[int] = []

    def answer(number: int) -> Any:
        if number == 5:
            held_from.append(len(robot.commanded))
        return gone if number >= 5 else 5 * MS

    result = driven(answer, 100, robot)
    assert kinds(result) == ["armed", "late", "ramping", "stopped"]
    assert result.held == 3
    assert result.stop is not None
    assert result.stop.cause == "no action came for 2 control periods"
    assert result.stop.rest_ns is not None
    assert result.stop.rest_ns - result.stop.at_ns <= 2 * PERIOD_NS
    assert len(result.run.states) == 5
    # From the first period without an action the arm brakes, and it stands before the two periods are over.
    [first] = held_from
    speed = abs(np.diff(np.vstack(robot.commanded)[80 * first :, :7], axis=0)).max(axis=1)
    assert (np.diff(speed[40:]) <= 1e-9).all()
    assert speed[2 * 80 :].max(initial=0.0) < 1e-6


def test_a_server_that_comes_back_in_time_goes_on() -> None:
    result = driven(lambda number: ServerUnavailable("away") if number in (4, 5) else 5 * MS)
    assert kinds(result) == ["armed", "late", "resumed"]
    assert (result.stop, result.held, len(result.run.states)) == (None, 2, 10)


def test_an_action_that_comes_after_its_time_is_not_applied() -> None:
    numbers: list[int] = []
    result = driven(
        lambda number: round(1.5 * PERIOD_NS) if number == 4 else 5 * MS, on_step=lambda step: numbers.append(step.step)
    )
    # Step 4 was answered too late, and 5 asked for at once, in the state that was measured last.
    assert numbers == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert (result.missed, result.held, result.stop) == (0, 0, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ramps_to_rest_at_once_and_for_good(number: signal.Signals) -> None:
    class Impatient(FakeArm):
        """Whoever stops it presses Ctrl-C again and again."""

        def stop(self) -> None:
            for again in (signal.SIGINT, signal.SIGTERM) if self.commanded else ():
                signal.raise_signal(again)
            super().stop()

    robot = Impatient(FakeClock())
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def answer(period: int) -> Any:
        if period == 5:
            os.kill(os.getpid(), number)
        return 5 * MS

    result = driven(answer, 100, robot)
    assert result.interrupted
    assert result.stop is not None
    assert result.stop.cause == INTERRUPTED
    assert len(result.run.states) <= 7
    assert kinds(result)[-2:] == ["tripped", "stopped"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


HANGS = """
import sys, time
sys.path[:0] = {path!r}
from fake_clock import FakeClock
from live_robot import FakeArm
from rpl_runtime.loop.realtime import drive
from rpl_runtime.relay.run import RunConfig

class Hanging(FakeArm):
    def reset(self, seed):
        print("begun", flush=True)
        time.sleep(60)

    def stop(self):
        print("stopping", flush=True)
        while True:
            time.sleep(60)

drive(Hanging(FakeClock()), None, RunConfig(["microwave"], 10))
"""


def test_a_second_signal_ends_a_process_whose_robot_hangs() -> None:
    program = HANGS.format(path=sys.path)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"stopping\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"left to its own stop" in errors


@pytest.fixture
def arm() -> FakeArm:
    return FakeArm(FakeClock())


def spoil(robot: FakeArm, verb: str, at: int, spoiled: Callable[[Any], Any]) -> None:
    """Have the result of a verb's call spoiled, counted from 0."""
    original, calls = getattr(robot, verb), iter(range(10_000))

    def spoiling(*arguments: Any) -> Any:
        result = original(*arguments)
        return spoiled(result) if next(calls) == at else result

    setattr(robot, verb, spoiling)


def stop_with(error: Exception) -> Callable[[Any], Any]:
    def spoiled(_: Any) -> Any:
        raise error

    return spoiled


def jump(state: np.ndarray) -> np.ndarray:
    return state + (np.arange(30) == 3) * np.float32(0.4)


def blind(state: np.ndarray) -> np.ndarray:
    return np.where(np.arange(30) == 2, np.float32(np.nan), state)


@pytest.mark.parametrize(
    ("verb", "spoiled", "cause"),
    [
        ("observe", jump, "joint 4 jumped by 0.4"),
        ("observe", blind, "dimension 2 is not finite"),
        ("observe", stop_with(RobotStopped("the robot stopped: a reflex")), "a reflex"),
        ("observe", stop_with(ObjectsLost("nobody sees the kettle")), "nobody sees the kettle"),
        ("apply", stop_with(RobotStopped("the robot stopped: a reflex")), "a reflex"),
    ],
)
def test_what_is_wrong_with_the_robot_stops_it_at_once(verb: str, spoiled: Any, cause: str, arm: FakeArm) -> None:
    spoil(arm, verb, 12, spoiled)
    result = driven(lambda number: 5 * MS, 100, arm)
    assert result.stop is not None
    assert cause in result.stop.cause
    assert result.stop.rest_ns is not None
    assert kinds(result)[-2:] == ["tripped", "stopped"]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (np.full(9, np.nan), "answer cannot be used: the action has panda_joint1 = nan rad"),
        (np.full(9, 2.91), "panda_joint1 = 2.91 rad; must be a finite number from -2.9 to 2.9"),
        (InvalidInput("the state has a NaN"), "the state has a NaN"),
        (BundleError("another bundle is served"), "another bundle"),
    ],
)
def test_an_answer_that_is_none_stops_it_at_once(answer: Any, cause: str) -> None:
    result = driven(lambda number: answer if number == 5 else 5 * MS, 100)
    assert result.stop is not None
    assert cause in result.stop.cause
    assert len(result.run.states) == 5


def test_a_computer_that_slept_stops_it(arm: FakeArm) -> None:
    clock = arm._clock
    result = driven(lambda number: clock.fall_asleep(3 * 10**9) or 5 * MS if number == 5 else 5 * MS, 100, arm)
    assert result.stop is not None
    assert result.stop.cause == "the computer slept for 3.0 s"


def test_a_clock_that_jumps_or_a_loop_that_was_held_up_stops_it(arm: FakeArm) -> None:
    clock = arm._clock
    result = driven(lambda number: 5 * MS, 100, arm, on_step=lambda step: clock.advance((step.step == 5) * 10**9))
    assert result.stop is not None
    assert "held up for 11 control periods" in result.stop.cause
    assert result.missed == 11


def test_a_robot_that_has_stopped_by_itself_is_not_told_to_again(arm: FakeArm) -> None:
    spoil(arm, "observe", 8, stop_with(RobotStopped("a reflex")))
    spoil(arm, "stop", 1, stop_with(RobotStopped("it stands already")))
    result = driven(lambda number: 5 * MS, 100, arm)
    assert result.stop is not None
    assert result.stop.cause == "a reflex"
    assert "it stands already" in [event.text for event in result.events]


@pytest.mark.parametrize("verb", ["observe", "apply", "done"])
def test_an_error_in_a_robot_of_somebodys_own_is_a_stop_that_says_so(arm: FakeArm, verb: str) -> None:
    spoil(arm, verb, 8, stop_with(ConnectionError("the line is dead")))
    result = driven(lambda number: 5 * MS, 100, arm)
    assert result.stop is not None
    assert "ConnectionError: the line is dead (test_realtime.py, line " in result.stop.cause
    assert [event.text for event in result.events if event.kind == "tripped"] == [result.stop.cause]


def test_an_error_at_the_stop_keeps_the_first_cause(arm: FakeArm) -> None:
    spoil(arm, "observe", 8, stop_with(ConnectionError("the line is dead")))
    for call in (1, 2):
        spoil(arm, "stop", call, stop_with(ConnectionError("still dead")))
    result = driven(lambda number: 5 * MS, 100, arm)
    assert result.stop is not None
    assert "the line is dead" in result.stop.cause
    assert "still dead" in [event.text for event in result.events if event.kind == "tripped"][-1]


def test_a_listener_that_fails_leaves_the_robot_at_rest(arm: FakeArm) -> None:
    def fail(_: Any) -> None:
        raise OSError("no such terminal")

    with pytest.raises(OSError, match="no such terminal"):
        driven(lambda number: 5 * MS, 12, arm, on_step=fail)
    assert_stands_inside(arm)


def test_a_run_that_is_stopped_before_its_first_action_is_a_run_of_no_steps() -> None:
    result = driven(lambda number: InvalidInput("no"))
    assert result.run.states.shape == (0, 30)
    assert result.run.targets.shape == (0, 9)
    assert result.run.ever_done == result.run.done_at_end == frozenset()


def test_a_refused_start_leaves_the_robot_at_rest(arm: FakeArm) -> None:
    with pytest.raises(InvalidInput, match="must be 1 or more"):
        driven(lambda number: 5 * MS, 0, arm)
    spoil(arm, "reset", 0, stop_with(RobotStopped("a reflex on the way")))
    with pytest.raises(RobotStopped, match="on the way"):
        driven(lambda number: 5 * MS, 5, arm)
    assert_stands_inside(arm)


def anywhere(seed: int) -> np.ndarray:
    """A target (9,) [rad, m] that a server may send."""
    return np.random.default_rng(seed).normal(0, 2, 9).clip(*SPEC.action.bounds)


@given(
    answers=st.lists(
        st.one_of(
            st.integers(0, 70 * MS),
            st.integers(80 * MS, 300 * MS),
            st.just(ServerUnavailable("away")),
            st.just(InvalidInput("refused")),
            st.integers(0, 2**32).map(anywhere),
        ),
        min_size=1,
        max_size=25,
    )
)
@example([anywhere(4011), anywhere(36779)])
@settings(max_examples=40)
def test_whatever_is_answered_the_arm_keeps_its_limits_and_stands_in_the_end(answers: list[Any]) -> None:
    robot = FakeArm(FakeClock())
    result = driven(lambda number: answers[number] if number < len(answers) else 5 * MS, len(answers), robot)
    # Every hold ends in an action or in a stop, but for one at the end of the run.
    ends = {"resumed", "ramping", "tripped"}
    assert all(after in ends for kind, after in pairwise(kinds(result)) if kind == "late")
    assert result.stop is None or kinds(result)[-1] == "stopped"


def test_a_full_disk_does_not_disturb_the_run(tmp_path: Path) -> None:
    header = LogHeader(robot="robot", seed=None, plan_lead=0, digest=MODEL.digest, spec=SPEC)
    writer = LogWriter(tmp_path / "run.mcap", header)
    with no_file_longer_than(20_000), RunRecorder(writer, capacity=10_000) as log:
        result = driven(lambda number: 5 * MS, 200, on_step=log.step)
    assert (len(result.run.states), result.stop) == (200, None)
    assert log.summary.fault is not None
    assert "File too large" in log.summary.fault


def test_what_stopped_it_is_in_the_log(tmp_path: Path) -> None:
    header = LogHeader(robot="robot", seed=None, plan_lead=0, digest=MODEL.digest, spec=SPEC)
    with RunRecorder(LogWriter(tmp_path / "run.mcap", header)) as log:
        driven(
            lambda number: InvalidInput("no more") if number == 5 else 5 * MS,
            on_step=log.step,
            on_event=lambda event: log.event(event.kind, event.text),
        )
    kept = read_log(tmp_path / "run.mcap")
    assert len(kept.steps) == 5
    assert kept.whole


# --------------------------------------------------------------------------------- behind real servers and real wires


@pytest.fixture
def address(kitchen_bundle: Bundle, transport: str) -> Iterator[str]:
    """Of a server, with each way that the bytes can take."""
    with serve_in_thread(kitchen_bundle) as address:
        yield address


def drive_at(address: str, steps: int = 8, **more: Any) -> tuple[FakeArm, DriveResult]:
    """A run against a server; its periods go by as fast as its answers come."""
    robot = FakeArm(FakeClock())
    control = lasting_control(address, ReconnectConfig(timeout_s=1.0, waits=False))
    config = RunConfig(("microwave",), steps, seed=1)
    result = drive(robot, control, config, budget=PATIENT, clock=robot._clock, **more)
    assert_stands_inside(robot)
    return robot, result


@pytest.mark.parametrize(
    "fault", ["drop request", "drop reply", "duplicate request", "duplicate reply", "older reply first", "late", "cut"]
)
def test_a_message_that_does_not_arrive_as_it_was_sent_costs_a_period_at_most(address: str, fault: str) -> None:
    with Meddler(address, {4: fault}) as meddler:
        _, result = drive_at(meddler.address)
    assert meddler.happened == [fault]
    assert result.stop is None
    assert result.held <= 1
    assert len(result.run.states) + result.held == 8


def test_a_wire_that_is_pulled_out_stops_the_arm(address: str) -> None:
    """The server cannot know yet, and keeps the robot for the stream that broke."""
    with Cable(address) as cable:
        _, result = drive_at(cable.address, 100, on_step=lambda step: cable.pull() if step.step == 3 else None)
    assert kinds(result) == ["armed", "late", "ramping", "stopped"]
    assert (len(result.run.states), result.held) == (4, 3)


def serve_pid(on_ready: Callable[[str], None], bundle: str) -> None:
    from rpl_runtime.policy.bundle import load_bundle

    serve(load_bundle(Path(bundle)), ServerConfig("127.0.0.1:0"), lambda bound: on_ready(f"{os.getpid()} {bound}"))


@pytest.mark.usefixtures("transport")
def test_a_server_that_is_killed_stops_the_arm_after_two_periods(kitchen_bundle: Bundle) -> None:
    with own_process(serve_pid, str(kitchen_bundle.path)) as process_and_address:
        process, address = process_and_address.split()

        def kill(step: Any) -> None:
            if step.step == 4:
                os.kill(int(process), signal.SIGKILL)

        _, result = drive_at(address, 100, on_step=kill)
    assert kinds(result) == ["armed", "late", "ramping", "stopped"]
    assert (len(result.run.states), result.held) == (5, 3)


def test_it_runs_on_a_thread_that_hears_no_signal() -> None:
    results: list[DriveResult] = []
    thread = threading.Thread(target=lambda: results.append(driven(lambda number: 5 * MS)))
    thread.start()
    thread.join()
    assert len(results[0].run.states) == 12
