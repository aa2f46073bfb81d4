"""The relay loop compared with a brute-force implementation of its contract."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError, StepOutOfOrder
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.relay.noise import NoiseSource, robot_key
from rpl_runtime.relay.run_state import Decision, Resume, Standing, SubgoalOverride

SPEC = policies.tiny_spec()
N, M = SPEC.state.dim, SPEC.action.dim
noise = NoiseSource().draw


class Blend:
    """Levels that depend on every input and treat every row alike."""

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return np.float32(0.5) * state + mask * goal + np.pad(noise, ((0, 0), (0, N - noise.shape[1])))

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return (subgoal - state)[:, :M] + noise


class Case(NamedTuple):
    spec: PolicySpec
    states: np.ndarray  # (T, n)
    goals: dict[int, ResolvedGoal]  # step before which it is set -> goal; 0 is there
    seed: int | None
    lead: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    horizon = draw(st.integers(1, 6))
    length = draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    changes = draw(st.sets(st.integers(1, 20), max_size=3)) | {0}
    goals = {
        at: ResolvedGoal(rng.normal(size=N).astype(np.float32), rng.integers(0, 2, N).astype(np.float32))
        for at in changes
    }
    return Case(
        policies.tiny_spec(horizon),
        rng.uniform(-0.4, 0.4, (length, N)).astype(np.float32),
        goals,
        draw(st.none() | st.integers(0, 2**64 - 1)),
        draw(st.integers(0, horizon - 1)),
    )


def brute_force(case: Case, robot: str, step: int) -> tuple[np.ndarray, np.ndarray, int]:
    """action, subgoal and age of a step, computed from the contract without state from earlier steps."""
    began = max(at for at in case.goals if at <= step)
    effective = began + (step - began) // case.spec.horizon * case.spec.horizon
    asked = effective if effective == began else effective - case.lead

    def draw(level, at, size):
        zeros = np.zeros(size, dtype=np.float32)
        return (zeros if case.seed is None else noise(case.seed, robot_key(robot), level, at, size))[None]

    goal, levels = case.goals[began], Blend()
    subgoal = levels.plan(case.states[asked][None], goal.state[None], goal.mask[None], draw("high", effective, 3))
    action = levels.act(case.states[step][None], subgoal, draw("low", step, 2))
    return action[0], subgoal[0], step - effective


def play(loop: RelayLoop, case: Case, robot: str, first: int = 0):
    for step in range(first, len(case.states)):
        if step and step in case.goals:
            loop.set_goal(robot, case.goals[step])
        yield step, loop.step([robot], [step], case.states[step][None])


@given(cases())
def test_every_step_is_what_the_contract_says(case: Case) -> None:
    loop = RelayLoop(Blend(), case.spec)
    loop.start("a", case.goals[0], case.seed, case.lead)
    for step, decision in play(loop, case, "a"):
        action, subgoal, age = brute_force(case, "a", step)
        np.testing.assert_array_equal(decision.action[0], action)
        np.testing.assert_array_equal(decision.subgoal[0], subgoal)
        assert (decision.age[0], decision.replanned[0]) == (age, age == 0)


@given(cases(), st.integers(1, 19))
def test_a_resumed_run_goes_on_as_the_unbroken_one(case: Case, cut: int) -> None:
    """The decisions hold everything that a resume needs."""
    cut = min(cut, len(case.states))
    first, second = RelayLoop(Blend(), case.spec), RelayLoop(Blend(), case.spec)
    first.start("a", case.goals[0], case.seed, case.lead)
    upcoming = decision = None
    for step, decision in play(first, case, "a"):
        upcoming = decision.upcoming.get(0, None if decision.replanned[0] else upcoming)
        if step + 1 == cut:
            break
    assert decision is not None
    goal = case.goals[max(at for at in case.goals if at < cut)]
    resume = Resume(cut, decision.subgoal[0], int(decision.age[0]) + 1, upcoming)
    second.start("a", goal, case.seed, case.lead, resume)
    for step, decision in play(second, case, "a", first=cut):
        action, subgoal, age = brute_force(case, "a", step)
        np.testing.assert_array_equal(decision.action[0], action)
        np.testing.assert_array_equal(decision.subgoal[0], subgoal)
        assert decision.age[0] == age


@given(cases(), st.lists(st.integers(0, 8), min_size=1, max_size=4))
def test_a_batch_of_robots_at_their_own_steps_is_each_of_them_alone(case: Case, delays: list[int]) -> None:
    loop = RelayLoop(Blend(), case.spec)
    runs = {f"robot {number}": delay for number, delay in enumerate(delays)}
    for robot in runs:
        loop.start(robot, case.goals[0], case.seed, case.lead)
    only_start = case._replace(goals={0: case.goals[0]})
    for tick in range(len(case.states)):
        rows = [(robot, tick - delay) for robot, delay in runs.items() if tick >= delay]
        if not rows:
            continue
        decision = loop.step(*zip(*rows, strict=True), case.states[[step for _, step in rows]])
        for row, (robot, step) in enumerate(rows):
            action, subgoal, _ = brute_force(only_start, robot, step)
            np.testing.assert_array_equal(decision.action[row], action)
            np.testing.assert_array_equal(decision.subgoal[row], subgoal)


@given(st.data())
@settings(max_examples=50)
def test_a_fault_is_found_in_its_row_and_moves_nobody(data: st.DataObject) -> None:
    loop = RelayLoop(Blend(), SPEC)
    robots = ["a", "b", "c"]
    goal = SPEC.resolve(["door"], np.zeros(N))
    for robot in robots:
        loop.start(robot, goal)
    states = np.zeros((3, N), dtype=np.float32)
    steps = [0, 0, 0]
    sick = data.draw(st.integers(0, 2))
    fault, expected = data.draw(
        st.sampled_from(
            [
                (lambda: states.__setitem__((sick, 1), np.nan), InvalidInput),
                (lambda: states.__setitem__((sick, 1), np.inf), InvalidInput),
                (lambda: states.__setitem__((sick, 1), 11.0), InvalidInput),
                (lambda: steps.__setitem__(sick, 1), StepOutOfOrder),
                (lambda: robots.__setitem__(sick, "nobody"), ProtocolViolation),
                (lambda: robots.__setitem__(sick, robots[sick - 1]), StepOutOfOrder),
            ]
        )
    )
    fault()
    [(row, error)] = loop.faults(robots, steps, states).items()
    assert type(error) is expected
    assert row == sick or robots.count(robots[sick]) == 2
    with pytest.raises(expected):
        loop.step(robots, steps, states)
    decision = loop.step(["a", "b", "c"], [0, 0, 0], np.zeros((3, N)))
    assert decision.replanned.all()


def test_a_state_of_another_size_names_both_sizes() -> None:
    loop = RelayLoop(Blend(), SPEC)
    loop.start("a", SPEC.resolve(["door"], np.zeros(N)))
    with pytest.raises(InvalidInput, match=r"shape \(3,\).*\(5,\)"):
        loop.step(["a"], [0], [np.zeros(3)])


def test_a_policy_that_returns_nan_leaves_the_run_where_it_stands() -> None:
    class Sick(Blend):
        sick = True

        def act(self, state, subgoal, noise):
            return super().act(state, subgoal, noise) * (np.nan if self.sick else 1)

    levels = Sick()
    loop = RelayLoop(levels, SPEC)
    loop.start("a", SPEC.resolve(["door"], np.zeros(N)))
    with pytest.raises(RelayError, match="not finite"):
        loop.step(["a"], [0], np.zeros((1, N)))
    levels.sick = False
    assert loop.step(["a"], [0], np.zeros((1, N))).replanned[0]


class OnItsWay(Blend):
    """Plans that are still under way when `plan` returns, and may fail."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []
        self.read = 0
        self.failing = False

    def plan(self, state, goal, mask, noise):
        self.asked.append(state)
        return [Coming(self, subgoal) for subgoal in super().plan(state, goal, mask, noise)]


