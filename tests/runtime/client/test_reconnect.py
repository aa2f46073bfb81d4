"""Runs that outlive their server: whatever is killed, lost or said twice, a run is the one that nothing happened to."""

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import policies
from faults import Cable, Death, Inside, Meddler, Mortal, free_port
from rpl_runtime.client import Action, Client, Control
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.on_robot import on_robot_control
from rpl_runtime.client.reconnect import ReconnectConfig, lasting_control, persist
from rpl_runtime.errors import (
    BundleError,
    InvalidInput,
    ModelNotFound,
    ProtocolViolation,
    RobotLeased,
    ServerUnavailable,
    StepOutOfOrder,
)
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.relay.run import RunConfig, RunResult
from rpl_runtime.robots.kitchen.task import KITCHEN as KITCHEN_TASK
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server import server
from rpl_runtime.server.server import ServerConfig, serve_in_thread

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

KITCHEN = Path(__file__).parents[3] / "models" / "kitchen"
STATES = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 5)).astype(np.float32)
IMPATIENT = ReconnectConfig(timeout_s=0.2)


def alone(bundle: Bundle, lead: int = 0, goals: dict[int, str] | None = None, robot: str = "a") -> np.ndarray:
    """The targets (12, 2) of a run in process; `goals` are set before the steps that they stand at."""
    loop = RelayLoop(OnnxPolicy(bundle), bundle.spec)
    loop.start(robot, bundle.spec.resolve(["door"], STATES[0]), 5, lead)
    targets = []
    for step, state in enumerate(STATES):
        if goals and step in goals:
            loop.set_goal(robot, bundle.spec.resolve([goals[step]], state))
        targets.append(loop.step([robot], [step], state[None]).action[0])
    return np.array(targets)


def impatient_control(address: str) -> Control:
    """A control that takes messages for lost as soon as a busy machine allows."""
    for _ in range(20):
        with contextlib.suppress(ServerUnavailable):
            return lasting_control(address, IMPATIENT)
    return lasting_control(address, IMPATIENT)


def drive(
    control: Control, lead: int = 0, first: int = 0, last: int = len(STATES), robot: str = "a"
) -> list[np.ndarray]:
    """The targets of a run through a control, or of a part of it."""
    if first == 0:
        control.start(robot, ["door"], STATES[0], seed=5, plan_lead=lead)
    return [control.step(robot, step, STATES[step]).target for step in range(first, last)]


