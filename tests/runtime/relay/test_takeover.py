"""A pilot takes a robot in hand and hands it back: the run counts on, the policy replans, and nobody else notices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError, RobotLeased, StepOutOfOrder
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Applied,
    Finish,
    Finished,
    HandBack,
    HandedBack,
    Noted,
    Observation,
    Reply,
    Request,
    SetGoal,
    Start,
    Started,
    TakenOver,
)
from rpl_runtime.relay.run_state import Resume, SubgoalOverride, TakeOver
from rpl_runtime.relay.session import Session

SPEC = policies.tiny_spec()
STATE = np.zeros(5, dtype=np.float32)
TARGET = np.array([0.5, -0.5], dtype=np.float32)
START = Start(("door",), STATE, seed=3)
HAND = TakeOver("gamepad", "it hangs")


@pytest.fixture(scope="module")
def policy(tiny_bundle: Bundle) -> OnnxPolicy:
    return OnnxPolicy(tiny_bundle)


@pytest.fixture
def session(policy: OnnxPolicy, tiny_bundle: Bundle) -> Session:
    return Session(policy, tiny_bundle, Leases())


def ask(session: Session, *rows: tuple[str, Request]) -> list[Reply]:
    return [reply for _, reply in session.answer(rows, received_ns=0).rows]


def see(step: int) -> Observation:
    return Observation(step, STATE, observed_ns=1000)


def test_a_robot_is_taken_and_handed_back_and_its_run_counts_on(session: Session) -> None:
    rows: list[Request] = [START, see(0), HAND, *(Applied(step, STATE, TARGET) for step in (1, 2)), HandBack(), see(3)]
    started, first, taken, *noted, handed, after = ask(session, *(("a", row) for row in [*rows[:-1], see(3)]))
    assert isinstance(started, Started)
    assert isinstance(first, Action)
    assert taken == TakenOver(1)
    assert noted == [Noted(1), Noted(2)]
    assert handed == HandedBack(3)
    assert isinstance(after, Action)
    assert (after.replanned, after.age) == (True, 0)  # in the middle of the horizon
    assert ask(session, ("a", see(4)), ("a", Finish()))[1] == Finished(5)


def test_the_policys_steps_around_a_hand_are_those_of_a_run_with_the_same_states(policy: OnnxPolicy) -> None:
    """What a hand did leaves nothing behind but the state and the number of the step."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-0.4, 0.4, (12, 5)).astype(np.float32)
    goal = SPEC.resolve(["door"], states[0])
    by_hand, alone = RelayLoop(policy, SPEC), RelayLoop(policy, SPEC)
    for loop in (by_hand, alone):
        loop.start("a", goal, seed=5, plan_lead=2)
    for step, state in enumerate(states):
        if step == 5:
            assert by_hand.take_over("a", HAND) == 5
        if step == 8:
            assert by_hand.hand_back("a") == 8
            alone.set_goal("a", goal)  # which replans
        expected = alone.step(["a"], [step], state[None])
        if 5 <= step < 8:
            by_hand.applied("a", step, state, TARGET)
            continue
        found = by_hand.step(["a"], [step], state[None])
        np.testing.assert_array_equal(found.action, expected.action)
        np.testing.assert_array_equal(found.age, expected.age)