class Coming(NamedTuple):
    levels: OnItsWay
    subgoal: np.ndarray

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self.levels.read += 1
        if self.levels.failing:
            raise RelayError("lost")
        return self.subgoal


@given(cases())
def test_a_plan_that_is_on_its_way_is_read_when_it_takes_effect(case: Case) -> None:
    levels = OnItsWay()
    loop = RelayLoop(levels, case.spec)
    loop.start("a", case.goals[0], case.seed, case.lead)
    effective = 0
    for step, decision in play(loop, case, "a"):
        action, subgoal, age = brute_force(case, "a", step)
        np.testing.assert_array_equal(decision.action[0], action)
        np.testing.assert_array_equal(decision.subgoal[0], subgoal)
        effective += age == 0
        assert levels.read == effective
        assert not decision.upcoming


@pytest.mark.parametrize("lead", [0, 2])
def test_a_plan_that_was_lost_is_made_anew_in_the_next_try(lead: int) -> None:
    levels = OnItsWay()
    loop = RelayLoop(levels, SPEC)
    loop.start("a", SPEC.resolve(["door"], np.zeros(N)), plan_lead=lead)
    states = np.arange(6 * N, dtype=np.float32).reshape(6, 1, N) / 100
    for step in range(4):
        loop.step(["a"], [step], states[step])
    levels.failing = True
    with pytest.raises(RelayError, match="lost"):
        loop.step(["a"], [4], states[4])
    levels.failing = False
    decision = loop.step(["a"], [4], states[5])
    assert decision.replanned[0]
    np.testing.assert_array_equal(levels.asked[-1], states[5])


