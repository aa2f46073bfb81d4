"""The low level beside the robot: the same actions as through a stream, and plans that nobody waits for."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from faults import Inside, Meddler, Mortal, free_port
from rpl_runtime.client import Client, Control
from rpl_runtime.client.on_robot import cached_bundle, on_robot_control
from rpl_runtime.client.reconnect import ReconnectConfig
from rpl_runtime.errors import (
    BundleError,
    InvalidGoal,
    InvalidInput,
    ProtocolViolation,
    RobotLeased,
    ServerUnavailable,
    StepOutOfOrder,
)
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.manifest import Stall
from rpl_runtime.relay.run import RunConfig, RunResult
from rpl_runtime.robots.kitchen.task import KITCHEN as KITCHEN_TASK
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import ServerConfig, serve_in_thread

KITCHEN = Path(__file__).parents[3] / "models" / "kitchen"
STATES = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "relay-policy" / "bundles"


def drive(control: Control, first: int = 0, last: int = len(STATES), **options: Any) -> list[np.ndarray]:
    """The targets of a run through a control, or of a part of it."""
    if first == 0:
        control.start("a", ["door"], STATES[0], **options)
    return [control.step("a", step, STATES[step]).target for step in range(first, last)]


def assert_same(found: RunResult, expected: RunResult) -> None:
    """Equal to the last bit, step for step."""
    assert (found.digest, found.done) == (expected.digest, expected.done)
    for field in ("states", "targets", "subgoals", "replanned", "final_state"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)


# ------------------------------------------------------------------------------------------------------- equality


@pytest.fixture(scope="module")
def both(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, Control]]:
    """Controls of the same server, one with the low level here."""
    with pytest.MonkeyPatch.context() as patch, serve_in_thread(tiny_bundle) as address, Client(address) as client:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with on_robot_control(address) as here, client.control() as there:
            drive(here, plan_lead=1)  # what asks for plans begins with the first
            here.finish("a")
            yield here, there


@given(
    lead=st.integers(0, 3),
    seed=st.none() | st.integers(0, 2**64 - 1),
    robot=st.text(min_size=1, max_size=8).filter(str.isprintable),
    changes=st.dictionaries(st.integers(0, 20), st.sampled_from(["door", "lamp", "dock"]), max_size=4),
    steps=st.integers(1, 20),
    states=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_every_action_is_the_one_that_the_server_would_have_sent(
    both: tuple[Control, Control], lead: int, seed: int | None, robot: str, changes: dict, steps: int, states: int
) -> None:
    walk = np.random.default_rng(states).uniform(-0.4, 0.4, (steps, 5)).astype(np.float32)
    runs = []
    for control in both:
        started = control.start(robot, ["door"], walk[0], seed, lead)
        actions = []
        for step, state in enumerate(walk):
            if step in changes:
                control.set_goal(robot, [changes[step]], state)
            actions.append(control.step(robot, step, state))
        assert control.finish(robot) == steps
        runs.append((started, actions))
    (here, local), (there, remote) = runs
    assert (here.digest, here.period_s, here.horizon) == (there.digest, there.period_s, there.horizon)
    np.testing.assert_array_equal(here.goal, there.goal)
    for found, expected in zip(local, remote, strict=True):
        np.testing.assert_array_equal(found.target, expected.target)
        np.testing.assert_array_equal(found.subgoal, expected.subgoal)
        assert (found.age, found.replanned) == (expected.age, expected.replanned)


def test_a_policy_asks_for_help_beside_the_robot_too(tmp_path: Path, cache: Path) -> None:
    bundle = policies.tiny_bundle(tmp_path / "bundle", stall=Stall(limit=3.5, rate=0.1, episodes=20))
    helps = []
    with serve_in_thread(bundle) as address, Client(address) as client:
        for control in (client.control(), on_robot_control(address)):
            with control:
                control.start("a", ["door"], STATES[0])
                helps.append([control.step("a", step, STATES[0]).help for step in range(6)])
    assert helps[0] == helps[1]
    assert helps[1][-1]
    assert not helps[1][0]


@pytest.mark.parametrize("lead", [0, 3])
def test_an_episode_is_the_one_that_the_server_would_have_driven(lead: int) -> None:
    config = RunConfig(("microwave", "kettle"), steps=100, seed=3, plan_lead=lead)
    with (
        closing(SimulatedRobot(KITCHEN_TASK)) as robot,
        serve_in_thread(load_bundle(KITCHEN)) as address,
        Client(address) as client,
        client.control() as there,
        on_robot_control(address) as here,
    ):
        assert_same(run(robot, here, config), run(robot, there, config))


def test_what_is_not_acceptable_is_refused_as_by_a_server(both: tuple[Control, Control]) -> None:
    here, _ = both
    with pytest.raises(InvalidGoal, match="'window'; must be one of door, lamp, dock"):
        here.start("a", ["window"], STATES[0])
    with pytest.raises(InvalidInput, match="plan_lead is 4; must be 0 to 3"):
        here.start("a", ["door"], STATES[0], plan_lead=4)
    with pytest.raises(ProtocolViolation, match="send a Start first"):
        here.step("a", 0, STATES[0])
    here.start("a", ["door"], STATES[0])
    with pytest.raises(RobotLeased, match="this stream"):
        here.start("a", ["door"], STATES[0])
    with pytest.raises(StepOutOfOrder, match="sent step 1; the next one is 0"):
        here.step("a", 1, STATES[0])
    with pytest.raises(InvalidInput, match="finite"):
        here.step("a", 0, STATES[0] * np.nan)
    assert here.step("a", 0, STATES[0]).replanned
    here.finish("a")


# ----------------------------------------------------------------------------------------------------- plans ahead


def test_a_plan_is_under_way_while_the_robot_goes_on(tiny_address: str, tiny_client: Client) -> None:
    """The plan for step 4 is asked for at step 2 and held by the network until step 3 is over."""
    with tiny_client.control() as there:
        expected = drive(there, seed=5, plan_lead=2)
    with Meddler(tiny_address, {1: "hold"}) as meddler, on_robot_control(meddler.address) as here:
        before = drive(here, last=4, seed=5, plan_lead=2)
        meddler.held.set()
        after = drive(here, first=4)
    assert meddler.happened == ["hold"]
    np.testing.assert_array_equal(before + after, expected)


def test_a_new_goal_does_not_follow_the_plan_for_the_old_one(tiny_address: str) -> None:
    with on_robot_control(tiny_address) as here:
        drive(here, last=3, plan_lead=2)  # the plan for step 4 is asked for
        here.set_goal("a", ["lamp"], STATES[3])
        after = [here.step("a", step, STATES[step]) for step in (3, 4)]
    assert [action.age for action in after] == [0, 1]


def test_closing_waits_for_no_plan(tiny_address: str) -> None:
    with Meddler(tiny_address, {1: "hold"}) as meddler:
        with on_robot_control(meddler.address) as here:
            drive(here, last=3, plan_lead=2)
        assert not meddler.held.is_set()


# -------------------------------------------------------------------------------------------------------- outages


@pytest.mark.parametrize("lead", [0, 2])
@pytest.mark.parametrize("fault", ["drop request", "drop reply", "duplicate request"])
@pytest.mark.usefixtures("transport")
def test_plans_that_go_astray_change_nothing(fault: str, lead: int, tiny_bundle: Bundle, tiny_client: Client) -> None:
    with tiny_client.control() as there:
        expected = drive(there, seed=5, plan_lead=lead)
    config = ReconnectConfig(timeout_s=0.5)
    with (
        serve_in_thread(tiny_bundle) as address,
        Meddler(address, {0: fault, 2: fault}) as meddler,
        on_robot_control(meddler.address, config) as here,
    ):
        np.testing.assert_array_equal(drive(here, seed=5, plan_lead=lead), expected)
    assert meddler.happened == [fault] * 2


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("lead", [0, 2])
def test_a_server_that_is_killed_changes_nothing(lead: int, tiny_bundle: Bundle, tiny_client: Client) -> None:
    with tiny_client.control() as there:
        expected = drive(there, seed=5, plan_lead=lead)
    deaths = [Inside("plan", 1, computed=True), Inside("plan", 1, computed=False)]
    with Mortal(tiny_bundle.path, deaths) as mortal, on_robot_control(mortal.address) as here:
        np.testing.assert_array_equal(drive(here, seed=5, plan_lead=lead), expected)
        assert mortal.died == 2


def test_another_bundle_does_not_plan_for_a_run(own_bundle: Bundle, tmp_path: Path) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    settings = ServerConfig(f"127.0.0.1:{free_port()}", drain_s=0)
    with serve_in_thread(own_bundle, settings):
        here = on_robot_control(settings.address)
        drive(here, last=4)
    with (
        closing(here),
        serve_in_thread(other, settings),
        pytest.raises(BundleError, match=f"runs bundle {other.digest[:12]}.*for bundle {own_bundle.digest[:12]}"),
    ):
        here.step("a", 4, STATES[4])


def test_a_replica_of_another_version_is_passed_over(own_bundle: Bundle, tmp_path: Path, tiny_client: Client) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    with tiny_client.control() as there:
        whole = drive(there)
    with serve_in_thread(other) as wrong, serve_in_thread(own_bundle) as right:
        settings = ServerConfig(f"127.0.0.1:{free_port()}", drain_s=0)
        with serve_in_thread(own_bundle, settings):
            here = on_robot_control(f"{settings.address},{wrong},{right}")
            begun = drive(here, last=5)
        with closing(here):
            np.testing.assert_array_equal(begun + drive(here, first=5), whole)


@pytest.mark.parametrize("lead", [0, 2])
def test_a_moving_world_gets_a_plan_for_the_state_it_is_in(lead: int, own_bundle: Bundle, tiny_client: Client) -> None:
    """The plan for step 4 does not come, nor the next one; the run still stands, and plans anew in a newer state."""
    settings = ServerConfig(f"127.0.0.1:{free_port()}", drain_s=0)
    with serve_in_thread(own_bundle, settings):
        here = on_robot_control(settings.address, ReconnectConfig(waits=False))
        drive(here, last=2, plan_lead=lead)
    with closing(here):
        drive(here, first=2, last=4)
        for newer in (4, 5):
            with pytest.raises(ServerUnavailable, match="gave up"):
                here.step("a", 4, STATES[newer])
        with serve_in_thread(own_bundle, settings):
            action = here.step("a", 4, STATES[6])
            goal = own_bundle.spec.resolve(["door"], STATES[0])
            subgoal = tiny_client.plan(STATES[6][None], goal.state[None], goal.mask[None], np.zeros((1, 3)))
    assert action.replanned
    np.testing.assert_array_equal(action.subgoal, subgoal[0])


def test_a_server_that_stays_away_is_one_sentence(own_bundle: Bundle) -> None:
    with serve_in_thread(own_bundle, ServerConfig("127.0.0.1:0", drain_s=0)) as address:
        here = on_robot_control(address, ReconnectConfig(patience_s=0.2))
        drive(here, last=4)
    sentence = rf"gave up after 0\.\d s and \d+ tries: no server answers at {address}"
    with closing(here), pytest.raises(ServerUnavailable, match=sentence):
        here.step("a", 4, STATES[4])


def test_nobody_at_the_address_is_said_at_once() -> None:
    with pytest.raises(ServerUnavailable, match="no server answers"):
        on_robot_control(f"127.0.0.1:{free_port()}")


# ---------------------------------------------------------------------------------------------------------- cache


def test_a_bundle_is_fetched_once_and_checked_each_time(tiny_address: str, tiny_bundle: Bundle, cache: Path) -> None:
    folder = cache / tiny_bundle.digest
    with Meddler(tiny_address, {}) as meddler:
        for fetched in (1, 1):
            with on_robot_control(meddler.address) as here:
                assert here.model.digest == tiny_bundle.digest
            assert meddler.calls.count("Fetch") == fetched
        (folder / "low.onnx").write_bytes(b"other")
        with on_robot_control(meddler.address) as here:
            drive(here)
        assert meddler.calls.count("Fetch") == 2
    assert load_bundle(folder).digest == tiny_bundle.digest


def test_a_bundle_under_the_name_of_another_is_not_taken(
    tiny_client: Client, tiny_bundle: Bundle, tmp_path: Path, cache: Path
) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    shutil.copytree(other.path, cache / tiny_bundle.digest)
    assert cached_bundle(tiny_client, tiny_bundle.digest).digest == tiny_bundle.digest
    with pytest.raises(BundleError, match=f"the server sent bundle {tiny_bundle.digest[:12]}; must be abc"):
        cached_bundle(tiny_client, "abc")


def test_a_bundle_that_breaks_off_leaves_nothing(cache: Path) -> None:
    class Broken:
        def fetch(self, folder: Path) -> Bundle:
            raise ServerUnavailable("away")

    broken: Any = Broken()
    with pytest.raises(ServerUnavailable):
        cached_bundle(broken, "abc")
    assert not cache.exists()


def test_two_robots_of_one_control_do_not_share_plans(tiny_address: str, tiny_client: Client) -> None:
    with tiny_client.control() as there, on_robot_control(tiny_address) as here:
        targets = []
        for control in (there, here):
            for robot in "ab":
                control.start(robot, ["door"], STATES[0], seed=5, plan_lead=2)
            targets.append([control.step(robot, step, STATES[step]).target for step in range(9) for robot in "ab"])
    np.testing.assert_array_equal(*targets)