REFUSED = {
    "a step of the policy": (see(1), ProtocolViolation, "robot 'a' is in the hand of gamepad; must send what was"),
    "a second hand": (TakeOver("spacemouse"), ProtocolViolation, "is in the hand of gamepad already; must be"),
    "a gap": (Applied(2, STATE, TARGET), StepOutOfOrder, "sent step 2; the next one is 1"),
    "a repeated step": (Applied(0, STATE, TARGET), StepOutOfOrder, "sent step 0; the next one is 1"),
    "a short state": (
        Applied(1, STATE[:4], TARGET),
        InvalidInput,
        r"the state has shape \(4,\); this policy's is \(5,",
    ),
    "a long target": (Applied(1, STATE, STATE), InvalidInput, r"the target has shape \(5,\); this policy's is \(2,\)"),
    "a state that is not a number": (Applied(1, STATE * np.nan, TARGET), InvalidInput, "the state has x = nan m; must"),
    "a target that is not a number": (Applied(1, STATE, TARGET * np.nan), InvalidInput, "the target has .* = nan"),
    "a target out of range": (Applied(1, STATE, TARGET + 9), InvalidInput, "the target has .* must be a finite number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_row_is_refused_and_nobody_notices(case: str, session: Session) -> None:
    request, error, sentence = REFUSED[case]
    ask(session, ("a", START), ("b", START), ("a", see(0)), ("b", see(0)), ("a", HAND))
    _, refusal, action = ask(session, ("a", SetGoal(("lamp",), STATE)), ("a", request), ("b", see(1)))
    with pytest.raises(error, match=sentence):
        raise refusal if isinstance(refusal, Exception) else AssertionError(refusal)
    assert isinstance(action, Action)
    assert action.age == 1
    assert ask(session, ("a", Applied(1, STATE, TARGET)), ("a", HandBack())) == [Noted(1), HandedBack(2)]


NOT_IN_HAND = {
    "applied by nobody": (Applied(1, STATE, TARGET), ProtocolViolation, "robot 'a' is not in hand; send a TakeOver"),
    "handed back by nobody": (HandBack(), ProtocolViolation, "is not in hand; only a robot in hand can be handed back"),
    "a pilot without a name": (TakeOver(""), InvalidInput, "the pilot's name is ''; must be 1 to 128 printable"),
    "a pilot with the policy's name": (TakeOver("policy"), InvalidInput, "characters and not 'policy'"),
    "a hostile name": (TakeOver("\x1b[2J"), InvalidInput, r"the pilot's name is '\\x1b\[2J'; must"),
    "a name without end": (TakeOver("x" * 129), InvalidInput, "must be 1 to 128 printable characters"),
    "a reason without end": (TakeOver("gamepad", "x" * 1001), InvalidInput, "at most 1000 printable characters"),
}


@pytest.mark.parametrize("case", NOT_IN_HAND)
def test_a_wrong_row_about_a_robot_that_nobody_has_is_refused(case: str, session: Session) -> None:
    request, error, sentence = NOT_IN_HAND[case]
    ask(session, ("a", START), ("a", see(0)))
    refusal, action = ask(session, ("a", request), ("a", see(1)))
    with pytest.raises(error, match=sentence):
        raise refusal if isinstance(refusal, Exception) else AssertionError(refusal)
    assert isinstance(action, Action)
    assert action.age == 1


def test_nobody_takes_a_robot_of_another_stream(policy: OnnxPolicy, tiny_bundle: Bundle) -> None:
    leases = Leases()
    session, other = (Session(policy, tiny_bundle, leases) for _ in range(2))
    ask(session, ("a", START), ("a", see(0)))
    leased, nobody = ask(other, ("a", HAND), ("b", HAND))
    assert isinstance(leased, RobotLeased)
    assert str(leased) == "robot 'a' runs on another stream; only that stream can take it over"
    assert isinstance(nobody, ProtocolViolation)
    [action] = ask(session, ("a", see(1)))
    assert isinstance(action, Action)
    assert action.age == 1


def test_a_goal_that_an_operator_gave_a_robot_in_hand_is_told_and_followed(session: Session) -> None:
    ask(session, ("a", START), ("a", see(0)), ("a", HAND))
    goal = session.set_goal("a", ("lamp",))
    told, silent = ask(session, ("a", Applied(1, STATE, TARGET)), ("a", Applied(2, STATE, TARGET)))
    assert isinstance(told, Noted)
    assert told.goal is goal
    assert silent == Noted(2)
    assert session.loop.standing("a").goal is goal


def test_a_pinned_subgoal_waits_for_the_robot_to_be_handed_back(session: Session) -> None:
    ask(session, ("a", START), ("a", see(0)), ("a", HAND))
    session.loop.pin("a", STATE + np.float32(0.25))
    action = ask(session, ("a", Applied(1, STATE, TARGET)), ("a", HandBack()), ("a", see(2)))[-1]
    assert isinstance(action, Action)
    assert action.override is SubgoalOverride.PINNED
    np.testing.assert_array_equal(action.subgoal, STATE + np.float32(0.25))


def test_a_robot_in_hand_is_kept_alive_by_what_was_applied(session: Session) -> None:
    ask(session, ("a", START), ("a", see(0)), ("a", HAND))
    session.answer([("a", Applied(1, STATE, TARGET))], received_ns=10)
    assert session.reap(before_ns=10) == []
    assert session.reap(before_ns=11) == ["a"]


GOAL = SPEC.resolve(["door"], STATE)
MUST_RESUME = {
    "in hand": (Resume(7, NOTHING, 0, hand=HAND), None),
    "in hand before the first step": (Resume(0, NOTHING, 0, hand=HAND), None),
    "in hand and pinned": (Resume(7, STATE, 3, None, SubgoalOverride.PINNED, HAND), None),
    "handed back": (Resume(7, NOTHING, 0), None),
    "without a subgoal, of an age": (Resume(7, NOTHING, 2, hand=HAND), "must have none"),
    "without a subgoal, pinned": (Resume(7, NOTHING, 0, None, SubgoalOverride.PINNED), "must have none"),
    "without a subgoal, with the next": (Resume(7, NOTHING, 0, STATE), "must have none"),
    "in a hand without a name": (Resume(7, NOTHING, 0, hand=TakeOver("")), "the pilot's name is ''"),
}


@pytest.mark.parametrize("case", MUST_RESUME)
def test_a_run_resumes_in_the_hand_that_had_it(case: str, session: Session) -> None:
    resume, sentence = MUST_RESUME[case]
    [reply] = ask(session, ("a", Start(GOAL, resume=resume)))
    if sentence is not None:
        assert isinstance(reply, InvalidInput)
        assert sentence in str(reply)
        return
    if resume.hand is not None:
        replies = ask(session, ("a", Applied(resume.step, STATE, TARGET)), ("a", HandBack()))
        assert replies == [Noted(resume.step), HandedBack(resume.step + 1)]
    [action] = ask(session, ("a", see(session.loop.standing("a").step)))
    assert isinstance(action, Action)
    assert action.replanned


rows = st.sampled_from(
    [START, see(0), see(1), HAND, Applied(0, STATE, TARGET), Applied(1, STATE, TARGET), HandBack(), Finish()]
)


@given(st.lists(st.tuples(st.sampled_from("ab"), rows), max_size=20))
def test_whatever_comes_a_robot_is_in_one_hand_and_no_step_is_lost(
    policy: OnnxPolicy, tiny_bundle: Bundle, sent: list[tuple[str, Request]]
) -> None:
    session, steps, hands = Session(policy, tiny_bundle, Leases()), dict[str, int](), set[str]()
    for robot, request in sent:
        [reply] = ask(session, (robot, request))
        if isinstance(reply, RelayError):
            continue
        match request:
            case Start():
                steps[robot] = 0
            case Finish():
                assert reply == Finished(steps.pop(robot))
                hands.discard(robot)
            case TakeOver():
                assert robot not in hands
                hands.add(robot)
            case HandBack():
                hands.remove(robot)
            case Observation() | Applied():
                assert (robot in hands) is isinstance(request, Applied)
                assert request.step == steps[robot]
                steps[robot] += 1