def one_step(loop: RelayLoop, step: int, state: np.ndarray, robot: str = "a") -> Decision:
    return loop.step([robot], [step], state[None])


@pytest.mark.parametrize("lead", [0, 2])
def test_a_policy_gets_float32_whatever_it_plans_and_a_resume_holds(lead: int) -> None:
    class Exact(Blend):
        def plan(self, *arrays):
            assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
            return super().plan(*arrays).tolist()

        def act(self, *arrays):
            assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
            return super().act(*arrays)

    loop, goal, upcoming = RelayLoop(Exact(), SPEC), SPEC.resolve(["door"], np.zeros(N)), np.ones(N) if lead else None
    loop.start("a", goal, 1, lead)
    loop.start("resumed", goal, 1, lead, Resume(3, np.full(N, 0.1), 3, upcoming))
    loop.start("pinned", goal, 1, lead, Resume(3, np.full(N, 0.1), 3, None, SubgoalOverride.PINNED))
    for step in range(6):
        for robot, first in (("a", 0), ("resumed", 3), ("pinned", 3)):
            assert one_step(loop, first + step, np.zeros(N), robot).subgoal.dtype == np.float32


def test_where_a_run_stands_is_what_its_latest_step_told() -> None:
    def standing() -> tuple[int, int, bool, int]:
        found = loop.standing("a")
        return found.step, found.age, found.pinned, found.vetoes

    loop, goal = RelayLoop(Blend(), SPEC), SPEC.resolve(["door"], np.zeros(N))
    loop.start("a", goal)
    assert loop.standing("a") == Standing(0, 0, None, False, 0, goal)
    for step in range(6):
        decision = one_step(loop, step, np.full(N, 0.01 * step))
        assert standing() == (step + 1, decision.age[0], False, 0)
        np.testing.assert_array_equal(loop.standing("a").subgoal, decision.subgoal[0])
    loop.veto("a")
    loop.veto("a")
    assert standing() == (6, 0, False, 2)
    loop.pin("a", np.full(N, 0.2))
    assert standing() == (6, 0, True, 2)
    np.testing.assert_array_equal(loop.standing("a").subgoal, np.full(N, 0.2, np.float32))
    assert loop.finish("a") == 6
    loop.start("a", goal, resume=Resume(7, np.zeros(N), 3))
    assert standing() == (7, 2, False, 0)


@given(cases(), st.integers(0, 19), st.integers(1, 20))
def test_a_pinned_subgoal_is_followed_until_it_is_released(case: Case, pinned_at: int, steps: int) -> None:
    loop, pin = RelayLoop(Blend(), case.spec), np.full(N, 0.3, np.float32)
    loop.start("a", case.goals[0], case.seed, case.lead)
    released_at = pinned_at + steps
    for step, state in enumerate(case.states):
        if step == pinned_at:
            loop.pin("a", pin)
        if step == released_at:
            loop.release("a")
        decision = one_step(loop, step, state)
        began = released_at if step >= released_at else 0
        if pinned_at <= step < released_at:
            np.testing.assert_array_equal(decision.subgoal[0], pin)
            assert decision.overrides == {0: SubgoalOverride.PINNED}
            assert decision.age[0] == (step - pinned_at) % case.spec.horizon
        else:
            # A run that plans anew at the release: as if its goal had been set there.
            alone = case._replace(goals={0: case.goals[0], began: case.goals[0]})
            action, subgoal, age = brute_force(alone, "a", step)
            np.testing.assert_array_equal(decision.subgoal[0], subgoal)
            np.testing.assert_array_equal(decision.action[0], action)
            assert decision.age[0] == age
            assert decision.overrides == ({0: SubgoalOverride.RELEASED} if step == released_at else {})


