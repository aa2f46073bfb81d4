"""A loop that hangs: a process of its own ends it, and its robot comes to rest."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from processes import started
from rpl_runtime.loop.heartbeat import Heartbeat

PROGRAM = """
import itertools, os, signal, sys, time
sys.path[:0] = {path!r}
from rpl_runtime.loop.heartbeat import Heartbeat

beating = []

def hang(step):
    if step.step == 5:
        print("hangs", flush=True)
        {hang}

def main():
    # The process that watches imports this file too, and needs none of these.
    from fake_clock import FakeClock
    from live_robot import FakeArm
    from rpl_runtime.client.budget import TimeBudget
    from rpl_runtime.client.control import Control
    from rpl_runtime.loop import realtime
    from rpl_runtime.relay.run import RunConfig
    from scripted_line import MODEL, MS, Script

    clock = FakeClock()
    robot, control = FakeArm(clock), Control(MODEL, Script(clock, lambda number: 5 * MS))
    budget = TimeBudget(answer_due=1e4)
    with Heartbeat() as heartbeat:
        beating.append(heartbeat)
        realtime._BEAT_S = {beat_s}
        result = realtime.drive(
            robot, control, RunConfig(("microwave",), 12), hang, budget=budget, clock=clock, heartbeat=heartbeat
        )
    print(robot.at_rest, result.stop and result.stop.cause, flush=True)

if __name__ == "__main__":
    main()
"""


def hung(tmp_path: Path, hang: str, beat_s: float = 1.0) -> tuple[int, str, str]:
    """What a run whose loop hangs in step 5 ends with, and says on its output and its errors."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(path=sys.path, hang=hang, beat_s=beat_s))
    with started([sys.executable, program], stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_a_loop_that_hangs_is_interrupted_and_stops_its_robot(tmp_path: Path) -> None:
    code, output, errors = hung(tmp_path, "time.sleep(3600)")
    assert code == 0
    assert output == "hangs\nTrue the control loop hung, and was interrupted by the process that watches it\n"
    assert errors == "the run loop has not told for 1 s that it lives; it is interrupted\n"


@pytest.mark.parametrize(
    "hang",
    [
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "max(itertools.repeat(1))",  # in a library that keeps the interpreter
    ],
)
def test_a_loop_that_cannot_be_interrupted_is_killed(tmp_path: Path, hang: str) -> None:
    code, output, errors = hung(tmp_path, hang)
    assert (code, output) == (-signal.SIGKILL, "hangs\n")
    assert errors.splitlines()[-1].endswith("it is killed, and the robot left to its own stop")


def test_a_loop_without_its_watcher_stops(tmp_path: Path) -> None:
    code, output, errors = hung(tmp_path, "beating[0]._watcher.kill(), beating[0]._watcher.join()", 3600.0)
    assert (code, errors) == (0, "")
    assert output == "hangs\nTrue the process that watches the control loop has ended; must watch it to the end\n"


def test_a_run_without_a_fault_is_left_alone(tmp_path: Path) -> None:
    assert hung(tmp_path, "pass", 3600.0) == (0, "hangs\nTrue None\n", "")


def test_a_watcher_ends_with_its_loop() -> None:
    with Heartbeat() as heartbeat:
        watcher = heartbeat._watcher.pid
        assert heartbeat.beat(3600.0)
        assert not heartbeat.late
        heartbeat._due_s = 0.0
        assert heartbeat.late
        assert heartbeat.beat(None)
        assert not heartbeat.late
    with pytest.raises(ProcessLookupError):
        os.kill(watcher or 0, 0)