class Host:
    """A server in this process that goes and comes back at one address, with whatever bundle."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._running = ExitStack()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.go()

    def come(self, bundle: Bundle) -> None:
        self._running.enter_context(serve_in_thread(bundle, ServerConfig(self.address, drain_s=0)))

    def go(self) -> None:
        self._running.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def test_a_run_resumes_with_the_goal_that_an_operator_sent(host: Host, tiny_bundle: Bundle) -> None:
    host.come(tiny_bundle)
    with lasting_control(host.address) as control:
        drive(control, last=2)
        with Admin(host.address) as admin:
            sent = admin.set_goal("a", ["lamp"])
        drive(control, first=2, last=4)
        host.go()
        host.come(tiny_bundle)
        drive(control, first=4, last=5)
        with Admin(host.address) as admin:
            found = admin.robot("a")
    np.testing.assert_array_equal([found.goal, found.mask], sent)


# ---------------------------------------------------------------------------------------------------------- kills


@cache
def undisturbed(config: RunConfig) -> RunResult:
    with (
        closing(SimulatedRobot(KITCHEN_TASK)) as robot,
        serve_in_thread(load_bundle(KITCHEN)) as address,
        Client(address) as client,
    ):
        return run(robot, client.control(), config)


def killed(config: RunConfig, deaths: list[Death]) -> RunResult:
    """The last of the runs that it takes for all deaths to happen; the others were no different."""
    last = None
    with (
        closing(SimulatedRobot(KITCHEN_TASK)) as robot,
        Mortal(KITCHEN, deaths) as mortal,
        lasting_control(mortal.address) as control,
    ):
        while mortal.died < len(deaths) or last is None:
            result = run(robot, control, config)
            if last is not None:
                assert_same(result, last)
            last = result
    return last


def assert_same(found: RunResult, expected: RunResult) -> None:
    """Equal to the last bit, step for step."""
    assert (found.digest, found.done) == (expected.digest, expected.done)
    for field in ("states", "targets", "subgoals", "replanned", "final_state"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)


@pytest.mark.parametrize(
    ("lead", "deaths"),
    [
        (0, [Inside("plan", 1, computed=False), Inside("act", 5, computed=True)]),
        (3, [Inside("plan", 2, computed=True), 0.05]),
    ],
)
def test_a_server_that_is_killed_changes_nothing(lead: int, deaths: list[Death]) -> None:
    config = RunConfig(("microwave", "kettle"), steps=70, seed=7, plan_lead=lead)
    assert_same(killed(config, deaths), undisturbed(config))


def test_a_run_goes_on_at_another_replica() -> None:
    """Two replicas, each killed in turn while the run is on it."""
    config = RunConfig(("microwave", "kettle"), steps=70, seed=7, plan_lead=3)
    with (
        closing(SimulatedRobot(KITCHEN_TASK)) as robot,
        Mortal(KITCHEN, [Inside("act", 20, computed=True)]) as first,
        Mortal(KITCHEN, [Inside("plan", 1, computed=False)]) as second,
        lasting_control(f"{first.address},{second.address}") as control,
    ):
        result = run(robot, control, config)
        assert (first.died, second.died) == (1, 1)
    assert_same(result, undisturbed(config))


def test_a_replica_of_another_version_is_passed_over(own_bundle: Bundle, tmp_path: Path) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    with Host() as first, Host() as second, Host() as third:
        for host, bundle in ((first, own_bundle), (second, other), (third, own_bundle)):
            host.come(bundle)
        with lasting_control(f"{first.address}, {second.address}, {third.address}") as control:
            before = drive(control, last=5)
            first.go()
            np.testing.assert_array_equal(before + drive(control, first=5), alone(own_bundle))


def test_a_replica_that_is_away_at_the_start_is_passed_over(host: Host, tiny_address: str) -> None:
    with lasting_control(f"{host.address},{tiny_address}") as control:
        assert len(drive(control)) == len(STATES)
    with pytest.raises(InvalidInput, match="or more with commas"):
        lasting_control(" , ")


@pytest.mark.long
@pytest.mark.parametrize("lead", [0, 3])
def test_fifty_kills_change_nothing(lead: int) -> None:
    rng = random.Random(lead)
    config = RunConfig(("microwave", "kettle", "bottom burner", "slide cabinet"), 280, seed=8, plan_lead=lead)
    deaths: list[Death] = [rng.uniform(0.0, 0.5) for _ in range(25)]
    deaths += [Inside("plan", rng.randint(1, 4), rng.random() < 0.5) for _ in range(15)]
    deaths += [Inside("act", rng.randint(1, 60), rng.random() < 0.5) for _ in range(10)]
    rng.shuffle(deaths)
    assert_same(killed(config, deaths), undisturbed(config))


# ------------------------------------------------------------------------------------------------------- messages

FAULTS = ["drop request", "drop reply", "late", "duplicate request", "duplicate reply", "older reply first", "cut"]


def assert_unchanged(faults: list[dict[int, str]], lead: int, address: str, bundle: Bundle) -> list[list[str]]:
    """Run a robot with each of these faults, all at once: most of it is waiting. Returns what happened to each."""

    def run_one(robot: str, own: dict[int, str]) -> list[str]:
        with Meddler(address, own) as meddler, impatient_control(meddler.address) as control:
            targets = drive(control, lead, robot=robot)
            assert control.finish(robot) == len(STATES)
        np.testing.assert_array_equal(targets, alone(bundle, lead, robot=robot), err_msg=f"{own}")
        return meddler.happened

    with ThreadPoolExecutor(len(faults)) as pool:
        return list(pool.map(run_one, map(str, range(len(faults))), faults))


@pytest.mark.parametrize("lead", [0, 2])
def test_messages_that_go_astray_change_nothing(lead: int, tiny_address: str, tiny_bundle: Bundle) -> None:
    """The start, a step in the middle of a subgoal, and one around which a plan is made."""
    faults = [dict.fromkeys((0, 4, 10), fault) for fault in FAULTS]
    assert assert_unchanged(faults, lead, tiny_address, tiny_bundle) == [[fault] * 3 for fault in FAULTS]


def test_all_kinds_of_faults_together_change_nothing(tiny_address: str, tiny_bundle: Bundle) -> None:
    rngs = [random.Random(seed) for seed in range(3)]
    faults = [{number: rng.choice(FAULTS) for number in rng.sample(range(30), 8)} for rng in rngs]
    happened = assert_unchanged(faults, 2, tiny_address, tiny_bundle)
    assert min(map(len, happened)) > 3


def test_a_network_that_drops_a_connection_frees_the_robot_in_time(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server still holds the robot for a stream whose other end it cannot hear of."""
    monkeypatch.setattr(server, "_SILENCE_S", 1.0)
    with serve_in_thread(own_bundle) as address, Cable(address) as cable, impatient_control(cable.address) as control:
        before = drive(control, last=6)
        cable.pull()
        with Client(address) as other, other.control() as stream, pytest.raises(RobotLeased):
            stream.start("a", ["door"], STATES[0])
        after = drive(control, first=6)
        np.testing.assert_array_equal(before + after, alone(own_bundle))


