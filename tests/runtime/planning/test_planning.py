"""Planners that take their time, on a real server: nobody waits for them, and each of their answers is checked."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import policies
from rpl_runtime.client.client import Client
from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput, PlannerLost, ProtocolViolation
from rpl_runtime.planning.planning import Planning, PlanningConfig, Where
from rpl_runtime.planning.remote import RemotePlanner
from rpl_runtime.planning.serve import serve_planner
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.recording.mcap import Log, LoggedStep, LogHeader
from rpl_runtime.recording.replay import replay
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.messages import Action, Observation, Observations, Start
from rpl_runtime.relay.plans import Coming, Fallback, Origin, Plan, PlanRules, Question, Source
from rpl_runtime.relay.session import Session
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.wire.columns import pack_columns
from rpl_runtime.wire.control import pack_request
from rpl_runtime.wire.conversation import Conversation, Later

SPEC = policies.tiny_spec()
STATE = np.array([0.5, -0.25, 0.1, 0.0, 0.0], np.float32)
GOAL = SPEC.resolve(["door"], STATE)
WAIT_S = 30.0  # [s] after which a test has failed
KEEP, HOLD, BUNDLE, STOP = Fallback


class Slow:
    """A planner that answers when the test says so, with subgoals that count its answers."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.news = threading.Condition()
        self.answers: list[Callable[[Question], Plan]] = []  # one for each question that is to be answered

    def plan(self, question: Question, deadline_s: float) -> Plan:
        with self.news:
            number = len(self.asked)
            self.asked.append(question)
            self.news.notify_all()
            assert self.news.wait_for(lambda: len(self.answers) > number, WAIT_S)
            answer = self.answers[number]
        return answer(question)

    def answer(self, answer: Callable[[Question], Plan] | None = None, times: int = 1) -> None:
        """Answer the next questions, those to come included."""
        with self.news:
            for _ in range(times):
                subgoal = np.full(5, 0.1 * (1 + len(self.answers)), np.float32)
                self.answers.append(answer or (lambda _, subgoal=subgoal: Plan(subgoal, 0.5)))
            self.news.notify_all()

    def await_question(self, count: int) -> Question:
        with self.news:
            assert self.news.wait_for(lambda: len(self.asked) >= count, WAIT_S)
            return self.asked[count - 1]


@contextmanager
def planning(bundle: Bundle, **settings: Any) -> Iterator[Client]:
    """A client of a server with such a planner; metrics and quotas stand by default."""
    config = ServerConfig(address="127.0.0.1:0", drain_s=0.0, planning=PlanningConfig(**settings))
    with serve_in_thread(bundle, config) as address, Client(address, timeout_s=WAIT_S) as client:
        yield client


@pytest.fixture(params=["object", "process"])
def slow(request: pytest.FixtureRequest, grpc_aio: None) -> Iterator[tuple[Slow, Any]]:
    """A slow planner, and what the server's settings call it: the object itself, or the address of its service."""
    planner = Slow()
    if request.param == "object":
        yield planner, planner
    else:
        with serve_planner(planner, "slow", SPEC) as address:
            yield planner, address
    planner.answer(times=100)  # so that no thread of it is left


def until_new(control: Control, robot: str, step: int) -> tuple[Action, int]:
    """Steps until a new subgoal takes effect: its action and step. The planner has answered already."""
    for number in range(step, step + 1_000_000):
        action = control.step(robot, number, STATE)
        if action.replanned:
            return action, number
    raise AssertionError("no plan took effect")


@pytest.mark.parametrize("way", ["exits", "hangs"])
def test_a_robot_for_which_the_planner_fails_takes_no_plan_from_another(tiny_bundle: Bundle, way: str) -> None:
    """However often it is asked: what ends a thread ends none, and what hangs holds a few of them."""
    over = threading.Event()

    class Bad:
        def plan(self, question: Question, deadline_s: float) -> Plan:
            if question.robot != "bad":
                return Plan(question.state)
            if way == "hangs":
                over.wait(WAIT_S)
            raise SystemExit

    port = Planning(PlanningConfig(planner=Bad(), deadline_s=WAIT_S), None, "plans").port(OnnxPolicy(tiny_bundle))
    assert port is not None

    def ask(robot: str) -> Coming:
        return port.ask(Question(robot, 0, STATE, GOAL, None, np.zeros(SPEC.high_noise)), PlanRules())

    asked = [ask("bad") for _ in range(200)]
    np.testing.assert_array_equal(ask("good").result().subgoal, STATE)
    over.set()
    with pytest.raises(PlannerLost, match="SystemExit"):
        asked[-1].result()
    port.close()


