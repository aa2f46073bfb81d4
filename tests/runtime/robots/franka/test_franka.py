"""A Franka, driven through the vendor's own client library: a simulated robot answers at the other end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from extras import needs
from limits_kept import assert_inside_while_moving
from processes import started
from robot_contract import LiveContract
from rpl_runtime.errors import AddressInUse, InvalidInput, RobotStopped, RobotUnavailable
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.process import own_process
from rpl_runtime.robots.franka import sim as simulated
from rpl_runtime.robots.franka.frames import to_franka, to_kitchen
from rpl_runtime.robots.franka.franka import HOME, FrankaConfig, FrankaRobot, Load
from rpl_runtime.robots.franka.objects import CalledObjects, FixedObjects
from rpl_runtime.robots.franka.sim import simulated_robot
from rpl_runtime.robots.kitchen.limits import KITCHEN
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import Box, Profile
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, kitchen_spec

pytestmark = [pytest.mark.alone, needs("franka-sim extra", "franky_sim")]

ROOT = Path(__file__).parents[4]
PERIOD_MS = 80
OBJECTS = np.concatenate([np.zeros(14), [-0.27, 0.35, 1.62, 1.0, 0.0, 0.0, 0.0]])
CONFIG = FrankaConfig(realtime=False)
HAND_OPEN = np.array([0.04, 0.04])


def address(number: int) -> str:
    """An address of this machine for a robot of this process; the port of a robot is always the same."""
    return f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.{number}"


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with simulated_robot(address(1)) as host:
        yield host


def franka(host: str, config: FrankaConfig = CONFIG) -> FrankaRobot:
    robot = FrankaRobot(host, FixedObjects(OBJECTS), config)
    robot.reset(0)
    robot.observe()
    return robot


@pytest.fixture
def robot(host: str) -> Iterator[FrankaRobot]:
    with closing(franka(host)) as robot:
        yield robot


def let_pass(robot: FrankaRobot, milliseconds: int = PERIOD_MS) -> None:
    """Wait until so much time has passed on the robot's own clock, however fast it is simulated."""
    over = robot._arm.state.time.to_msec() + milliseconds
    while robot._arm.state.time.to_msec() < over:
        time.sleep(0.002)


def wait_until(robot: FrankaRobot, holds: Callable[[], bool], seconds: float = 5.0) -> None:
    over = robot._arm.state.time.to_msec() + 1000 * seconds
    while not holds():
        assert robot._arm.state.time.to_msec() < over, "it never came"
        time.sleep(0.01)


def lead(robot: FrankaRobot, *lead: float) -> np.ndarray:
    """A target that leads the arm by so much [rad]."""
    return np.append(robot.observe()[:7] + np.array(lead), HAND_OPEN)


def drive_on(robot: FrankaRobot, periods: int = 200) -> None:
    """Turn joint 1 until something happens; not for ever."""
    for _ in range(periods):
        robot.apply(lead(robot, 0.1, 0, 0, 0, 0, 0, 0))
        let_pass(robot)


def watch_on(robot: FrankaRobot) -> None:
    """Observe until something happens; not for ever."""
    for _ in range(200):
        robot.observe()
        time.sleep(0.02)


class TestContract(LiveContract):
    noise = 3e-3  # the simulated arm gives way to gravity a little, and trails what is commanded
    moving = slice(0, 1)
    step = 0.1

    @pytest.fixture
    def spec(self) -> PolicySpec:
        return kitchen_spec("kitchen")

    @pytest.fixture
    def robot(self, host: str) -> Iterator[FrankaRobot]:
        with closing(franka(host)) as robot:
            yield robot

    def let_pass(self, robot: Any) -> None:
        let_pass(robot)


def test_it_stands_where_the_kitchens_arm_starts(robot: FrankaRobot) -> None:
    np.testing.assert_allclose(robot.observe()[:7], HOME, atol=0.01)
    np.testing.assert_allclose(robot.observe()[9:], OBJECTS, atol=1e-6)
    assert robot.observe()[7:9].sum() == pytest.approx(0.08, abs=0.005)