# ------------------------------------------------------------------------------------------------------- the rules


def test_a_goal_that_was_set_is_the_goal_after_an_outage(host: Host, own_bundle: Bundle) -> None:
    """Whether a step has followed it already, or not."""
    goals = {3: "lamp", 6: "dock"}
    host.come(own_bundle)
    targets = []
    with lasting_control(host.address) as control:
        control.start("a", ["door"], STATES[0], seed=5, plan_lead=2)
        for step, state in enumerate(STATES):
            if step in goals:
                control.set_goal("a", [goals[step]], state)
            if step in (3, 5, 7):
                host.go()
                host.come(own_bundle)
            targets.append(control.step("a", step, state).target)
    np.testing.assert_array_equal(targets, alone(own_bundle, 2, goals=goals))


@pytest.mark.parametrize("pinned", [False, True])
def test_a_robot_in_hand_is_in_the_same_hand_after_an_outage(pinned: bool, host: Host, own_bundle: Bundle) -> None:
    """Whenever the server goes: before the first step, by hand, and before the policy has decided again."""

    def by_hand(outages: set[str]) -> list[np.ndarray]:
        def outage(when: str) -> None:
            if when in outages:
                host.go()
                host.come(own_bundle)

        with lasting_control(host.address) as control:
            control.start("a", ["door"], STATES[0], seed=5, plan_lead=2)
            if pinned:
                control.step("a", 0, STATES[0])
                with Admin(host.address) as admin:
                    admin.pin("a", STATES[7])
                control.step("a", 1, STATES[1])
            first = 2 if pinned else 0
            assert control.take_over("a", "gamepad", "it hangs") == first
            outage("taken")
            for step in range(first, 5):
                assert control.applied("a", step, STATES[step], np.zeros(2)).step == step
                outage(f"applied {step}")
            with pytest.raises(ProtocolViolation, match="in the hand of gamepad already"):
                control.take_over("a", "spacemouse")
            assert control.hand_back("a") == 5
            outage("handed back")
            actions = [control.step("a", step, STATES[step]) for step in range(5, 12)]
        assert [action.age for action in actions] == [0, 1, 2, 3, 0, 1, 2]
        return [action.target for action in actions]

    host.come(own_bundle)
    expected = by_hand(set())
    for outages in ({"taken"}, {"applied 3"}, {"applied 4", "handed back"}, {"handed back"}):
        np.testing.assert_array_equal(by_hand(outages), expected)


def test_a_robot_that_an_operator_led_is_the_policys_after_an_outage(host: Host, own_bundle: Bundle) -> None:
    """No operator is at another server, and the subgoal was for another place."""
    host.come(own_bundle)
    with lasting_control(host.address) as control:
        control.start("a", ["door"], STATES[0], seed=5)
        control.step("a", 0, STATES[0])
        with Admin(host.address) as admin:
            admin.take_over("a", "anna")
        assert control.step("a", 1, STATES[1]).author == "anna"
        host.go()
        host.come(own_bundle)
        after = control.step("a", 2, STATES[2])
        assert (after.author, after.replanned) == ("", True)


