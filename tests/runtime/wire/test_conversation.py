"""A message has the same reply, and leaves its run in the same state, on both paths of a conversation."""

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies
from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import InvalidInput, PlannerLost, ProtocolViolation, RelayError
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.manifest import Stall
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.messages import (
    Applied,
    Finish,
    HandBack,
    Observation,
    Observations,
    Request,
    SetGoal,
    Start,
)
from rpl_runtime.relay.plans import Fallback, Plan, PlanRules, Question, Source
from rpl_runtime.relay.run_state import Resume, Run, SubgoalOverride, TakeOver
from rpl_runtime.relay.session import PlainSteps, Session
from rpl_runtime.wire import control as codec
from rpl_runtime.wire.columns import pack_columns
from rpl_runtime.wire.conversation import Conversation, Later, Undecided, decide

STALL = Stall(limit=1.5, rate=0.1, episodes=9)
STATE = np.array([0.5, -0.25, 0.1, 0.0, 0.0], np.float32)
DOOR = ("door",)


def as_rows(reply: pb.ControlReply, robots: Sequence[str]) -> list[pb.ReplyRow]:
    """A reply in columns, row by row."""
    columns, apart, rows = reply.columns, list(reply.columns.apart), []
    targets, subgoals = np.array(columns.targets).reshape(-1, 2), iter(np.array(columns.subgoals).reshape(-1, 5))
    answered = iter(range(len(columns.ages)))
    for at, robot in enumerate(robots):
        if at in apart:
            row = reply.rows[apart.index(at)]
            row.robot = robot  # the server names none for a handle that it does not have
            rows.append(row)
            continue
        column = next(answered)
        age = columns.ages[column]
        action = pb.Action(target=targets[column], age=age, valid_until_ns=columns.valid_until_ns)
        if age == 0:
            action.replanned = True
            action.subgoal.extend(next(subgoals))
        if columns.novelty:
            action.novelty = columns.novelty[column]
        action.help = column in columns.help
        rows.append(pb.ReplyRow(robot=robot, action=action))
    return rows


def shown(row: pb.ReplyRow) -> object:
    """A row, comparable: what refuses an unknown handle cannot name the robot."""
    return (row.refusal.reason, row.refusal.code) if row.HasField("refusal") else row.SerializeToString()


class Planner:
    """A planner whose answers come so many messages after their questions, or as soon as they are waited for."""

    source = Source.PLANNER

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.now = 0  # messages

    def ask(self, question: Question, rules: PlanRules) -> "Answer":
        return Answer(self, question, self.now + self.delay)

    def check(self, rules: PlanRules) -> None:
        """All are good."""

    def fallback(self, rules: PlanRules) -> Fallback:
        return rules.fallback or Fallback.KEEP


@dataclass
class Answer:
    """The answer to a question; every fifth step's is lost."""

    planner: Planner = field(repr=False)
    question: Question
    due: int
    left_s = 0.0

    @property
    def settled(self) -> bool:
        return self.planner.now >= self.due

    def result(self) -> Plan:
        self.due = min(self.due, self.planner.now)
        if self.question.step % 5 == 4:
            raise PlannerLost("it has no plan")
        return Plan(self.question.state + np.float32(0.1), 0.5, self.question.step % 4)

    def when_settled(self, call: Callable[[], object]) -> None:
        """Nobody waits here."""

    def drop(self) -> None:
        """Nothing is held."""