def test_a_robot_follows_its_old_subgoal_until_the_plan_is_there(tiny_bundle: Bundle, slow: Any) -> None:
    planner, name = slow
    with planning(tiny_bundle, planner=name, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE)
        first = control.step("a", 0, STATE)
        assert first.origin is not None
        assert (first.origin.source, first.origin.waited) == (Source.PLANNER, 0)
        assert first.origin.confidence == 0.5
        ages = [control.step("a", step, STATE).age for step in range(1, 3 * SPEC.horizon)]
        assert ages == list(range(1, 3 * SPEC.horizon))  # asked at the horizon, and followed on
        question = planner.await_question(2)
        assert (question.robot, question.step) == ("a", SPEC.horizon)
        assert np.array_equal(question.before, first.subgoal)
        planner.answer()
        second, step = until_new(control, "a", 3 * SPEC.horizon)
        assert second.age == 0
        assert second.origin is not None
        assert second.origin.waited == step - SPEC.horizon
        assert np.array_equal(second.subgoal, np.full(5, 0.2, np.float32))


def test_a_planner_is_asked_once_the_reply_is_on_its_way(tiny_bundle: Bundle) -> None:
    """With the state and the number of the step that found a plan due."""
    planner, policy = Slow(), OnnxPolicy(tiny_bundle)
    planner.answer()
    port = Planning(PlanningConfig(planner, 60.0), None, "test").port(policy)
    session = Session(policy, tiny_bundle, Leases(), "", port)
    conversation = Conversation(session, policy, lambda rows, size: None)
    session.answer([("a", Start(GOAL, STATE)), ("a", Observation(0, STATE, 0))], 0)
    for step in range(1, 30):
        due = session.loop.runs["a"].asked is None and step >= SPEC.horizon
        conversation.answer(pack_request([("a", Observation(step, STATE, 0))]), 0)
        assert len(planner.asked) == 1
        conversation.prepare()
        if due:
            break
    question = planner.await_question(2)
    assert (question.step, question.robot) == (step, "a")
    np.testing.assert_array_equal(question.state, STATE)
    planner.answer()
    session.close()


def test_other_robots_step_while_one_waits_for_its_first_plan(tiny_bundle: Bundle, transport: str) -> None:
    planner = Slow()
    with planning(tiny_bundle, planner=planner, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE)
        begun: list[object] = []

        def begin() -> None:
            with client.control() as other:
                begun.append(other.start("b", GOAL, STATE))
                begun.append(other.step("b", 0, STATE))

        thread = threading.Thread(target=begin)
        thread.start()
        planner.await_question(2)  # b's
        for step in range(2 * SPEC.horizon):
            control.step("a", step, STATE)
        assert begun == []
        planner.answer(times=2)
        thread.join(WAIT_S)
        assert len(begun) == 2


def test_a_run_that_waits_gets_each_plan_at_its_step(tiny_bundle: Bundle, slow: Any) -> None:
    planner, name = slow
    planner.answer(times=4)
    with planning(tiny_bundle, planner=name, deadline_s=WAIT_S) as client, client.control() as control:
        control.start("a", GOAL, STATE, rules=PlanRules(wait=True))
        actions = [control.step("a", step, STATE) for step in range(3 * SPEC.horizon)]
        assert [action.age for action in actions] == [*range(SPEC.horizon)] * 3
        assert [action.origin.waited for action in actions if action.origin] == [0, 0, 0]


@pytest.mark.parametrize("in_columns", [False, True])
def test_a_run_that_waits_for_a_plan_asked_for_ahead_waits_at_the_step_that_it_is_for(
    in_columns: bool, tiny_bundle: Bundle
) -> None:
    planner, policy = Slow(), OnnxPolicy(tiny_bundle)
    planner.answer()
    port = Planning(PlanningConfig(planner, WAIT_S), None, "test").port(policy)
    session = Session(policy, tiny_bundle, Leases(), "", port)
    conversation = Conversation(session, policy, lambda rows, size: None)
    start = Start(GOAL, STATE, plan_lead=2, rules=PlanRules(wait=True))
    session.answer([("a", start), ("a", Observation(0, STATE, 0))], 0)
    waits = []
    for step in range(1, SPEC.horizon + 1):
        seen = Observations(np.ones(1), np.array([step]), STATE[None], 0)
        raw = pack_columns(seen) if in_columns else pack_request([("a", Observation(step, STATE, 0))])
        waits.append(isinstance(conversation.answer(raw, 0), Later))
        conversation.prepare()
    planner.await_question(2)
    planner.answer()
    session.close()
    assert waits == [False, False, False, True]