def test_all_robots_of_a_stream_go_on(host: Host, own_bundle: Bundle) -> None:
    def drive_both(breaks: bool) -> list[np.ndarray]:
        targets = []
        with lasting_control(host.address) as control:
            for robot in "ab":
                control.start(robot, ["door"], STATES[0], seed=5)
            control.step("b", 0, STATES[0])  # at a step of its own
            for step, state in enumerate(STATES):
                if breaks and step % 3 == 0:
                    host.go()
                    host.come(own_bundle)
                for action in control.step_batch(["a", "b"], [step, step + 1], [state, state]):
                    assert isinstance(action, Action)
                    targets.append(action.target)
        return targets

    host.come(own_bundle)
    np.testing.assert_array_equal(drive_both(breaks=True), drive_both(breaks=False))


def test_an_action_of_a_resumed_run_is_like_any_other(host: Host, own_bundle: Bundle) -> None:
    host.come(own_bundle)
    with lasting_control(host.address) as control:
        first = control.start("a", ["door"], STATES[0], seed=5)
        before = control.step("a", 0, STATES[0])
        host.go()
        host.come(own_bundle)
        after = control.step("a", 1, STATES[1])
    assert first.digest == own_bundle.digest
    assert (after.age, after.replanned) == (1, False)
    np.testing.assert_array_equal(after.subgoal, before.subgoal)


def test_another_bundle_does_not_go_on_with_a_run(host: Host, own_bundle: Bundle, tmp_path: Path) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    host.come(own_bundle)
    with lasting_control(host.address) as control:
        drive(control, last=3)
        host.go()
        host.come(other)
        with pytest.raises(BundleError, match=f"runs bundle {other.digest[:12]}.*for bundle {own_bundle.digest[:12]}"):
            control.step("a", 3, STATES[3])
        host.go()
        host.come(own_bundle)
        np.testing.assert_array_equal(drive(control, first=3), alone(own_bundle)[3:])


def test_a_server_that_stays_away_is_one_sentence_and_the_run_still_stands(host: Host, own_bundle: Bundle) -> None:
    host.come(own_bundle)
    with lasting_control(host.address, ReconnectConfig(patience_s=0.3)) as control:
        drive(control, last=3)
        host.go()
        sentence = rf"gave up after 0\.\d s and \d+ tries: no server answers at {host.address}"
        with pytest.raises(ServerUnavailable, match=sentence):
            control.step("a", 3, STATES[3])
        host.come(own_bundle)
        np.testing.assert_array_equal(drive(control, first=3), alone(own_bundle)[3:])


