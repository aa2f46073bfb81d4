"""The session of a stream: rows are answered in order, faulty rows are refused, leases are kept and freed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from rpl_runtime.errors import InvalidGoal, InvalidInput, ProtocolViolation, RelayError, RobotLeased, StepOutOfOrder
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.messages import (
    NOTHING,
    Action,
    Finish,
    Finished,
    Goal,
    GoalSet,
    Observation,
    Reply,
    Request,
    SetGoal,
    Start,
    Started,
)
from rpl_runtime.relay.run_state import Resume
from rpl_runtime.relay.session import Session
from rpl_runtime.wire import control as codec

STATE = np.zeros(5, dtype=np.float32)
DOOR: Goal = ("door",)


@pytest.fixture(scope="session")
def policy(tiny_bundle: Bundle) -> OnnxPolicy:
    return OnnxPolicy(tiny_bundle)


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def session(policy: OnnxPolicy, tiny_bundle: Bundle, leases: Leases) -> Session:
    return Session(policy, tiny_bundle, leases)


def ask(session: Session, *rows: tuple[str, Request | RelayError]) -> list[Reply]:
    answer = session.answer(rows, received_ns=0)
    assert [robot for robot, _ in answer.rows] == [robot for robot, _ in rows]
    return [reply for _, reply in answer.rows]


def see(step: int, state: np.ndarray = STATE) -> Observation:
    return Observation(step, state, observed_ns=1000)


def test_rows_take_effect_in_their_order(session: Session) -> None:
    replies = ask(
        session,
        ("a", see(0)),
        ("a", Start(DOOR, STATE)),
        ("a", see(0)),
        ("b", Start(DOOR, STATE)),
        ("b", see(0)),
        ("a", see(1)),
        ("a", SetGoal(("lamp",), STATE)),
        ("a", see(2)),
        ("a", Finish()),
        ("a", see(3)),
    )
    expected = [ProtocolViolation, Started, Action, Started, Action, Action, GoalSet, Action, Finished]
    assert [type(reply) for reply in replies] == [*expected, ProtocolViolation]
    assert isinstance(replies[5], Action)
    assert not replies[5].replanned
    assert isinstance(replies[7], Action)
    assert replies[7].replanned
    assert replies[8] == Finished(3)


def test_an_action_outside_its_range_is_refused_and_no_other(tiny_bundle: Bundle, policy: OnnxPolicy) -> None:
    class Wild:
        plan = policy.plan

        def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
            actions = policy.act(state, subgoal, noise)
            actions[state[:, 0] == 9, 1] = 2.01
            return actions

    session, far = Session(Wild(), tiny_bundle, Leases()), np.where(np.arange(5) == 0, np.float32(9), STATE)
    ask(session, ("a", Start(DOOR, STATE)), ("b", Start(DOOR, STATE)))
    fault, action = ask(session, ("a", see(0, far)), ("b", see(0)))
    assert str(fault) == (
        "the policy's answer cannot be used: the action has turn = 2.01 rad/s; must be a finite number from -2 to 2"
    )
    assert isinstance(action, Action)
    assert isinstance(ask(session, ("a", see(0)))[0], Action)  # its run has not moved on


def test_an_action_is_valid_for_one_period_of_the_clients_clock(session: Session) -> None:
    [_, action] = ask(session, ("a", Start(DOOR, STATE)), ("a", see(0)))
    [last] = ask(session, ("a", Observation(1, STATE, observed_ns=2**63 - 1)))
    assert isinstance(action, Action)
    assert action.valid_until_ns == 1000 + 50_000_000
    assert isinstance(last, Action)
    assert last.valid_until_ns == 2**63 - 1


SICK_ROWS = {
    "nan": (see(1, np.full(5, np.nan)), InvalidInput, "finite"),
    "infinity": (see(1, np.full(5, -np.inf)), InvalidInput, "x = -inf m"),
    "size": (see(1, np.zeros(4)), InvalidInput, r"shape \(4,\).*\(5,\)"),
    "range": (see(1, np.full(5, 10.5)), InvalidInput, r"x = 10.5 m; must be .* from -10 to 10"),
    "gap": (see(3), StepOutOfOrder, "sent step 3; the next one is 1"),
    "repeat": (see(0), StepOutOfOrder, "sent step 0; the next one is 1"),
    "second start": (Start(DOOR, STATE), RobotLeased, "runs on this stream"),
    "unknown element": (SetGoal(("window",), STATE), InvalidGoal, "'window'; must be one of door, lamp, dock"),
    "empty goal": (SetGoal((), STATE), InvalidGoal, "names no element"),
    "twice": (SetGoal(("door", "door"), STATE), InvalidGoal, "twice"),
    "goal without state": (SetGoal(DOOR), InvalidInput, r"shape \(0,\)"),
    "goal state": (SetGoal(np.full(5, 99.0)), InvalidInput, "goal state has x = 99 m"),
    "goal state of another size": (SetGoal(np.zeros(3)), InvalidInput, "goal state has shape"),
    "mask": (SetGoal(ResolvedGoal(STATE, np.full(5, 0.5, np.float32))), InvalidInput, "0 and 1"),
    "empty mask": (SetGoal(ResolvedGoal(STATE, np.zeros(5, np.float32))), InvalidGoal, "at least one"),
    "undecodable": (InvalidInput("from the codec"), InvalidInput, "from the codec"),
}


@pytest.mark.parametrize("case", SICK_ROWS)
def test_a_sick_row_is_refused_in_its_place_and_changes_nothing(case: str, session: Session) -> None:
    request, error, sentence = SICK_ROWS[case]
    ask(session, *((robot, Start(DOOR, STATE)) for robot in "abc"), *((robot, see(0)) for robot in "abc"))
    before, refusal, after = ask(session, ("a", see(1)), ("b", request), ("c", see(1)))
    assert isinstance(before, Action)
    assert isinstance(after, Action)
    with pytest.raises(error, match=sentence):
        raise refusal if isinstance(refusal, Exception) else AssertionError(refusal)
    [action] = ask(session, ("b", see(1)))
    assert isinstance(action, Action)
    assert (action.age, action.replanned) == (1, False)


def test_a_refused_start_leases_nothing(session: Session, leases: Leases) -> None:
    bad = [
        Start((), STATE),
        Start(DOOR, STATE, plan_lead=4),
        Start(ResolvedGoal(STATE, np.ones(5, np.float32)), resume=Resume(3, NOTHING, 1)),
    ]
    assert all(isinstance(reply, InvalidInput) for start in bad for reply in ask(session, ("a", start)))
    assert len(leases) == 0


def test_a_robot_is_leased_until_its_run_or_its_stream_ends(
    session: Session, policy: OnnxPolicy, tiny_bundle: Bundle, leases: Leases
) -> None:
    other = Session(policy, tiny_bundle, leases)
    start: tuple[str, Request] = ("a", Start(DOOR, STATE))
    ask(session, start)
    [refusal] = ask(other, start)
    assert isinstance(refusal, RobotLeased)
    assert "another stream" in str(refusal)
    ask(session, ("a", Finish()))
    assert isinstance(ask(other, start)[0], Started)
    assert isinstance(ask(session, start)[0], RobotLeased)
    session.close()
    assert len(leases) == 1
    other.close()
    assert len(leases) == 0


def test_refused_rows_keep_no_run_alive(session: Session, leases: Leases) -> None:
    ask(session, *((robot, Start(DOOR, STATE)) for robot in "abcd"))
    rows = [("a", see(7)), ("b", InvalidInput("from the codec")), ("c", SetGoal(("window",), STATE)), ("d", see(0))]
    *refused, accepted = session.answer(rows, received_ns=10).rows
    assert all(isinstance(reply, RelayError) for _, reply in refused)
    assert isinstance(accepted[1], Action)
    assert session.reap(before_ns=10) == ["a", "b", "c"]
    session.answer([("d", SetGoal(DOOR, STATE))], received_ns=20)
    assert session.reap(before_ns=20) == []
    assert session.reap(before_ns=21) == ["d"]
    assert len(leases) == 0


class Moody:
    """Levels that fail if the first number of a state is 1."""

    def plan(self, state, goal, mask, noise):
        return state

    def act(self, state, subgoal, noise):
        return np.where(state[:, :1] == 1, np.nan, subgoal[:, :2]).astype(np.float32)


def test_a_policy_that_fails_for_one_robot_serves_the_others(tiny_bundle: Bundle) -> None:
    session = Session(Moody(), tiny_bundle, Leases())
    ask(session, *((robot, Start(DOOR, STATE)) for robot in "abc"))
    one = np.ones(5, dtype=np.float32)
    first, second, third = ask(session, ("a", see(0)), ("b", see(0, one)), ("c", see(0)))
    assert isinstance(first, Action)
    assert type(second) is RelayError
    assert isinstance(third, Action)
    assert all(isinstance(reply, Action) for reply in ask(session, ("a", see(1)), ("b", see(0)), ("c", see(1))))


states = st.one_of(
    st.just(STATE),
    st.lists(st.floats(width=32), min_size=4, max_size=6).map(lambda values: np.array(values, dtype=np.float32)),
)
goals = st.one_of(
    st.lists(st.sampled_from(["door", "lamp", "dock", "window"]), max_size=3).map(tuple),
    states,
    st.builds(ResolvedGoal, states, st.just(np.ones(5, np.float32)) | states),
)
resumes = st.builds(Resume, st.integers(0, 6), states, st.integers(0, 6), st.none() | states)
requests = st.one_of(
    st.builds(Observation, st.integers(0, 3), states, st.integers(-(2**63), 2**63 - 1)),
    st.builds(Start, goals, states, st.none() | st.integers(0, 2**64 - 1), st.integers(0, 5), st.none()),
    st.builds(Start, goals, states, st.none(), st.integers(0, 5), resumes),
    st.builds(SetGoal, goals, states),
    st.just(Finish()),
    st.just(InvalidInput("from the codec")),
)


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), requests), max_size=6), max_size=6))
@settings(max_examples=100)
def test_whatever_comes_is_answered_row_by_row(policy: OnnxPolicy, tiny_bundle: Bundle, messages: list) -> None:
    leases = Leases()
    session = Session(policy, tiny_bundle, leases)
    for rows in messages:
        answer = session.answer(rows, received_ns=0)
        codec.unpack_reply(codec.pack_reply(*answer))
        assert len(answer.rows) == len(rows)
    session.close()
    assert len(leases) == 0


def test_an_action_says_how_far_its_state_is_from_the_training_data(tmp_path: Path) -> None:
    bundle = policies.tiny_bundle(tmp_path / "bundle", statistics=policies.tiny_statistics())
    session = Session(OnnxPolicy(bundle), bundle, Leases())
    ask(session, ("a", Start(DOOR, STATE)), ("b", Start(DOOR, STATE)))
    near, far = np.array([[0.3, 0, 0, 0.4, 0], [3, 0, 0, 0, 0.5]], np.float32)
    first, second = ask(session, ("a", see(0, near)), ("b", see(0, far)))
    assert isinstance(first, Action)
    assert isinstance(second, Action)
    assert (first.novelty, second.novelty) == pytest.approx((0.5, 9.25**0.5))
    assert (first.flagged, second.flagged) == (False, True)


def test_a_bundle_that_cannot_say_how_far_a_state_is_flags_none(session: Session) -> None:
    ask(session, ("a", Start(DOOR, STATE)))
    [action] = ask(session, ("a", see(0)))
    assert isinstance(action, Action)
    assert action.novelty is None
    assert not action.flagged