def test_many_robots_in_columns_follow_on_and_get_their_plans(tiny_bundle: Bundle, slow: Any) -> None:
    planner, name = slow
    robots = [f"r{index}" for index in range(5)]
    with planning(tiny_bundle, planner=name, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer(times=5)
        for robot in robots:
            control.start(robot, GOAL, STATE)
        for step in range(2 * SPEC.horizon):
            batch = control.step_batch(robots, [step] * 5, np.tile(STATE, (5, 1)))
            assert [action.age for action in batch if isinstance(action, Action)] == [step] * 5
        planner.await_question(10)
        planner.answer(times=5)
        step, new = 2 * SPEC.horizon, set()
        while len(new) < 5:
            batch = control.step_batch(robots, [step] * 5, np.tile(STATE, (5, 1)))
            new |= {robot for robot, action in zip(robots, batch, strict=True) if action.age == 0}
            step += 1


BAD: dict[str, Callable[[Question], Any]] = {
    "too short": lambda _: Plan(np.zeros(4, np.float32)),
    "not a number": lambda _: Plan(np.array([0, 0, np.nan, 0, 0], np.float32)),
    "out of range": lambda _: Plan(np.full(5, 100, np.float32)),
    "sure beyond": lambda _: Plan(np.zeros(5, np.float32), confidence=1.5),
    "for fewer than no steps": lambda _: Plan(np.zeros(5, np.float32), lasts=-1),
    "for ever": lambda _: Plan(np.zeros(5, np.float32), lasts=2**31),
}


def fails(question: Question) -> Plan:
    raise InvalidInput("this goal is beyond it")


@pytest.mark.parametrize("kind", [*BAD, "fails"])
def test_an_answer_that_cannot_be_used_is_counted_and_the_next_question_asked(
    tiny_bundle: Bundle, grpc_aio: None, kind: str
) -> None:
    planner = name = Slow()
    bad = BAD.get(kind, fails)
    with planning(tiny_bundle, planner=name, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE)
        for step in range(SPEC.horizon + 1):
            control.step("a", step, STATE)
        planner.await_question(2)
        planner.answer(bad)
        step = SPEC.horizon + 1
        while len(planner.asked) < 3:
            assert control.step("a", step, STATE).age == step
            step += 1
        planner.answer()
        action, _ = until_new(control, "a", step)
        assert np.array_equal(action.subgoal, np.full(5, np.float32(0.1 * 3)))


@pytest.mark.parametrize("fallback", Fallback)
def test_what_is_followed_when_no_plan_came_in_time(tiny_bundle: Bundle, grpc_aio: None, fallback: Fallback) -> None:
    planner = Slow()
    with planning(tiny_bundle, planner=planner, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE, rules=PlanRules(fallback=fallback))
        first = control.step("a", 0, STATE)
        planner.answer(fails)
        lost_why, moved = "", STATE + np.float32(0.05)
        try:
            for step in range(1, 1_000_000):
                action = control.step("a", step, moved)
                if action.replanned or (len(planner.asked) > 2):
                    break
        except PlannerLost as lost:
            lost_why = str(lost)
            with pytest.raises(PlannerLost):  # and so is every step after it
                control.step("a", step, moved)
        else:
            source = None if action.origin is None else action.origin.source
            assert source == {KEEP: None, HOLD: Source.HOLD, BUNDLE: Source.FALLBACK}[fallback]
            followed = {KEEP: first.subgoal, HOLD: moved}.get(fallback)
            assert followed is None or np.array_equal(action.subgoal, followed)
        assert ("this goal is beyond it" in lost_why) == (fallback is STOP)
        planner.answer(times=50)


def test_a_late_answer_is_not_used(tiny_bundle: Bundle, grpc_aio: None) -> None:
    planner = Slow()
    with planning(tiny_bundle, planner=planner, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE, rules=PlanRules(deadline_s=0.05))
        step, asked = 0, 0
        while asked < 3:  # the second question is given up at its deadline, and the third is asked
            assert control.step("a", step, STATE).age == step
            step, asked = step + 1, len(planner.asked)
        late = Plan(np.full(5, -0.4, np.float32))
        planner.answer(lambda _: late)
        planner.answer(times=50)
        action, _ = until_new(control, "a", step)
        assert not np.array_equal(action.subgoal, late.subgoal)


def test_a_run_without_a_first_plan_does_not_begin(tiny_bundle: Bundle, grpc_aio: None) -> None:
    planner = Slow()
    planner.answer(fails)
    with planning(tiny_bundle, planner=planner, deadline_s=WAIT_S) as client, client.control() as control:
        with pytest.raises(PlannerLost, match="this goal is beyond it"):
            control.start("a", GOAL, STATE)
        planner.answer()
        control.start("a", GOAL, STATE)  # the robot is free
        assert control.step("a", 0, STATE).replanned


def test_another_goal_is_planned_for_while_the_old_subgoal_is_followed(tiny_bundle: Bundle, grpc_aio: None) -> None:
    planner = Slow()
    with planning(tiny_bundle, planner=planner, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE)
        control.step("a", 0, STATE)
        control.set_goal("a", SPEC.resolve(["lamp"], STATE))
        assert [control.step("a", step, STATE).age for step in range(1, 7)] == [1, 2, 3, 4, 5, 6]
        question = planner.await_question(2)
        assert (question.step, question.goal.mask.tolist()) == (1, [0, 0, 0, 0, 1])
        planner.answer()
        assert np.array_equal(until_new(control, "a", 7)[0].subgoal, np.full(5, np.float32(0.2)))


def test_a_robot_that_is_handed_back_stays_where_it_is_until_its_plan_is_there(
    tiny_bundle: Bundle, grpc_aio: None
) -> None:
    planner = Slow()
    with planning(tiny_bundle, planner=planner, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE)
        control.step("a", 0, STATE)
        control.take_over("a", by="hand")
        moved = STATE + np.float32(0.05)
        control.applied("a", 1, moved, np.zeros(2))
        control.hand_back("a")
        held = control.step("a", 2, moved)  # the old subgoal was for another place
        assert np.array_equal(held.subgoal, moved)
        assert held.origin is not None
        assert held.origin.source is Source.HOLD
        planner.await_question(2)
        planner.answer()
        for step in range(3, 1_000_000):
            action = control.step("a", step, moved)
            if not np.array_equal(action.subgoal, moved):
                break
        assert np.array_equal(action.subgoal, np.full(5, np.float32(0.2)))


def test_a_slow_high_level_runs_in_a_thread_and_plans_the_same(tiny_bundle: Bundle, transport: str) -> None:
    found = []
    for own in (Where.STEP, Where.THREAD):
        with planning(tiny_bundle, own=own, deadline_s=WAIT_S) as client, client.control() as control:
            assert client.describe().plan_s == (0.0 if own is Where.STEP else WAIT_S)
            control.start("a", GOAL, STATE, seed=3, rules=PlanRules(wait=True))
            found.append([control.step("a", step, STATE * np.float32(1 + step / 50)) for step in range(10)])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.target, other.target)
        assert np.array_equal(one.subgoal, other.subgoal)
        assert (one.age, one.origin) == (other.age, other.origin)