@pytest.mark.parametrize("open_control", [lasting_control, on_robot_control])
def test_a_run_is_on_the_model_that_is_named(
    open_control: Callable[[str, ReconnectConfig], Control],
    own_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = policies.tiny_bundle(tmp_path / "other", policies.tiny_spec().model_copy(update={"name": "other"}), seed=1)
    with serve_in_thread([own_bundle, other]) as address:
        with open_control(address, ReconnectConfig("other")) as control:
            assert control.start("a", ["door"], STATES[0]).digest == other.digest
            assert control.step("a", 0, STATES[0]).replanned
        with open_control(address, ReconnectConfig()) as control:
            assert control.start("a", ["door"], STATES[0]).digest == own_bundle.digest
        with pytest.raises(ModelNotFound, match="no model is named 'third'; served are tiny, other"):
            open_control(address, ReconnectConfig("third"))


def test_a_closed_control_says_so(tiny_address: str) -> None:
    with lasting_control(tiny_address) as control:
        control.start("a", ["door"], STATES[0])
    with pytest.raises(ProtocolViolation, match="closed; open another"):
        control.step("a", 0, STATES[0])
    with Client(tiny_address) as client, client.control() as other:
        other.start("a", ["door"], STATES[0])  # and the robot is free


def test_nobody_at_the_address_is_said_at_once(host: Host) -> None:
    with pytest.raises(ServerUnavailable, match=f"no server answers at {host.address}; is `rpl serve` running there"):
        lasting_control(host.address)


def test_what_the_robot_does_wrong_is_refused_as_ever(tiny_address: str) -> None:
    """And costs nothing of the time for servers that are gone."""
    never = ReconnectConfig(patience_s=float("inf"))
    with lasting_control(tiny_address, never) as control, lasting_control(tiny_address, never) as other:
        with pytest.raises(ProtocolViolation, match="send a Start first"):
            control.step("a", 0, STATES[0])
        control.start("a", ["door"], STATES[0])
        with pytest.raises(RobotLeased, match="another stream"):
            other.start("a", ["door"], STATES[0])
        with pytest.raises(RobotLeased, match="this stream"):
            control.start("a", ["door"], STATES[0])
        with pytest.raises(StepOutOfOrder, match="sent step 4; the next one is 0"):
            control.step("a", 4, STATES[0])
        with pytest.raises(InvalidInput, match="finite"):
            control.step("a", 0, STATES[0] * np.nan)
        with pytest.raises(RobotLeased, match="only that stream can take it over"):
            other.take_over("a", "gamepad")
        with pytest.raises(ProtocolViolation, match="only a robot in hand can be handed back"):
            control.hand_back("a")
        with pytest.raises(ProtocolViolation, match="send a TakeOver before"):
            control.applied("a", 0, STATES[0], np.zeros(2))
        assert control.step("a", 0, STATES[0]).replanned
        assert control.finish("a") == 1
        with pytest.raises(ProtocolViolation, match="send a Start first"):
            control.finish("a")


# ---------------------------------------------------------------------------------------- a world that does not wait

MOVING = ReconnectConfig(waits=False)


def test_a_moving_world_gets_no_answer_to_an_old_state(host: Host, own_bundle: Bundle) -> None:
    host.come(own_bundle)
    with lasting_control(host.address, MOVING) as control:
        drive(control, last=2)
        host.go()
        with pytest.raises(ServerUnavailable, match="gave up"):
            control.step("a", 2, STATES[2])
        with pytest.raises(ServerUnavailable, match="gave up"):
            control.step("a", 2, STATES[3])
        host.come(own_bundle)
        action = control.step("a", 2, STATES[4])
        following = control.step("a", 3, STATES[5])
    expected = RelayLoop(OnnxPolicy(own_bundle), own_bundle.spec)
    expected.start("a", own_bundle.spec.resolve(["door"], STATES[0]), seed=5)
    for step, state in enumerate((STATES[0], STATES[1], STATES[4], STATES[5])):
        if step == 2:
            expected.set_goal("a", own_bundle.spec.resolve(["door"], STATES[0]))  # which replans
        decision = expected.step(["a"], [step], state[None])
    assert action.replanned
    assert following.age == 1
    np.testing.assert_array_equal(following.target, decision.action[0])


def test_a_moving_world_has_its_request_tried_again_within_the_period(host: Host, own_bundle: Bundle) -> None:
    """A stream that broke while nobody used it costs no step."""
    spec = policies.tiny_spec().model_copy(update={"period_s": 60.0})
    slow = policies.tiny_bundle(own_bundle.path, spec)
    host.come(slow)
    with lasting_control(host.address, MOVING) as control:
        drive(control, last=2)
        host.go()
        host.come(slow)
        assert control.step("a", 2, STATES[2]).replanned


# ----------------------------------------------------------------------------------------------------- persistence


def test_persistence_ends_when_it_is_told_to() -> None:
    over, tries = threading.Event(), []

    def ask() -> None:
        tries.append(None)
        if len(tries) == 3:
            over.set()
        raise ServerUnavailable("away")

    with pytest.raises(ServerUnavailable, match=r"gave up after .* and 3 tries: away"):
        persist(ask, float("inf"), over)


def test_persistence_does_not_hide_other_errors() -> None:
    def ask() -> None:
        raise InvalidInput("wrong")

    with pytest.raises(InvalidInput, match="wrong"):
        persist(ask, float("inf"), threading.Event())


def test_a_server_that_is_not_up_yet_is_awaited_if_asked_for(tiny_bundle: Bundle) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnavailable, match=f"at {address}; .* at localhost:1; is"):  # both are named
        lasting_control(f"{address},localhost:1")
    refused = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            refused.set()

    heard = Heard()
    logging.getLogger("rpl_runtime.client.reconnect").addHandler(heard)
    try:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(lasting_control, address, ReconnectConfig(first_s=60.0))
            assert refused.wait(60)
            with serve_in_thread(tiny_bundle, ServerConfig(address=address)), coming.result(60) as control:
                assert control.model.digest == tiny_bundle.digest
    finally:
        logging.getLogger("rpl_runtime.client.reconnect").removeHandler(heard)