def test_a_moving_arm_is_seen_where_it_is_led_not_where_it_trails(robot: FrankaRobot) -> None:
    for _ in range(5):
        robot.apply(lead(robot, 0.15, 0, 0, 0, 0, 0, 0))
        let_pass(robot)
    state, seen = robot._arm.state, robot.observe()
    led, measured = (to_kitchen(np.ravel(joints))[0] for joints in (state.q_d, state.q))
    assert seen[0] - measured > 0.01  # [rad] ahead of it
    assert seen[0] == pytest.approx(led, abs=0.01)
    robot.stop()
    wait_until(robot, lambda: bool(abs(np.ravel(robot._arm.state.dq)).max() < 1e-4))
    np.testing.assert_allclose(robot.observe()[:7], to_kitchen(robot._arm.state.q), atol=1e-4)


@pytest.mark.parametrize("astray", [0.2, np.nan])
def test_an_arm_that_is_not_where_it_is_led_stops(robot: FrankaRobot, astray: float) -> None:
    robot.apply(lead(robot, 0.15, 0, 0, 0, 0, 0, 0))
    measured = HOME.copy()
    measured[3] += astray
    with pytest.raises(RobotStopped, match=rf"joint 4 is {astray:.3f} rad from where it was led"):
        robot._arm_seen(SimpleNamespace(q=measured, q_d=HOME, dq_d=np.zeros(7)))


class Sent(NamedTuple):
    """What was commanded in one millisecond."""

    at: int  # [ms] on the robot's clock
    since: int  # [ms] since the motion took over
    joints: np.ndarray  # (7,) [rad]
    proved: np.ndarray  # (80, 7) [rad] the motion that the safety filter proved for this period; (0, 7) for a stop


class Watched(FrankaRobot):
    """A Franka whose commands are taken down as they are sent, one a millisecond."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[Sent] = []
        self._lines.on_motion = self._watch

    def _watch(self, motion: Any) -> None:
        proved = to_franka(self.filtered.trajectory[:, :7]) if self.filtered else np.empty((0, 7))
        motion.register_callback(
            lambda state, step, since, at, command: self.sent.append(
                Sent(at.to_msec(), since.to_msec(), np.array(command.q), proved)
            )
        )


def assert_sent_inside(robot: Watched, profile: Profile) -> None:
    """Every limit, wherever no millisecond was missed."""
    times, commands = np.array([sent.at for sent in robot.sent]), np.array([sent.joints for sent in robot.sent])
    missed = np.flatnonzero(np.diff(times) != 1) + 1
    for stretch in np.split(commands, missed):
        assert_inside_while_moving(profile, np.column_stack([stretch, np.tile(HAND_OPEN, (len(stretch), 1))]))


def test_what_is_commanded_keeps_the_limits_and_is_what_was_proved_at_1_khz(host: str) -> None:
    rng = np.random.default_rng(0)
    rate, phase = rng.uniform(2.0, 6.0, 7), rng.uniform(0, 2 * np.pi, 7)  # [rad/s] and [rad] of a swing of each joint
    with closing(Watched(host, FixedObjects(OBJECTS), CONFIG)) as robot:
        robot.reset(0)
        bent = HOME + np.array([0, 0.2, 0, 0.2, 0, 0, 0])  # away from the ends of the joints
        for number in range(30):
            swing = 0.15 * np.sin(rate * number * 0.08 + phase) + rng.uniform(-0.02, 0.02, 7)
            robot.observe()
            robot.apply(np.append(bent + swing, HAND_OPEN))
            let_pass(robot)
        robot.stop()
    assert len(robot.sent) > 2000
    assert_sent_inside(robot, PROFILES["fr3"])
    assert np.ptp([sent.joints for sent in robot.sent], axis=0).min() > 0.05  # every joint went somewhere
    # Ruckig draws another line between the ends of the motions that the filter made, and a target that comes late is
    # followed late.
    apart = [
        abs(sent.joints - sent.proved[sent.since - 1]).max()
        for sent in robot.sent
        if 0 < sent.since <= len(sent.proved)
    ]
    assert np.percentile(apart, 90) < 0.03


def test_the_arm_goes_as_the_kitchens_would(robot: FrankaRobot) -> None:
    """A stiff arm would stand at its target after a period; the kitchen's, and this one, is still on its way."""
    target = lead(robot, 0.12, 0, 0, 0, 0, 0, 0)
    to_go = []
    for _ in range(5):
        robot.apply(target)
        let_pass(robot)
        to_go.append((target - robot.observe()[:9])[0] / 0.12)
    assert to_go[0] > 0.4
    assert to_go[4] < 0.15
    assert to_go == sorted(to_go, reverse=True)