def test_the_replay_of_a_run_with_late_plans_is_bit_equal(tiny_bundle: Bundle, slow: Any, tiny_client: Client) -> None:
    planner, name = slow
    rng, steps = np.random.default_rng(1), []
    with planning(tiny_bundle, planner=name, deadline_s=WAIT_S) as client, client.control() as control:
        planner.answer()
        control.start("a", GOAL, STATE, seed=7)
        for number in range(40):
            state = rng.uniform(-0.4, 0.4, 5).astype(np.float32)
            action = control.step("a", number, state)
            vectors = [tuple(vector.tolist()) for vector in (*GOAL, state, action.subgoal, action.target)]
            steps.append(LoggedStep(number, *vectors[:4], action.age, vectors[4], origin=action.origin))
            if number % 9 == 8:
                planner.answer()
    header = LogHeader(robot="a", seed=7, plan_lead=0, digest=tiny_bundle.digest, spec=SPEC)
    for kept in (steps, steps[:3] + steps[5:]):  # also with a gap
        with tiny_client.control() as control:
            result = replay(Log(header, kept, whole=True), control)
        assert (result.action.largest, result.subgoal.largest) == (0.0, 0.0)
        assert result.subgoals_logged


class TestRemote:
    """A planner in another process, as the server sees it."""

    pytestmark = pytest.mark.usefixtures("grpc_aio")

    @staticmethod
    def question() -> Question:
        return Question("a", 3, STATE, GOAL, None, np.zeros(3, np.float32))

    @pytest.mark.parametrize("change", ["names", "units", "size"])
    def test_a_planner_for_other_states_is_refused_at_the_start(self, tiny_bundle: Bundle, change: str) -> None:
        state = SPEC.state.model_dump()
        for name, values in state.items():
            if change == "size":
                state[name] = values[:4]
            elif name == change:
                state[name] = (*values[:3], "other", values[4])
        other = PolicySpec.model_validate(
            SPEC.model_dump() | {"state": state, "elements": {}, "library": {}, "goal_dims": [0]}
        )
        with (
            serve_planner(Slow(), "other", other) as address,
            pytest.raises(InvalidInput, match=r"the planner other at .* plans for states with other"),
            planning(tiny_bundle, planner=address),
        ):
            pass

    def test_a_server_that_is_not_a_planner_is_refused_at_the_start(
        self, tiny_bundle: Bundle, tiny_address: str
    ) -> None:
        with pytest.raises(ProtocolViolation), planning(tiny_bundle, planner=tiny_address):
            pass

    @pytest.mark.parametrize("count", [0, 2])
    def test_two_answers_or_none_are_one_refusal(self, count: int) -> None:
        from rpl_runtime.wire import planner as wire

        class Talkative(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                answers = [wire.pack_plan(Plan(STATE))] * count
                return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(answers))

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as threads:
            server = grpc.server(threads)
            server.add_generic_rpc_handlers((Talkative(),))
            address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            server.start()
            planner = RemotePlanner(address)
            try:
                with pytest.raises(ProtocolViolation, match="answers; must give one"):
                    planner.plan(self.question(), WAIT_S)
            finally:
                planner.close()
                server.stop(0).wait()

    def test_a_planner_that_dies_and_comes_back_is_asked_again(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        address = f"unix:{tmp_path}/planner"

        class Quick:
            def plan(self, question: Question, deadline_s: float) -> Plan:
                return Plan(question.state)

        with serve_planner(Quick(), "quick", SPEC, address):
            server = planning(tiny_bundle, planner=address, deadline_s=WAIT_S)
            client = server.__enter__()
        try:
            with client.control() as control:
                begun = threading.Event()

                def begin() -> None:
                    control.start("a", GOAL, STATE)
                    begun.set()

                thread = threading.Thread(target=begin)
                thread.start()  # it waits for a planner that is gone
                with serve_planner(Quick(), "quick", SPEC, address):
                    thread.join(WAIT_S)
                    assert begun.is_set()
                    control.step("a", 0, STATE)
                    until_new(control, "a", 1)
        finally:
            server.__exit__(None, None, None)

    def test_its_refusal_says_why(self) -> None:
        class Refusing:
            def plan(self, question: Question, deadline_s: float) -> Plan:
                raise InvalidInput("no such goal")

        with serve_planner(Refusing(), "refusing", SPEC) as address:
            planner = RemotePlanner(address)
            with pytest.raises(InvalidInput, match="no such goal"):
                planner.plan(self.question(), WAIT_S)
            planner.close()

    def test_another_machine_is_reached_over_tls_only(self) -> None:
        with pytest.raises(InvalidInput, match="without TLS"):
            RemotePlanner("planners.example:50061")


def test_settings_that_exclude_each_other(tiny_bundle: Bundle, grpc_aio: None) -> None:
    with (
        pytest.raises(InvalidInput, match="fallback is the bundle's own high level"),
        planning(tiny_bundle, fallback=BUNDLE),
    ):
        pass
    with pytest.raises(InvalidInput, match="deadline of a plan is 0 s"), planning(tiny_bundle, deadline_s=0.0):
        pass
    with (
        planning(tiny_bundle, own=Where.THREAD, deadline_s=WAIT_S) as client,
        client.control() as control,
        pytest.raises(InvalidInput, match="plans anyway or is slow"),
    ):
        control.start("a", GOAL, STATE, rules=PlanRules(fallback=BUNDLE))


def test_the_planner_of_the_documentation_is_served(tiny_bundle: Bundle, grpc_aio: None) -> None:
    page = (Path(__file__).parents[3] / "docs" / "two-rates.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: list[Action] = []

    def run(address: str) -> None:
        with Client(address) as client, client.control() as control:
            control.start("a", GOAL, STATE)
            found.append(control.step("a", 0, STATE))

    exec(block.replace("    ...", "    run(address)"), {"bundle": tiny_bundle, "run": run})
    assert found[0].origin == Origin(Source.PLANNER, 0, 10, 0.5)
    assert np.array_equal(found[0].subgoal, STATE)