@given(cases(), st.integers(0, 19))
def test_a_veto_has_the_next_step_follow_another_plan(case: Case, at: int) -> None:
    at = min(at, len(case.states) - 1)
    loop, beside = RelayLoop(Blend(), case.spec), RelayLoop(Blend(), case.spec)
    for one in (loop, beside):
        one.start("a", case.goals[0], case.seed, case.lead)
    for step, state in enumerate(case.states[: at + 1]):
        if step == at:
            loop.veto("a")
            beside.set_goal("a", case.goals[0])  # plans in the same state, without a veto
        decision, planned = one_step(loop, step, state), one_step(beside, step, state)
    assert decision.overrides == {0: SubgoalOverride.VETOED}
    assert decision.age[0] == 0
    drawn = noise(case.seed or 0, robot_key("a"), "veto", at, 3)
    sampled = Blend().plan(case.states[at][None], *(part[None] for part in case.goals[0]), drawn[None])
    np.testing.assert_array_equal(decision.subgoal[0], sampled[0])
    assert (decision.subgoal[0] != planned.subgoal[0]).any()
    assert loop.standing("a").vetoes == 1
    for step, state in enumerate(case.states[at + 1 :], at + 1):
        assert one_step(loop, step, state).overrides == {}


@st.composite
def operators(draw: st.DrawFn) -> dict[int, str]:
    """An operator's action before some steps: pins and releases in turn, vetoes in between."""
    found, pinned = {}, False
    for step in sorted(draw(st.sets(st.integers(0, 19), max_size=6))):
        verb = draw(st.sampled_from(["release"] if pinned else ["pin", "veto"]))
        pinned = verb == "pin"
        found[step] = verb
    return found


@given(cases(), operators(), st.integers(1, 19))
def test_a_resumed_run_goes_on_under_its_operator_as_the_unbroken_one(
    case: Case, operator: dict[int, str], cut: int
) -> None:
    """The decisions hold everything about pins that a resume needs; what the client tells is told as such."""
    pin = np.full(N, 0.3, np.float32)
    unbroken, resumed = RelayLoop(Blend(), case.spec), RelayLoop(Blend(), case.spec)
    for loop in (unbroken, resumed):
        loop.start("a", case.goals[0], case.seed, case.lead)
    resume, upcoming, claimed = None, None, False
    for step, state in enumerate(case.states):
        if step == cut and resume is not None:
            resumed.finish("a")
            resumed.start("a", case.goals[0], case.seed, case.lead, resume)
            claimed = resume.override is SubgoalOverride.PINNED
        for loop in (unbroken, resumed):
            match operator.get(step):
                case "pin":
                    loop.pin("a", pin)
                case "release":
                    loop.release("a")
                case "veto":
                    loop.veto("a")
        decision, again = one_step(unbroken, step, state), one_step(resumed, step, state)
        for one, other in zip(decision[:3], again[:3], strict=True):
            np.testing.assert_array_equal(one, other)
        claimed = claimed and step not in operator
        assert again.overrides == ({0: SubgoalOverride.CLAIMED} if claimed else decision.overrides)
        assert resumed.standing("a").claimed == claimed
        upcoming = decision.upcoming.get(0, None if decision.replanned[0] else upcoming)
        kept = decision.overrides.get(0, SubgoalOverride.NONE)
        kept = kept if kept is SubgoalOverride.PINNED else SubgoalOverride.NONE
        resume = Resume(step + 1, decision.subgoal[0], int(decision.age[0]) + 1, upcoming, kept)


def test_an_operator_is_told_what_cannot_be_done() -> None:
    loop = RelayLoop(Blend(), SPEC)
    with pytest.raises(ProtocolViolation, match="has no run"):
        loop.veto("a")
    loop.start("a", ResolvedGoal(np.zeros(N, np.float32), np.ones(N, np.float32)))
    with pytest.raises(ProtocolViolation, match="only a pinned one can be released"):
        loop.release("a")
    with pytest.raises(InvalidInput, match="x = 99"):
        loop.pin("a", np.full(N, 99, np.float32))
    loop.pin("a", np.zeros(N, np.float32))
    with pytest.raises(ProtocolViolation, match="release it instead"):
        loop.veto("a")
    assert loop.standing("a").pinned