def test_an_arm_whose_targets_stay_out_comes_to_rest_where_its_line_ends(robot: FrankaRobot) -> None:
    for _ in range(4):
        robot.apply(lead(robot, 0.1, 0, 0, 0.1, 0, 0, 0))
        let_pass(robot)
    rest = robot._lines._look(robot._arm.state).commands[-1]
    let_pass(robot, 600)
    still = np.array(robot._arm.state.q_d)
    let_pass(robot, 300)
    np.testing.assert_array_equal(robot._arm.state.q_d, still)
    np.testing.assert_allclose(still, rest, atol=0.02)
    assert np.abs(robot._arm.state.dq).max() < 0.01
    # And it goes on from there when targets come again.
    robot.apply(lead(robot, 0.1, 0, 0, 0, 0, 0, 0))
    let_pass(robot)
    assert robot._arm.state.q_d[0] > still[0] + 1e-3


def test_the_hand_opens_and_closes_while_the_arm_goes_on(robot: FrankaRobot) -> None:
    def follow(fingers: float, done: Callable[[float], bool]) -> None:
        for _ in range(60):
            robot.apply(np.append(lead(robot, 0.02, 0, 0, 0, 0, 0, 0)[:7], [fingers, fingers]))
            let_pass(robot)
            if done(robot.observe()[7:9].sum()):
                return
        pytest.fail(f"the hand is {robot.observe()[7:9].sum():.3f} m open")

    follow(0.0, lambda width: width < 0.01)
    follow(0.04, lambda width: width > 0.07)


def test_a_dry_run_does_everything_but_move(host: str) -> None:
    with closing(franka(host, replace(CONFIG, dry_run=True))) as robot:
        before = robot.observe()
        for _ in range(3):
            robot.apply(np.append(lead(robot, 0.1, 0.1, 0, 0, 0, 0, 0)[:7], [0.0, 0.0]))
            let_pass(robot)
        np.testing.assert_allclose(robot.observe(), before, atol=1e-3)
        assert robot.course is not None
        assert robot.course.position[0] > before[0] + 0.04
        assert not robot._arm.is_in_control


def test_done_is_what_the_objects_say(host: str) -> None:
    objects = OBJECTS.copy()
    with closing(FrankaRobot(host, CalledObjects(lambda: objects), CONFIG)) as robot:
        robot.observe()
        assert robot.done() == frozenset()
        objects[13] = ELEMENTS["microwave"].goal[0]
        robot.observe()
        assert robot.done() == {"microwave"}


def test_a_workspace_is_not_left(host: str) -> None:
    with closing(franka(host)) as robot:
        flange, _ = flange_pose(robot._arm.state.q)
    here = Box(tuple(flange - 0.1), tuple(flange + 0.1))
    with closing(Watched(host, FixedObjects(OBJECTS), replace(CONFIG, profile=PROFILES["fr3"].within(here)))) as robot:
        robot.reset(0)
        drive_on(robot, 25)
        robot.stop()
        assert robot.observe()[0] > HOME[0] + 0.05
        assert robot.limit_violations["workspace"] > 0
    assert_sent_inside(robot, robot.config.profile)


def test_a_workspace_that_excludes_the_start_is_refused_before_anything_moves(host: str) -> None:
    elsewhere = Box((0.0, 0.0, 0.0), (0.1, 0.1, 0.1))
    config = replace(CONFIG, profile=PROFILES["fr3"].within(elsewhere))
    with (
        closing(FrankaRobot(host, FixedObjects(OBJECTS), config)) as robot,
        pytest.raises(InvalidInput, match="a start with the flange at"),
    ):
        robot.reset(0)


def test_a_joints_range_is_not_left(host: str) -> None:
    profile = PROFILES["fr3"]
    high = profile.high.copy()
    high[0] = HOME[0] + 0.05
    with closing(Watched(host, FixedObjects(OBJECTS), replace(CONFIG, profile=replace(profile, high=high)))) as robot:
        robot.reset(0)  # from outside of this range
        robot.sent = []
        drive_on(robot, 15)
        robot.stop()
        assert robot.limit_violations["position"] > 0
        assert robot.observe()[0] > HOME[0] + 0.03
    assert_sent_inside(robot, robot.config.profile)