class Both:
    """The same messages on both paths, each with a session of its own, and a planner of its own if it has a delay."""

    def __init__(self, bundle: Bundle, policy: OnnxPolicy, delay: int | None = None) -> None:
        self.counted: list[tuple[int, int]] = []  # rows and bytes of each message
        self.planners = [None if delay is None else Planner(delay) for _ in range(2)]
        self.lean, self.ordinary = (Session(policy, bundle, Leases(), "", planner) for planner in self.planners)
        self.conversation = Conversation(self.lean, policy, lambda rows, size: self.counted.append((rows, size)))

    def ask(self, *rows: tuple[str, Request]) -> list[pb.ReplyRow]:
        """Ask for rows, compare everything but the times, and return the reply's rows."""
        return self.send(codec.pack_request(rows))

    def send(self, raw: bytes) -> list[pb.ReplyRow]:
        found = self.reply(raw)
        answer = self.ordinary.answer(codec.unpack_request(raw), received_ns=7)
        expected = pb.ControlReply.FromString(codec.pack_reply(*answer))
        assert [row.SerializeToString() for row in found.rows] == [row.SerializeToString() for row in expected.rows]
        assert self.counted[-1] == (len(found.rows), len(raw))
        assert self.state(self.lean) == self.state(self.ordinary)
        return list(found.rows)

    def reply(self, raw: bytes) -> pb.ControlReply:
        """The lean path's reply, once what it waits for is there."""
        for planner in self.planners:
            if planner is not None:
                planner.now += 1
        reply = self.conversation.answer(raw, received_ns=7)
        while isinstance(reply, Later):
            for coming in reply.awaited:
                with suppress(PlannerLost):
                    coming.result()
            reply = reply.go_on()
        assert isinstance(reply, bytes)
        self.conversation.prepare()
        found = pb.ControlReply.FromString(reply)
        assert found.times.total_us == np.float32(self.lean.times.total_us) > 0
        return found

    def each(self, act: Callable[[Session], object]) -> None:
        """Let an operator act on both."""
        for session in (self.lean, self.ordinary):
            act(session)

    @staticmethod
    def state(session: Session) -> object:
        """All that a session holds about its runs, comparable."""

        def shown(run: Run) -> list[object]:
            fields = (getattr(run, name) for name in Run.__dataclass_fields__ if name != "drawn")
            return [value.tobytes() if isinstance(value, np.ndarray) else str(value) for value in fields]

        runs = {robot: shown(run) for robot, run in session.loop.runs.items()}
        states = {robot: state.tobytes() for robot, state in session.states.items()}
        return runs, states, session.heard_ns, session.novelty

    @property
    def plain(self) -> bool:
        """Whether the last message took the lean path."""
        return [type(part) for part in self.conversation.said] == [PlainSteps]

    def step(self, *robots: str, **changed: tuple[int, np.ndarray]) -> pb.ControlReply:
        """A step of robots in columns, and the same as rows; `changed` gives other steps and states to some of them."""
        numbers = {robot: handle for handle, robot in self.lean.handles.items()}
        runs = self.ordinary.loop.runs
        rows = {robot: changed.get(robot, (runs[robot].step if robot in runs else 0, STATE)) for robot in robots}
        handles = [numbers.get(robot, 999) for robot in robots]
        steps, states = [rows[robot][0] for robot in robots], [rows[robot][1] for robot in robots]
        seen = Observations(np.array(handles), np.array(steps), np.array(states), 1000)
        raw = pack_columns(seen)
        found = self.reply(raw)
        assert self.counted[-1] == (len(robots), len(raw))
        asked = [(robot, Observation(rows[robot][0], rows[robot][1], 1000)) for robot in robots]
        answer = self.ordinary.answer(asked, received_ns=7)
        expected = list(pb.ControlReply.FromString(codec.pack_reply(*answer)).rows)
        assert [shown(row) for row in as_rows(found, robots)] == [shown(row) for row in expected]
        assert self.state(self.lean) == self.state(self.ordinary)
        return found