def test_a_run_is_started_once_and_finished_once() -> None:
    loop = RelayLoop(Blend(), SPEC)
    goal = SPEC.resolve(["door"], np.zeros(N))
    loop.start("a", goal)
    with pytest.raises(ProtocolViolation, match="has a run already"):
        loop.start("a", goal)
    assert loop.finish("a") == 0
    for call in (lambda: loop.finish("a"), lambda: loop.set_goal("a", goal)):
        with pytest.raises(ProtocolViolation, match="send a Start first"):
            call()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"plan_lead": 4}, "must be 0 to 3"),
        ({"plan_lead": -1}, "must be 0 to 3"),
        ({"seed": -1}, "must be 0 to"),
        ({"seed": 2**64}, "must be 0 to"),
        ({"resume": Resume(5, np.zeros(N), 0)}, "must be 1 to 5"),
        ({"resume": Resume(5, np.zeros(N), 6)}, "must be 1 to 5"),
        ({"resume": Resume(2, np.zeros(N), 3)}, "must be 1 to 2"),
        ({"resume": Resume(5, np.zeros(3), 1)}, "shape"),
        ({"resume": Resume(5, np.full(N, np.nan), 1)}, "finite"),
        ({"resume": Resume(5, np.zeros(N), 3), "plan_lead": 2}, "needs the upcoming subgoal"),
        ({"resume": Resume(5, np.zeros(N), 3, np.zeros(N))}, "needs a plan_lead"),
        ({"resume": Resume(5, np.zeros(N), 3, np.full(N, np.inf)), "plan_lead": 2}, "finite"),
    ],
)
def test_an_impossible_start_says_what_is_allowed(options: dict, sentence: str) -> None:
    loop = RelayLoop(Blend(), SPEC)
    with pytest.raises(InvalidInput, match=sentence):
        loop.start("a", SPEC.resolve(["door"], np.zeros(N)), **options)
    assert not loop.robots


def test_a_subgoal_that_nobody_planned_may_be_older_than_the_run() -> None:
    loop = RelayLoop(Blend(), SPEC)
    loop.start("a", SPEC.resolve(["door"], np.zeros(N)), resume=Resume(1, np.zeros(N), 3, None, SubgoalOverride.PINNED))
    assert loop.standing("a").pinned


@pytest.mark.parametrize("override", [override for override in SubgoalOverride if override])
def test_a_client_cannot_pass_its_subgoal_off_as_an_operators(override: SubgoalOverride) -> None:
    loop, goal = RelayLoop(Blend(), SPEC), SPEC.resolve(["door"], np.zeros(N))
    loop.start("a", goal, resume=Resume(1, np.zeros(N), 1, None, override))
    told = {one_step(loop, step, np.zeros(N)).overrides.get(0, SubgoalOverride.NONE) for step in range(1, 8)}
    assert told == {SubgoalOverride.CLAIMED if override.lasts else SubgoalOverride.NONE}
    assert loop.standing("a").claimed == override.lasts
    loop.pin("a", np.zeros(N))
    assert one_step(loop, 8, np.zeros(N)).overrides == {0: SubgoalOverride.PINNED}
    assert not loop.standing("a").claimed


def test_a_pin_that_a_client_claims_is_one_that_an_operator_could_have_made() -> None:
    loop, outside = RelayLoop(Blend(), SPEC), np.full(N, 20.0)
    with pytest.raises(InvalidInput, match="the subgoal has x = 20"):
        loop.start("a", SPEC.resolve(["door"], np.zeros(N)), resume=Resume(1, outside, 1, None, SubgoalOverride.PINNED))


def test_a_batch_of_unequal_columns_is_refused() -> None:
    loop = RelayLoop(Blend(), SPEC)
    loop.start("a", SPEC.resolve(["door"], np.zeros(N)))
    for call in (loop.faults, loop.step):
        with pytest.raises(ValueError, match="longer than"):
            call(["a"], [0, 1], np.zeros((1, N)))


def test_noise_depends_on_every_part_of_its_key() -> None:
    base = (7, 2**63 + 5, "high", 3, 4)
    # The second differs in the last bit of a 64-bit key, which a float would lose.
    others = [
        (8, *base[1:]),
        (7, 2**63 + 4, *base[2:]),
        (7, 2**63 + 5, "low", 3, 4),
        (7, 2**63 + 5, "high", 4, 4),
    ]
    drawn = [tuple(noise(*key)) for key in (base, *others)]
    assert len(set(drawn)) == 5
    assert tuple(noise(*base)) == drawn[0]


def test_noise_is_standard_normal() -> None:
    drawn = np.concatenate([noise(1, robot_key("a"), "low", step, 8) for step in range(2000)])
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - 1) < 0.05