def test_limits_thresholds_and_payload_are_set(host: str) -> None:
    load = Load(mass=0.3, center=(0.0, 0.01, 0.1), inertia=(1e-3, 0, 0, 0, 1e-3, 0, 0, 0, 1e-3))
    config = FrankaConfig(realtime=False, speed=0.1, torque_threshold=12.0, force_threshold=15.0, load=load)
    with closing(FrankaRobot(host, FixedObjects(OBJECTS), config)) as robot:
        assert (np.ravel(robot._arm.joint_velocity_limit.get()) <= 0.262).all()
        assert (np.ravel(robot._arm.joint_acceleration_limit.get()) <= 1.0).all()
        assert (np.ravel(robot._arm.joint_jerk_limit.get()) <= 500.0).all()
        assert robot.profile.arm is not None
        assert (robot.profile.arm.velocity <= 0.262).all()
        assert (robot.profile.arm.acceleration <= 0.65).all()
        assert robot._arm.state.m_load == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"profile": KITCHEN}, "must be one with an arm"),
        ({"speed": 0.0}, "must be a share of the limits"),
        ({"speed": 1.1}, "must be a share of the limits"),
    ],
)
def test_an_impossible_setting_is_refused_before_anything_is_connected(setting: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        FrankaConfig(**setting)


def test_nobody_at_the_host_is_one_sentence() -> None:
    with pytest.raises(RobotUnavailable, match=f"no robot to drive at {address(9)}: .*refused") as caught:
        FrankaRobot(address(9), FixedObjects(OBJECTS), CONFIG)
    assert "\n" not in str(caught.value)


def test_a_second_simulated_robot_needs_an_address_of_its_own(host: str) -> None:
    with pytest.raises(AddressInUse, match=f"runs at {host} already"), simulated_robot(host):
        pass
    with pytest.raises(InvalidInput, match="address of this machine"), simulated_robot("192.0.2.1"):
        pass


def serve_touchy(on_ready: Callable[[str], None], host: str) -> None:
    """A simulated robot that takes itself to have collided when its joint 1 has gone 0.1 rad, and stops as one does."""
    from franky_sim.franka_robot_protocol import MoveStatus, RobotCommand, RobotMode
    from franky_sim.franka_robot_server import BaseCommand, FrankaRobotServer

    calm, process = FrankaRobotServer.robot_state.fget, FrankaRobotServer.process_commands  # type: ignore[attr-defined]
    joint_reflex = 6  # its place among libfranka's errors
    errors = tuple(number == joint_reflex for number in range(41))
    hit: list[FrankaRobotServer] = []

    def robot_state(server: FrankaRobotServer) -> Any:
        state = calm(server)
        return state.replace(robot_mode=RobotMode.kReflex, errors=errors, reflex_reason=errors) if hit else state

    def process_commands(server: FrankaRobotServer) -> None:
        process(server)
        if not hit and server.current_motion_id and server.robot.inner_state.q[0] > HOME[0] + 0.1:
            hit.append(server)
            BaseCommand.send_response(
                server._tcp_socket, RobotCommand.kMove, server.current_motion_id, MoveStatus.kReflexAborted
            )
            server.reset_current_motion_id()
            server.stop_motion(send_preemption_signal=False)

    FrankaRobotServer.robot_state = property(robot_state)  # type: ignore[method-assign]
    FrankaRobotServer.process_commands = process_commands  # type: ignore[method-assign]
    simulated.serve(on_ready, host)


def test_a_reflex_ends_the_run_with_its_reason() -> None:
    with own_process(serve_touchy, address(2)) as host, closing(franka(host)) as robot:
        with pytest.raises(RobotStopped, match="reflex") as caught:
            drive_on(robot)
        assert "joint_reflex" in str(caught.value)
        assert "\n" not in str(caught.value)
        robot.stop()  # there is nothing left to stop
        with pytest.raises(RobotStopped, match=r"in mode Reflex \(joint_reflex\); must be"):
            robot.observe()


def serve_pid(on_ready: Callable[[str], None], host: str) -> None:
    """A simulated robot that says, besides where, in which process it runs."""
    simulated.serve(lambda address: on_ready(f"{os.getpid()} {address}"), host)


def test_a_robot_that_vanishes_ends_the_run() -> None:
    with own_process(serve_pid, address(3)) as process_and_host:
        process, host = process_and_host.split()
        with closing(franka(host)) as robot:
            robot.apply(lead(robot, 0.1, 0, 0, 0, 0, 0, 0))
            os.kill(int(process), signal.SIGKILL)
            with pytest.raises(RobotStopped, match=f"the robot at {host} stopped"):
                watch_on(robot)
            robot.stop()


DRIVES = """
import sys
sys.path[:0] = {path!r}
from rpl_runtime.loop.heartbeat import Heartbeat

def main():
    # The process that watches imports this file too, and needs none of these.
    from contextlib import closing
    import numpy as np
    from fake_clock import FakeClock
    from rpl_runtime.client.budget import TimeBudget
    from rpl_runtime.client.control import Control
    from rpl_runtime.loop import realtime
    from rpl_runtime.relay.run import RunConfig
    from rpl_runtime.robots.franka import FrankaConfig, FrankaRobot
    from rpl_runtime.robots.franka.objects import UNTOUCHED, FixedObjects
    from scripted_line import MODEL, Script

    line = Script(FakeClock(), lambda number: 0)
    reply = line._reply
    def lead(request):
        answer = reply(request)
        if not hasattr(request, "observed_ns"):
            return answer
        target = np.append(request.state[:7] + np.array([0.1, 0, 0, 0, 0, 0, 0]), [0.04, 0.04])
        return answer._replace(target=target, valid_until_ns=request.observed_ns + 80_000_000)
    line._reply = lead
    moving = lambda step: print("moves", flush=True) if step.step == 8 else None
    robot = FrankaRobot({host!r}, FixedObjects(UNTOUCHED), FrankaConfig(realtime=False))
    control, config, budget = Control(MODEL, line), RunConfig(("microwave",), 500), TimeBudget(hold_periods=1000)
    with Heartbeat() as heartbeat, closing(robot):
        realtime.drive(robot, control, config, moving, budget=budget, heartbeat=heartbeat)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_arm_whose_process_dies_or_stops_comes_to_rest_inside_its_limits(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Nothing here can command it any more: it is the robot's own stop, as far as the simulated one has it."""
    program = tmp_path / "drives.py"
    with simulated_robot(address(5)) as host:
        program.write_text(DRIVES.format(path=sys.path, host=host))
        with started([sys.executable, program], stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "moves\n", process.communicate()
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert ("the robot left to its own stop" in errors) == (number is signal.SIGSTOP)
        with closing(FrankaRobot(host, FixedObjects(OBJECTS), CONFIG)) as robot:
            wait_until(robot, lambda: bool(abs(np.ravel(robot._arm.state.dq)).max() < 1e-3))
            joints, profile = np.ravel(robot._arm.state.q), PROFILES["fr3"]
            assert joints[0] > to_franka(HOME)[0] + 0.02
    assert ((joints >= profile.low[:7]) & (joints <= profile.high[:7])).all()
    assert profile.arm is not None
    flange, _ = flange_pose(joints)
    assert ((flange >= profile.arm.workspace.low) & (flange <= profile.arm.workspace.high)).all()


def test_the_example_simulates_a_robot_until_ctrl_c() -> None:
    script = ROOT / "examples" / "franky_sim_robot.py"
    with started([sys.executable, script, address(4)], stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert f"answers at {address(4)}" in process.stdout.readline()
        with closing(FrankaRobot(address(4), FixedObjects(OBJECTS), CONFIG)) as robot:
            np.testing.assert_allclose(robot.observe()[:7], HOME, atol=0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_a_simulated_robot_starts_no_python_to_find_glfw():
    program = """
import sys
started = []
sys.addaudithook(lambda event, arguments: started.append(arguments[0]) if event == "subprocess.Popen" else None)
from rpl_runtime.robots.franka.sim import serve

def stop(host):
    raise KeyboardInterrupt

serve(stop, sys.argv[1])
print(sys.executable in started, "glfw" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYGLFW")}
    command = [sys.executable, "-c", program, address(78)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]
