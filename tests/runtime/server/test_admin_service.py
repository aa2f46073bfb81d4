"""The operator's calls to a running server, and their effect on its robots."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import policies
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import (
    BundleCorrupt,
    BundleError,
    BundleNotFound,
    InvalidInput,
    LimitReached,
    ModelNotFound,
    ProtocolViolation,
    RobotNotFound,
)
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.relay.messages import Action
from rpl_runtime.relay.run_state import Resume, SubgoalOverride
from rpl_runtime.server.server import ServerConfig, serve_in_thread

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATES = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 5)).astype(np.float32)


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Bundle, Bundle]:
    """Two versions of one policy."""
    return policies.tiny_bundle(tmp_path / "v1", seed=0), policies.tiny_bundle(tmp_path / "v2", seed=1)


@pytest.fixture
def other(tmp_path: Path) -> Bundle:
    """Another policy."""
    return policies.tiny_bundle(tmp_path / "other", policies.tiny_spec().model_copy(update={"name": "other"}))


@pytest.fixture
def address(versions: tuple[Bundle, Bundle]) -> Iterator[str]:
    with serve_in_thread(versions[0]) as address:
        yield address


@pytest.fixture
def admin(address: str) -> Iterator[Admin]:
    with Admin(address) as admin:
        yield admin


def alone(bundle: Bundle) -> np.ndarray:
    """The targets (12, 2) of the same run on a loop of its own."""
    loop = RelayLoop(OnnxPolicy(bundle), bundle.spec)
    loop.start("a", bundle.spec.resolve(["door"], STATES[0]), 5)
    return np.array([loop.step(["a"], [step], state[None]).action[0] for step, state in enumerate(STATES)])


def healthy(address: str, service: str) -> str:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def test_what_is_served_is_listed(admin: Admin, versions: tuple[Bundle, Bundle]) -> None:
    [model] = admin.models()
    assert (model.name, model.digest, model.path) == ("tiny", versions[0].digest, str(versions[0].path))
    assert (model.robots, model.is_default, model.retired) == (0, True, False)


def test_a_swap_keeps_running_loops_on_the_pair_they_began_with(
    address: str, admin: Admin, versions: tuple[Bundle, Bundle]
) -> None:
    first, second = versions
    with Client(address) as client, client.control() as before:
        assert before.start("a", ["door"], STATES[0], seed=5).digest == first.digest
        targets = [before.step("a", step, STATES[step]).target for step in range(6)]
        model, replaced = admin.load(str(second.path))
        assert (model.digest, replaced) == (second.digest, first.digest)
        targets += [before.step("a", step, STATES[step]).target for step in range(6, 12)]
        np.testing.assert_array_equal(targets, alone(first))
        assert client.describe().digest == second.digest
        with client.control() as after:
            assert before.finish("a") == 12
            assert after.start("a", ["door"], STATES[0], seed=5).digest == second.digest
            new = [after.step("a", step, state).target for step, state in enumerate(STATES)]
        np.testing.assert_array_equal(new, alone(second))


def test_a_run_that_began_before_a_swap_resumes_on_its_own_pair(
    address: str, admin: Admin, versions: tuple[Bundle, Bundle]
) -> None:
    """This is how a client resumes after its connection broke."""
    admin.load(str(versions[1].path))
    with Client(address, digest=versions[0].digest) as client, client.control() as control:
        assert control.start("a", ["door"], STATES[0]).digest == versions[0].digest
        listed = {model.digest: model for model in admin.models()}
        assert listed[versions[0].digest].retired
        assert listed[versions[0].digest].robots == 1
        assert listed[versions[1].digest].robots == 0


def test_a_subgoal_is_pinned_released_and_vetoed_while_its_robot_runs(address: str, admin: Admin) -> None:
    own = np.array([0.5, -0.5, 0.1, 0.2, 0.3], dtype=np.float32)
    with Client(address) as client, client.control() as control:
        control.start("a", ["door"], STATES[0], seed=5)
        planned = control.step("a", 0, STATES[0])
        assert planned.override is SubgoalOverride.NONE
        admin.pin("a", own.tolist())
        with pytest.raises(ProtocolViolation, match="is pinned; release it instead"):
            admin.veto("a")
        for step in range(1, 7):  # longer than a subgoal is kept
            pinned = control.step("a", step, STATES[step])
            np.testing.assert_array_equal(pinned.subgoal, own)
            assert pinned.override is SubgoalOverride.PINNED
        [status] = admin.robots()
        assert (status.robot, status.pinned, status.subgoal) == ("a", True, tuple(own.tolist()))
        admin.release("a")
        released = control.step("a", 7, STATES[7])
        assert (released.replanned, released.override) == (True, SubgoalOverride.RELEASED)
        admin.veto("a")
        vetoed = control.step("a", 8, STATES[8])
        assert (vetoed.replanned, vetoed.override) == (True, SubgoalOverride.VETOED)
        assert not np.array_equal(vetoed.subgoal, released.subgoal)
        [status] = admin.robots()
        assert (status.pinned, status.vetoes) == (False, 1)


def test_a_pin_by_a_clients_word_is_told_as_such(address: str, admin: Admin) -> None:
    with Client(address) as client, client.control() as control:
        goal = control.start("b", ["door"], STATES[0]).goal
        control.start("a", goal, resume=Resume(1, STATES[0], 1, None, SubgoalOverride.PINNED))
        assert control.step("a", 1, STATES[1]).override is SubgoalOverride.CLAIMED
        claimed, _ = admin.robots()
        assert (claimed.robot, claimed.pinned, claimed.claimed) == ("a", True, True)
        admin.pin("a", STATES[0].tolist())
        assert control.step("a", 2, STATES[2]).override is SubgoalOverride.PINNED
        assert not admin.robot("a").claimed


def test_who_has_a_robot_in_hand_is_told(address: str, admin: Admin) -> None:
    with Client(address) as client, client.control() as control:
        control.start("a", ["door"], STATES[0])
        assert admin.robot("a").hand == ""
        control.take_over("a", "gamepad")
        control.applied("a", 0, STATES[0], np.zeros(2))
        status = admin.robot("a")
        assert (status.hand, status.step, status.subgoal) == ("gamepad", 1, ())
        control.hand_back("a")
        assert admin.robot("a").hand == ""


@pytest.mark.parametrize("together", [False, True])
def test_an_operator_leads_a_robot_and_hands_it_back(address: str, admin: Admin, together: bool) -> None:
    """Whether its steps come alone or with those of others, in columns."""
    led = (0.25, -0.25)
    with Client(address) as client, client.control() as control:

        def step(number: int) -> Action:
            if not together:
                return control.step("a", number, STATES[number])
            actions = control.step_batch(["a", "b"], [number] * 2, STATES[[number] * 2])
            assert all(isinstance(action, Action) for action in actions)
            return cast(Action, actions[0])

        for robot in ("a", "b"):
            control.start(robot, ["door"], STATES[0], seed=5)
        with pytest.raises(ProtocolViolation, match="has sent no state yet; it can be taken over after a step"):
            admin.take_over("a", "anna")
        step(0)
        hand = admin.take_over("a", "anna")
        assert admin.steer("a", hand) == ()
        first = step(1)
        assert (first.author, admin.robot("a").hand) == ("anna", "anna")
        np.testing.assert_allclose(admin.steer("a", hand), first.target)
        assert admin.steer("a", hand, led) == led
        np.testing.assert_array_equal(step(2).target, led)
        for target, sentence in (([0.0] * 3, "the target has shape"), ([9.0, 0.0], "must be a finite number")):
            with pytest.raises(InvalidInput, match=sentence):
                admin.steer("a", hand, target)
        with pytest.raises(ProtocolViolation, match="is in the hand of anna already; must be handed back first"):
            admin.take_over("a", "ben")
        with pytest.raises(ProtocolViolation, match="is not in your hand"):
            admin.hand_back("a", "ben's")
        np.testing.assert_array_equal(step(3).target, led)
        admin.hand_back("a", hand)
        after = step(4)
        assert (after.author, after.replanned, admin.robot("a").hand) == ("", True, "")
        assert step(5).age == 1
        with pytest.raises(RobotNotFound):
            admin.take_over("nobody", "anna")


def test_what_cannot_be_pinned_or_vetoed_changes_nothing(address: str, admin: Admin) -> None:
    for ask in (lambda: admin.pin("nobody", [0.0] * 5), lambda: admin.veto("nobody"), lambda: admin.release("nobody")):
        with pytest.raises(RobotNotFound, match="no robot 'nobody' runs here"):
            ask()
    with Client(address) as client, client.control() as control:
        control.start("a", ["door"], STATES[0])
        subgoal = control.step("a", 0, STATES[0]).subgoal
        with pytest.raises(InvalidInput, match="subgoal"):
            admin.pin("a", [0.0] * 4)
        with pytest.raises(ProtocolViolation, match="only a pinned one can be released"):
            admin.release("a")
        after = control.step("a", 1, STATES[1])
        np.testing.assert_array_equal(after.subgoal, subgoal)
        assert not after.replanned


def test_while_models_are_swapped_no_call_fails(address: str, admin: Admin, versions: tuple[Bundle, Bundle]) -> None:
    over = threading.Event()
    digests: set[str] = set()
    failures: list[Exception] = []

    def drive(robot: str) -> None:
        try:
            with Client(address) as client:
                while not over.is_set():
                    with client.control() as control:
                        digests.add(control.start(robot, ["door"], STATES[0]).digest)
                        for step, state in enumerate(STATES):
                            control.step(robot, step, state)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=drive, args=(robot,)) for robot in "ab"]
    for thread in threads:
        thread.start()
    for number in range(10):
        admin.load(str(versions[(number + 1) % 2].path))
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert digests <= {bundle.digest for bundle in versions}
    assert len(admin.models()) == 2


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda path: (path / "low.onnx").write_bytes(b"other"), BundleCorrupt),
        (lambda path: (path / "manifest.json").unlink(), BundleNotFound),
        (lambda path: (path / "manifest.json").write_text("{}"), BundleError),
    ],
)
def test_a_bundle_that_fails_verification_leaves_the_old_one_serving(
    damage: object, error: type[Exception], address: str, admin: Admin, versions: tuple[Bundle, Bundle]
) -> None:
    damage(versions[1].path)  # type: ignore[operator]
    with pytest.raises(error):
        admin.load(str(versions[1].path))
    assert [model.digest for model in admin.models()] == [versions[0].digest]
    with Client(address) as client, client.control() as control:
        assert control.start("a", ["door"], STATES[0]).digest == versions[0].digest
    assert healthy(address, "tiny") == "SERVING"


def test_several_models_are_served_side_by_side(
    address: str, admin: Admin, versions: tuple[Bundle, Bundle], other: Bundle
) -> None:
    _, replaced = admin.load(str(other.path))
    assert replaced == ""
    assert [(model.name, model.is_default) for model in admin.models()] == [("tiny", True), ("other", False)]
    with (
        Client(address) as default,
        Client(address, model="other") as named,
        default.control() as one,
        named.control() as two,
    ):
        assert one.start("a", ["door"], STATES[0]).digest == versions[0].digest
        assert two.start("b", ["door"], STATES[0]).digest == named.describe().digest == other.digest
        assert {(status.robot, status.model) for status in admin.robots()} == {("a", "tiny"), ("b", "other")}
    with Client(address, model="third") as client, pytest.raises(ModelNotFound, match="served are tiny, other"):
        client.describe()


def test_an_unloaded_model_takes_no_more_runs(address: str, admin: Admin, other: Bundle) -> None:
    admin.load(str(other.path))
    with Client(address, model="other") as client, client.control() as control:
        control.start("a", ["door"], STATES[0])
        assert admin.unload("other").robots == 1
        assert control.step("a", 0, STATES[0]).replanned
        with pytest.raises(ModelNotFound):
            client.describe()
        assert healthy(address, "other") == "NOT_SERVING"
    assert healthy(address, "tiny") == "SERVING"
    with pytest.raises(ProtocolViolation, match="tiny is the last model"):
        admin.unload("tiny")
    with pytest.raises(ModelNotFound, match="'fourth'"):
        admin.unload("fourth")
    admin.load(str(other.path))
    assert healthy(address, "other") == "SERVING"


def test_a_cap_on_models_is_said(versions: tuple[Bundle, Bundle], other: Bundle) -> None:
    config = ServerConfig("127.0.0.1:0", max_models=1)
    with serve_in_thread(versions[0], config) as address, Admin(address) as admin:
        with pytest.raises(LimitReached, match=r"as this server takes \(1\)"):
            admin.load(str(other.path))
        assert [model.name for model in admin.models()] == ["tiny"]
    with pytest.raises(LimitReached), serve_in_thread([versions[0], other], config):
        pass


def test_robots_are_listed_with_where_they_stand(address: str, admin: Admin, versions: tuple[Bundle, Bundle]) -> None:
    assert admin.robots() == []
    with Client(address) as client, client.control() as one, client.control() as two:
        for robot in "bc":
            one.start(robot, ["door"], STATES[0])
        two.start("a", ["door"], STATES[0])
        actions = [one.step("b", step, STATES[step]) for step in range(6)]
        a, b, c = admin.robots()
        assert (a.robot, b.robot, c.robot) == ("a", "b", "c")
        assert b.stream == c.stream != a.stream
        assert (b.model, b.digest) == ("tiny", versions[0].digest)
        assert b.peer.startswith("ipv4:127.0.0.1:")
        assert (b.step, b.age) == (6, actions[-1].age)
        np.testing.assert_array_equal(np.float32(b.subgoal), actions[-1].subgoal)
        assert b.times.total_us > 0
        assert 0 <= b.idle_s < c.idle_s
        assert (a.step, a.age, a.subgoal, c.subgoal) == (0, 0, (), ())
        one.finish("b")
        assert [status.robot for status in admin.robots()] == ["a", "c"]
    assert admin.robots() == []