@pytest.fixture(scope="module", params=[False, True], ids=["unscored", "scored"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, OnnxPolicy]:
    statistics, stall = (policies.tiny_statistics(), STALL) if request.param else (None, None)
    bundle = policies.tiny_bundle(tmp_path_factory.mktemp("served") / "bundle", statistics=statistics, stall=stall)
    return bundle, OnnxPolicy(bundle)


@pytest.fixture
def both(served: tuple[Bundle, OnnxPolicy]) -> Both:
    return Both(*served)


def see(step: int, state: np.ndarray = STATE) -> tuple[str, Request]:
    return "a", Observation(step, state, observed_ns=1000)


STARTS = {
    "mode": (Start(DOOR, STATE), [True] * 10),
    "sampled": (Start(DOOR, STATE, seed=5), [True] * 10),
    # With a lead of 1 the plan for steps 4 and 8 is made at steps 3 and 7.
    "planned ahead": (
        Start(DOOR, STATE, seed=5, plan_lead=1),
        [True] * 3 + [False] * 2 + [True] * 2 + [False] * 2 + [True],
    ),
}


@pytest.mark.parametrize("case", STARTS)
def test_steps_and_replans_are_plain_and_the_same(case: str, both: Both) -> None:
    start, plain = STARTS[case]
    both.ask(("a", start))
    took = []
    for step in range(10):
        [row] = both.ask(see(step, STATE + np.float32(0.01 * step)))
        assert row.action.replanned is (step % 4 == 0)
        took.append(both.plain)
    assert took == plain


@pytest.mark.parametrize("rules", [PlanRules(), PlanRules(wait=True), PlanRules(fallback=Fallback.HOLD)], ids=str)
@pytest.mark.parametrize("lead", [0, 2])
@pytest.mark.parametrize("delay", [1, 3, 9])
def test_steps_whose_plans_come_later_are_the_same(
    delay: int, lead: int, rules: PlanRules, served: tuple[Bundle, OnnxPolicy]
) -> None:
    both = Both(*served, delay)
    both.ask(*((robot, Start(DOOR, STATE, seed=3, plan_lead=lead, rules=rules)) for robot in "ab"))
    plain = []
    for step in range(14):
        both.ask(see(step))
        plain.append(both.plain)
        both.step("b")
    assert any(plain)


def test_noise_drawn_ahead_is_that_of_the_step(both: Both) -> None:
    """The lean path draws it after the reply; here a step of the ordinary path and a refused one come between."""
    both.ask(("a", Start(DOOR, STATE, seed=9)), ("b", Start(DOOR, STATE, seed=9)))
    for step in range(0, 8, 2):
        both.ask(see(step))
        both.ask(see(step + 5))
        both.ask(see(step + 1), ("b", Observation(step // 2, STATE, 0)))


def resumed(override: SubgoalOverride, age: int, **options: object) -> Start:
    resume = Resume(7, STATE + np.float32(0.5), age, options.pop("upcoming", None), override)  # type: ignore[arg-type]
    goal = policies.tiny_spec().resolve(DOOR, STATE)
    return Start(goal, STATE, resume=resume, **options)  # type: ignore[arg-type]


RESUMED = {
    "in the middle": (resumed(SubgoalOverride.NONE, 2), True),
    "at the end of its subgoal": (resumed(SubgoalOverride.NONE, 4, seed=3), True),
    "with a subgoal planned ahead": (resumed(SubgoalOverride.NONE, 4, plan_lead=2, upcoming=STATE), False),
    "pinned": (resumed(SubgoalOverride.PINNED, 2), False),
    "vetoed": (resumed(SubgoalOverride.VETOED, 2, seed=3), False),
    "released": (resumed(SubgoalOverride.RELEASED, 2), False),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_goes_on_the_same(case: str, both: Both) -> None:
    start, plain = RESUMED[case]
    both.ask(("a", start))
    both.ask(see(7))
    assert both.plain is plain
    for step in range(8, 14):
        both.ask(see(step))


def sick(state: np.ndarray | None = None, step: int = 1, robot: str = "a") -> bytes:
    return codec.pack_request([(robot, Observation(step, STATE if state is None else state, 1000))])


def of(number: int, value: float) -> np.ndarray:
    state = STATE.copy()
    state[number] = value
    return state


def raw_state(*chunks: bytes) -> bytes:
    """A step whose state comes in several parts, or with bytes that are no number."""
    seen = b"\x08\x01" + b"".join(b"\x12" + bytes([len(chunk)]) + chunk for chunk in chunks) + b"\x18\x07"
    row = b"\x0a\x01a\x1a" + bytes([len(seen)]) + seen
    return b"\x0a" + bytes([len(row)]) + row


SICK = {
    "nan": (sick(of(0, np.nan)), "InvalidInput"),
    "infinity": (sick(of(4, -np.inf)), "InvalidInput"),
    "out of range": (sick(of(2, 3.21)), "InvalidInput"),
    "too short": (sick(STATE[:4]), "InvalidInput"),
    "too long": (sick(np.zeros(6)), "InvalidInput"),
    "no state": (sick(np.zeros(0)), "InvalidInput"),
    "half a number": (raw_state(STATE.tobytes()[:-2]), "InvalidInput"),
    "one number too many, in parts": (raw_state(STATE.tobytes(), b"\0\0\0\0"), "InvalidInput"),
    "a repeated step": (sick(step=0), "StepOutOfOrder"),
    "a gap": (sick(step=2), "StepOutOfOrder"),
    "a robot without a run": (sick(robot="nobody"), "ProtocolViolation"),
}


@pytest.mark.parametrize("case", SICK)
def test_a_sick_step_is_refused_the_same_and_changes_nothing(case: str, both: Both) -> None:
    raw, reason = SICK[case]
    both.ask(("a", Start(DOOR, STATE, seed=1)))
    both.ask(see(0))
    [row] = both.send(raw)
    assert row.refusal.reason == reason
    [row] = both.ask(see(1))
    assert (row.action.age, both.plain) == (1, True)


def test_a_state_in_parts_is_read_the_same(both: Both) -> None:
    both.ask(("a", Start(DOOR, STATE)))
    both.ask(see(0))
    content = STATE.tobytes()
    [row] = both.send(raw_state(content[:8], content[8:]))
    assert row.action.age == 1


@pytest.mark.parametrize("raw", [b"", b"\xff", sick(robot="\x1b[2J"), codec.pack_request([("", Finish())])])
def test_a_message_that_cannot_be_read_fails_as_a_whole(raw: bytes, both: Both) -> None:
    with pytest.raises((InvalidInput, ProtocolViolation)):
        both.conversation.answer(raw, 7)
    with pytest.raises((InvalidInput, ProtocolViolation)):
        codec.unpack_request(raw)
    assert both.conversation.said == []


def test_an_operators_changes_are_followed_the_same(both: Both) -> None:
    both.ask(("a", Start(DOOR, STATE, seed=2)))
    acts: list[Callable[[Session], object]] = [
        lambda session: session.loop.pin("a", STATE * 2),
        lambda session: None,
        lambda session: session.loop.release("a"),
        lambda session: session.loop.veto("a"),
        lambda session: session.loop.set_goal("a", policies.tiny_spec().resolve(("lamp",), STATE)),
    ]
    plain = []
    for step, act in enumerate(acts):
        both.each(act)
        both.ask(see(step))
        plain.append(both.plain)
        both.ask(see(step))  # out of order
    assert plain == [False, False, False, False, True]


Turn = tuple[str, str, int]  # robot, what it sends or an operator does, an argument
KINDS = (
    *(*["step"] * 4, *["columns"] * 2, "late", "nan", "far", "start", "goal", "finish", "pin", "release", "veto"),
    *("take", "applied", "applied", "back"),
)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(KINDS), st.integers(0, 3)), max_size=3)),
    st.sampled_from([None, 1, 3]),
)
def test_any_conversation_is_the_same(
    served: tuple[Bundle, OnnxPolicy], messages: list[Sequence[Turn]], delay: int | None
) -> None:
    both = Both(*served, delay)
    for number, message in enumerate(messages):
        rows: list[tuple[str, Request]] = []
        for robot, kind, argument in message:
            run = both.ordinary.loop.runs.get(robot)
            step, state = 0 if run is None else run.step, STATE + np.float32(0.01 * number)
            match kind:
                case "step" | "late" | "nan" | "far":
                    bad = {"nan": np.full(5, np.nan), "far": np.full(5, 99.0)}
                    seen = Observation(step + (kind == "late"), bad.get(kind, state).astype(np.float32), number)
                    rows.append((robot, seen))
                case "columns":
                    if rows:
                        both.ask(*rows)
                        rows = []
                    both.step(*("ab", "ba", robot, "a" + robot)[argument], **{robot: (step, state)})
                case "start":
                    rules = PlanRules(argument > 1, [*Fallback][argument])
                    rows.append((robot, Start(DOOR, state, argument or None, plan_lead=argument % 3, rules=rules)))
                case "goal":
                    rows.append((robot, SetGoal(("lamp", "door")[: argument % 2 + 1], state)))
                case "finish":
                    rows.append((robot, Finish()))
                case "take":
                    rows.append((robot, TakeOver("gamepad")))
                case "applied":
                    rows.append((robot, Applied(step, state, state[:2])))
                case "back":
                    rows.append((robot, HandBack()))
                case _:
                    arguments = (robot, state) if kind == "pin" else (robot,)
                    for session in (both.lean, both.ordinary):
                        try:
                            getattr(session.loop, kind)(*arguments)
                        except RelayError:
                            continue
        if rows:
            both.ask(*rows)


def test_a_policy_that_fails_is_refused_the_same(tmp_path: Path) -> None:
    bundle = policies.tiny_bundle(tmp_path / "bundle")
    both = Both(bundle, OnnxPolicy(bundle))
    both.ask(("a", Start(DOOR, STATE)))
    both.each(
        lambda session: setattr(
            session.loop.runs["a"], "goal", session.loop.runs["a"].goal._replace(state=STATE * np.nan)
        )
    )
    [row] = both.ask(see(0))
    assert (row.refusal.reason, both.plain) == ("RelayError", False)


@pytest.mark.parametrize("seed", [None, 4])
def test_columns_step_robots_of_different_ages(seed: int | None, both: Both) -> None:
    for number, robot in enumerate("abc"):
        both.ask((robot, Start(DOOR, STATE, seed=seed)))
        for _ in range(number):
            both.step(robot)
    for _ in range(10):
        found = both.step("c", "a", "b")
        assert (len(found.columns.ages), list(found.columns.apart), both.plain) == (3, [], True)


def test_columns_and_rows_and_an_operator_may_alternate(both: Both) -> None:
    both.ask(*((robot, Start(DOOR, STATE, seed=3)) for robot in "abc"))
    acts: list[Callable[[], object]] = [
        lambda: both.ask(see(1)),
        lambda: both.each(lambda session: session.loop.pin("b", STATE * 2)),
        lambda: both.each(lambda session: session.loop.release("b")),
        lambda: both.each(lambda session: session.loop.veto("c")),
        lambda: both.ask(("a", SetGoal(("lamp",), STATE))),
        lambda: both.ask(("b", Finish())),
        lambda: both.ask(("b", Start(DOOR, STATE, plan_lead=2))),
        lambda: None,
    ]
    for act in acts:
        both.step("a", "b", "c")
        act()
        both.step("a", "b", "c")


def test_a_robot_in_hand_is_refused_alone_and_replans_when_it_is_handed_back(both: Both) -> None:
    both.ask(*((robot, Start(DOOR, STATE, seed=3)) for robot in "abc"))
    both.step("a", "b", "c")
    both.ask(("b", TakeOver("gamepad", "it hangs")), ("b", Applied(1, STATE, STATE[:2])))
    found = both.step("a", "b", "c")
    assert list(found.columns.apart) == [1]
    assert "in the hand of gamepad" in found.rows[0].refusal.message
    both.ask(("b", HandBack()))
    for _ in range(6):
        found = both.step("a", "b", "c")
        assert (list(found.columns.apart), both.plain) == ([], True)
    [row] = both.ask(see(8))
    assert row.action.age == 0


BAD = {
    "nan": (0, of(0, np.nan)),
    "out of range": (0, of(2, 3.21)),
    "a gap": (1, STATE),
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_robot_of_256_is_refused_alone(case: str, both: Both) -> None:
    robots = [f"robot {number}" for number in range(255)]
    both.ask(*((robot, Start(DOOR, STATE)) for robot in ["bad", *robots]))
    mixed = [*robots[:100], "bad", *robots[100:]]
    for step in range(4):
        bad = {} if step in (0, 3) else {"bad": (BAD[case][0] + 1, BAD[case][1])}
        found = both.step(*mixed, **bad)
        assert list(found.columns.apart) == ([100] if bad else [])


def test_a_handle_of_nobody_and_a_robot_named_twice_are_refused_alone(both: Both) -> None:
    both.ask(*((robot, Start(DOOR, STATE)) for robot in "ab"))
    found = both.step("nobody", "a", "b", "b")
    assert list(found.columns.apart) == [0, 2, 3]
    assert [row.WhichOneof("kind") for row in found.rows] == ["refusal", "action", "refusal"]


REFUSED = {
    "a robot without a run": [("nobody", see(0)[1])] * 3,
    "one among good ones": [("a", see(0)[1]), ("nobody", see(0)[1])],
    "a start again": [("a", Start(DOOR, STATE))],
    "an unknown goal": [("c", Start(("window",), STATE))],
    "an end of nobody": [("nobody", Finish())],
    "not a number": [("a", see(0, STATE * np.nan)[1])],
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_leaves_nothing_to_the_garbage_collector(case: str, both: Both) -> None:
    """A caller refused without end would let it run, and it stops every robot's step for a tenth of a second."""
    both.ask(*((robot, Start(DOOR, STATE)) for robot in "ab"))
    raw = codec.pack_request(REFUSED[case])
    both.conversation.answer(raw, 7)
    gc.freeze()  # what was there before is not looked at
    gc.disable()
    try:
        for _ in range(20):
            both.conversation.answer(raw, 7)
        assert gc.collect() < 20  # a circle for each message would be many more
    finally:
        gc.enable()
        gc.unfreeze()


WRONG = {
    "none": (0, 0, 0),
    "a state too few": (2, 2, 5),
    "a step too few": (2, 1, 10),
    "a number too many": (2, 2, 11),
    "a robot too many": (257, 257, 257 * 5),
}


@pytest.mark.parametrize("case", WRONG)
def test_columns_of_different_lengths_fail_as_a_whole(case: str, both: Both) -> None:
    handles, steps, numbers = WRONG[case]
    seen = Observations(np.zeros(handles), np.zeros(steps), np.zeros(numbers), 0)
    with pytest.raises(InvalidInput, match="the columns have"):
        both.conversation.answer(pack_columns(seen), 7)


def test_a_message_has_rows_or_columns(both: Both) -> None:
    seen = pack_columns(Observations(np.ones(1), np.zeros(1), STATE, 0))
    with pytest.raises(ProtocolViolation, match="rows and columns"):
        both.conversation.answer(sick() + seen, 7)


def test_a_robot_that_makes_no_progress_asks_for_help_the_same(tmp_path: Path) -> None:
    """By itself and among others; progress ends it, and so does what an operator changes."""
    bundle = policies.tiny_bundle(tmp_path / "bundle", statistics=policies.tiny_statistics(), stall=STALL)
    both = Both(bundle, OnnxPolicy(bundle))
    both.ask(("a", Start(DOOR, STATE)), ("b", Start(DOOR, STATE)))
    score = 0.563  # of STATE: each step without progress counts so much
    asked = []
    for step in range(6):
        if step % 2:
            asking = both.step("a", "b").columns.help
            asked.append([column in asking for column in (0, 1)])
        else:
            asked.append([row.action.help for row in both.ask(see(step), ("b", Observation(step, STATE, 1000)))])
        assert both.plain is bool(step % 2)
    late = [count * score > STALL.limit for count in range(6)]
    assert asked == [[each, each] for each in late]
    assert late == [False, False, False, True, True, True]
    nearer = STATE.copy()
    nearer[3] = 1.0
    assert list(both.step("a", "b", b=(6, nearer)).columns.help) == [0]
    both.each(lambda session: session.loop.veto("a"))
    assert not both.ask(see(7))[0].action.help


# ----------------------------------------------------------------------------------- steps of several streams at once


class Streams:
    """Streams of a robot each, which step at once, and the same streams one by one."""

    def __init__(self, bundle: Bundle, starts: Sequence[Start]) -> None:
        self.policy = OnnxPolicy(bundle)
        self.policy.joint = True
        self.together, self.apart = ([Session(self.policy, bundle, Leases()) for _ in starts] for _ in range(2))
        self.conversations = [
            Conversation(session, self.policy, lambda *_: None) for session in (*self.together, *self.apart)
        ]
        for number, conversation in enumerate(self.conversations):
            conversation.answer(codec.pack_request([("a", starts[number % len(starts)])]), 7)

    def step(self, *requests: Request) -> list[pb.ReplyRow]:
        """A step of each stream; compares replies and states, and returns the replies."""
        raws = [codec.pack_request([("a", request)]) for request in requests]
        count = len(raws)
        replies: list[bytes | None] = [None] * count
        undecided: dict[int, Undecided] = {}
        self.joined = 0

        def decide_first() -> None:
            for at, make in zip(undecided, decide(list(undecided.values())), strict=True):
                replies[at] = make()
            undecided.clear()

        for at, raw in enumerate(raws):
            reply = self.conversations[at].answer(raw, 7, decide_first)
            if isinstance(reply, Undecided):
                undecided[at] = reply
                self.joined += 1
            else:
                assert not undecided  # what is not plain finds those before it decided
                replies[at] = reply
        decide_first()
        expected = [self.conversations[count + at].answer(raw, 7) for at, raw in enumerate(raws)]
        for conversation in self.conversations:
            conversation.prepare()
        found, wanted = ([pb.ControlReply.FromString(reply).rows[0] for reply in some] for some in (replies, expected))
        assert [row.SerializeToString() for row in found] == [row.SerializeToString() for row in wanted]
        for one, other in zip(self.together, self.apart, strict=True):
            assert Both.state(one) == Both.state(other)
        return found


EACH = [Start(DOOR, STATE), Start(DOOR, STATE, seed=3), Start(DOOR, STATE, plan_lead=1), Start(DOOR, STATE, seed=4)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_steps_that_share_a_call_are_the_same_to_the_bit(count: int, tiny_bundle: Bundle) -> None:
    streams = Streams(tiny_bundle, EACH[:count])
    joined = 0
    for step in range(3 * tiny_bundle.spec.horizon):
        streams.step(*(Observation(step, STATE * (at + 1) / 5, 1000) for at in range(count)))
        joined += streams.joined
    assert joined > 2 * count * tiny_bundle.spec.horizon


def test_steps_of_a_policy_whose_rows_may_not_share_a_call_are_decided_at_once(tiny_bundle: Bundle) -> None:
    streams = Streams(tiny_bundle, EACH)
    streams.policy.joint = False
    streams.step(*[Observation(0, STATE, 1000)] * len(EACH))
    assert streams.joined == 0


def test_a_step_that_is_refused_or_not_plain_leaves_the_others_as_they_are(tiny_bundle: Bundle) -> None:
    streams = Streams(tiny_bundle, EACH)
    states = STATE, np.full(5, np.nan, np.float32), STATE, STATE
    rows = streams.step(*(Observation(step, state, 1000) for step, state in zip([0, 0, 9, 0], states, strict=True)))
    assert [row.WhichOneof("kind") for row in rows] == ["action", "refusal", "refusal", "action"]
    assert streams.joined == 2
    rows = streams.step(Observation(1, STATE, 1000), Finish(), SetGoal(("lamp",), STATE), Observation(1, STATE, 1000))
    assert [row.WhichOneof("kind") for row in rows] == ["action", "finished", "goal_set", "action"]


@pytest.mark.parametrize("case", ["the call fails", "a row has no number"])
def test_a_fault_of_a_shared_call_is_nobody_elses(
    case: str, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the streams that get no action from it, each is answered as if it were alone."""
    streams, act, calls = Streams(tiny_bundle, EACH), OnnxPolicy.act, []

    def fail(policy: OnnxPolicy, *rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows[0]))
        if len(rows[0]) == 1:
            return act(policy, *rows)
        if case == "the call fails":
            raise ValueError("a row too many")
        actions = act(policy, *rows)
        actions[1] = np.nan
        return actions

    monkeypatch.setattr(OnnxPolicy, "act", fail)
    for step in range(2):
        rows = streams.step(*[Observation(step, STATE, 1000)] * len(EACH))
        assert [row.WhichOneof("kind") for row in rows] == ["action"] * len(EACH)
    assert max(calls) > 1


def test_each_policy_has_a_call_of_its_own(tiny_bundle: Bundle, tmp_path: Path) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    both = [Streams(bundle, EACH[:2]) for bundle in (tiny_bundle, other)]
    raw = codec.pack_request([("a", Observation(0, STATE, 1000))])
    undecided = [streams.conversations[at].answer(raw, 7, lambda: None) for at in range(2) for streams in both]
    found = [make() for make in decide(undecided)]
    expected = [streams.conversations[2 + at].answer(raw, 7) for at in range(2) for streams in both]
    rows = [[pb.ControlReply.FromString(reply).rows[0] for reply in replies] for replies in (found, expected)]
    assert rows[0] == rows[1]
    assert rows[0][0] != rows[0][1]
