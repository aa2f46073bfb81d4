"""An operator of the server decides a robot's targets: the robot's own messages stay as they are."""

from time import perf_counter_ns

import numpy as np
import pytest

import policies
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.relay.messages import Action, Applied, HandBack, HandedBack, Observation, Request, Start, TakenOver
from rpl_runtime.relay.run_state import Steering, SubgoalOverride, TakeOver
from rpl_runtime.relay.session import Session

SPEC = policies.tiny_spec()
STATE = np.zeros(5, dtype=np.float32)
TARGET = np.array([0.5, -0.5], dtype=np.float32)
START = Start(("door",), STATE, seed=3)
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def policy(tiny_bundle: Bundle) -> OnnxPolicy:
    return OnnxPolicy(tiny_bundle)


@pytest.fixture
def session(policy: OnnxPolicy, tiny_bundle: Bundle) -> Session:
    """With two robots after their first step."""
    session = Session(policy, tiny_bundle, Leases())
    for robot in "ab":
        session.answer([(robot, START), (robot, Observation(0, STATE, 0))], perf_counter_ns())
    return session


def act(session: Session, step: int, robot: str = "a", now_ns: int | None = None) -> Action:
    rows = [(robot, Observation(step, STATE, 0))]
    [(_, reply)] = session.answer(rows, perf_counter_ns() if now_ns is None else now_ns).rows
    assert isinstance(reply, Action), reply
    return reply


def ask(session: Session, request: Request) -> object:
    [(_, reply)] = session.answer([("a", request)], perf_counter_ns()).rows
    return reply


def test_the_arm_holds_where_it_was_led_until_it_is_led_elsewhere(session: Session, policy: OnnxPolicy) -> None:
    alone = RelayLoop(policy, SPEC)
    alone.start("a", SPEC.resolve(["door"], STATE), seed=3)
    expected = [alone.step(["a"], [step], STATE[None]).action[0] for step in range(2)]
    steering = session.steer("a", "viewer 1")
    first, second = act(session, 1), act(session, 2)
    np.testing.assert_array_equal(first.target, expected[1])  # the policy's: no jump
    np.testing.assert_array_equal(second.target, first.target)
    steering.target = TARGET
    led = act(session, 3)
    np.testing.assert_array_equal(led.target, TARGET)
    assert [first.author, led.author, act(session, 1, "b").author] == ["viewer 1", "viewer 1", ""]
    for step in range(4, 10):  # longer than a subgoal is followed
        assert not act(session, step).replanned
    session.loop.let_go("a")
    after = act(session, 10)
    assert (after.author, after.replanned) == ("", True)


def test_who_was_not_heard_for_ten_seconds_has_lost_the_robot(session: Session) -> None:
    steering = session.steer("a", "viewer 1")
    heard_ns = steering.heard_ns
    assert act(session, 1, now_ns=heard_ns + 10 * SECOND_NS).author == "viewer 1"
    after = act(session, 2, now_ns=heard_ns + 10 * SECOND_NS + 1)
    assert (after.author, after.replanned) == ("", True)
    with pytest.raises(ProtocolViolation, match=r"robot 'a' is not in your hand, or not any more$"):
        session.steering("a", steering.key)
    assert session.steer("a", "viewer 2").by == "viewer 2"


def test_an_operator_who_is_heard_keeps_the_robot(session: Session) -> None:
    steering = session.steer("a", "viewer 1")
    steering.heard_ns -= 9 * SECOND_NS
    assert session.steering("a", steering.key) is steering
    assert act(session, 1, now_ns=steering.heard_ns + 9 * SECOND_NS).author == "viewer 1"


def test_a_second_person_is_refused_in_one_sentence(session: Session) -> None:
    steering = session.steer("a", "anna")
    with pytest.raises(ProtocolViolation, match=r"^robot 'a' is in the hand of anna already; must be"):
        session.steer("a", "ben")
    with pytest.raises(ProtocolViolation, match=r"not in your hand, or not any more; it is in that of anna$"):
        session.steering("a", "a key of ben's")
    assert session.steering("a", steering.key).by == "anna"


def test_a_pilot_at_the_robot_comes_first(session: Session) -> None:
    steering = session.steer("a", "anna")
    assert ask(session, TakeOver("gamepad")) == TakenOver(1)
    with pytest.raises(ProtocolViolation, match="it is in that of gamepad"):
        session.steering("a", steering.key)
    with pytest.raises(ProtocolViolation, match="in the hand of gamepad already"):
        session.steer("a", "anna")
    ask(session, Applied(1, STATE, TARGET))
    assert ask(session, HandBack()) == HandedBack(2)
    assert act(session, 2).replanned


@pytest.mark.parametrize("request_", [Applied(1, STATE, TARGET), HandBack()])
def test_the_robot_itself_cannot_act_for_the_operator(session: Session, request_: Request) -> None:
    session.steer("a", "anna")
    reply = ask(session, request_)
    assert isinstance(reply, ProtocolViolation)
    assert "is not in hand" in str(reply)
    assert act(session, 1).author == "anna"


def test_what_cannot_be_taken_over_is_left_as_it_is(session: Session) -> None:
    session.answer([("new", START)], 0)
    with pytest.raises(ProtocolViolation, match="has sent no state yet; it can be taken over after a step"):
        session.steer("new", "anna")
    for name in ("", "policy", "\x1b[2J", "x" * 129):
        with pytest.raises(InvalidInput, match="name"):
            session.steer("a", name)
    assert act(session, 1).author == ""


def test_an_operators_veto_and_pin_work_in_hand(session: Session) -> None:
    session.steer("a", "anna")
    session.loop.pin("a", STATE + np.float32(0.25))
    pinned = act(session, 1)
    assert (pinned.author, pinned.override) == ("anna", SubgoalOverride.PINNED)
    session.loop.release("a")
    assert act(session, 2).override is SubgoalOverride.RELEASED
    session.loop.let_go("a")
    assert act(session, 3).replanned


def test_a_loop_steers_the_rows_of_the_robots_in_hand_alone(policy: OnnxPolicy) -> None:
    states = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 5)).astype(np.float32)
    led, alone = RelayLoop(policy, SPEC), RelayLoop(policy, SPEC)
    for loop in (led, alone):
        for robot in "abc":
            loop.start(robot, SPEC.resolve(["door"], STATE), seed=3)
    led.steer("b", Steering("anna", "key", 0, TARGET))
    found, expected = (loop.step(list("abc"), [0, 0, 0], states) for loop in (led, alone))
    np.testing.assert_array_equal(found.action[[0, 2]], expected.action[[0, 2]])
    np.testing.assert_array_equal(found.action[1], TARGET)
    assert found.authors == {1: "anna"}


def test_a_robot_that_has_gone_cannot_be_led(session: Session) -> None:
    steering = session.steer("a", "anna")
    session._finish("a")
    with pytest.raises(RelayError, match="'a' has no run"):
        session.steering("a", steering.key)
