"""The acceptance of a simulated FR3, with faults planted that it must find."""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from extras import needs
from rpl_runtime.acceptance.day import accept
from rpl_runtime.acceptance.journal import Journal, Setting, Verdict
from rpl_runtime.acceptance.steps import SENSES, STEPS, AcceptanceStep, Site
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.recording.mcap import read_log
from rpl_runtime.robots.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.sim import Faults, simulated_robot
from rpl_runtime.robots.mirror import KitchenMirror
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.limits import Box, Profile
from rpl_runtime.tasks.load import load_task

pytestmark = [pytest.mark.alone, needs("franka-sim extra", "franky_sim")]

ROOT = Path(__file__).parents[3]
FR3 = PROFILES["fr3"]
assert FR3.arm is not None
REACH = FR3.arm.workspace


def address() -> str:
    """An address of this machine for a robot of this process; the port of a robot is always the same."""
    return f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.9"


def day(
    folder: Path, faults: Faults, profile: Profile = FR3, steps: Sequence[AcceptanceStep] = STEPS
) -> tuple[Journal, list[str]]:
    """The journal of a day with a robot, and the steps before which it asked."""
    asked, bundle = list[str](), load_bundle(ROOT / "models" / "kitchen")
    with simulated_robot(address(), faults) as host:
        site = Site(
            open_robot=lambda config: closing(FrankaRobot(host, KitchenMirror(), config)),
            franka=FrankaConfig(profile, realtime=False),
            reach=REACH,
            task=load_task("kitchen"),
            bundle=bundle,
            elements=("kettle",),
            folder=folder,
        )
        setting = Setting(
            robot="fr3", workspace=(0,) * 6, objects="mirror", bundle="kitchen", digest=bundle.digest, elements=()
        )
        return accept(site, setting, lambda step: bool(asked.append(step.name)) or True, steps=steps), asked


def failure(journal: Journal) -> tuple[str, list[str]]:
    """The step that failed, and the names of its values outside of their limits."""
    record = journal.records[-1]
    assert journal.verdict is Verdict.REFUSED, [record.reasons for record in journal.records]
    return record.step, [check.name for check in record.failed]


def named(*names: str) -> list[AcceptanceStep]:
    return [step for step in STEPS if step.name in names]


def test_a_joint_that_reports_the_other_sign_is_found_by_moving_it_a_little(tmp_path: Path) -> None:
    journal, asked = day(tmp_path, Faults(turned=3), steps=named("connection", "workspace", "joints", "senses"))
    step, names = failure(journal)
    assert step == "joints"
    assert "joint 4, measured motion as a share of the commanded one" in names
    assert asked == ["joints"]  # and nothing moved after it


@pytest.mark.long
class TestDay:
    def test_a_sound_robot_passes(self, tmp_path: Path) -> None:
        journal, asked = day(tmp_path, Faults())
        assert journal.verdict is Verdict.ACCEPTED, journal.sentence
        assert asked == [step.name for step in STEPS if step.moves]
        assert (tmp_path / SENSES).exists()
        assert len(read_log(tmp_path / "speed-1.mcap").steps) > 100

    def test_40_ms_more_latency_are_found(self, tmp_path: Path) -> None:
        step, names = failure(day(tmp_path, Faults(late_s=0.04))[0])
        assert step == "joints"
        assert names == ["the arm is later than its commands by"]

    def test_a_hand_that_takes_1500_ms_is_found(self, tmp_path: Path) -> None:
        step, names = failure(day(tmp_path, Faults(hand_s=1.5))[0])
        assert step == "senses"
        assert names == ["one command of the hand"]

    def test_a_workspace_that_is_too_large_is_found_before_anything_moves(self, tmp_path: Path) -> None:
        large = Box((*REACH.low[:2], REACH.low[2] - 0.1), REACH.high)
        journal, asked = day(tmp_path, Faults(), FR3.within(large))
        step, names = failure(journal)
        assert step == "workspace"
        assert names == ["the workspace beyond where the arm may reach"]
        assert asked == []
