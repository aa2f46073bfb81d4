"""What the pool promises of the tuples it draws."""

from dataclasses import replace

import numpy as np
import pytest

from demonstrations import NAMES, STEPS, drawer_demonstration, drawer_demonstrations, drawer_spec
from rpl_runtime.policy.spec import ElementSpec, VectorSpec
from rpl_train.augment import HighBatch, Pool, PoolConfig
from rpl_train.data.trajectory import Trajectory

PLAIN = PoolConfig(
    low_window=4,
    high_window=STEPS,
    hold=0,
    low_noise=0,
    high_noise=0,
    object_noise=0,
    subgoal_noise=0,
    named_goals=0,
    counterfactual=0,
)


def pool(config: PoolConfig) -> Pool:
    return Pool(drawer_demonstrations().trajectories, drawer_spec(), config)


def rows(array: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in array}


def test_without_augmentation_tuples_are_as_relabelled():
    plain = pool(PLAIN)
    low, high = plain.low_batch(np.random.default_rng(0), 500), plain.high_batch(np.random.default_rng(0), 500)
    reached = rows(plain.timeline.states)
    for states in (low.state, low.subgoal, high.state, high.goal, high.subgoal):
        assert rows(states) <= reached
    assert (high.mask == [0, 1, 1]).all()  # a whole state counts over the goal dimensions


def test_a_batch_depends_on_its_generator_alone():
    one, other = pool(PoolConfig()), pool(PoolConfig())
    one.low_batch(np.random.default_rng(5), 7)
    for draw in ("low_batch", "high_batch"):
        a = getattr(one, draw)(np.random.default_rng(3), 64)
        b = getattr(other, draw)(np.random.default_rng(3), 64)
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_noise_moves_the_state_and_leaves_the_target():
    quiet = pool(PLAIN)
    noisy = pool(replace(PLAIN, low_noise=0.5, object_noise=0.1))
    a, b = (p.low_batch(np.random.default_rng(1), 400) for p in (quiet, noisy))
    assert np.array_equal(a.target, b.target)
    assert np.array_equal(a.subgoal, b.subgoal)
    moved = np.abs(a.state - b.state).mean(0)
    assert (moved > 0).all()
    assert moved[0] > 2 * moved[1:].max()  # the commanded dimension moves more


@pytest.mark.parametrize(
    ("setting", "draw", "column", "dims"),
    [
        ("low_noise", "low_batch", "state", [0]),
        ("high_noise", "high_batch", "state", [0]),
        ("object_noise", "low_batch", "state", [1, 2]),
        ("object_noise", "high_batch", "state", [1, 2]),
        ("subgoal_noise", "low_batch", "subgoal", [0, 1, 2]),
    ],
)
def test_noise_is_in_units_of_the_spread_of_each_dimension(setting, draw, column, dims):
    """Its amplitude is drawn evenly from 0 to the setting, which divides its standard deviation by the root of 3."""
    quiet, noisy = pool(PLAIN), pool(replace(PLAIN, **{setting: 0.5}))
    with_noise, without = (
        getattr(getattr(one, draw)(np.random.default_rng(1), 8000), column) for one in (noisy, quiet)
    )
    expected = np.zeros(3)
    expected[dims] = 0.5 / np.sqrt(3) * quiet.timeline.states.std(0)[dims]
    assert (with_noise - without).std(0) == pytest.approx(expected, rel=0.05, abs=1e-6)


def test_named_goals_ask_for_elements_at_their_goal_values():
    named = pool(replace(PLAIN, named_goals=1.0))
    batch = named.high_batch(np.random.default_rng(2), 300)
    assert (batch.mask[:, 0] == 0).all()
    assert set(np.unique(batch.mask)) == {0, 1}
    assert (batch.goal[batch.mask == 1] == 1.0).all()
    assert len(rows(batch.mask)) == 3  # either drawer, or both


def test_counterfactual_objects_touch_only_what_rests():
    plain, swapped = pool(PLAIN), pool(replace(PLAIN, counterfactual=1.0))
    a, b = (p.low_batch(np.random.default_rng(3), 2000) for p in (plain, swapped))
    assert np.array_equal(a.state[:, 0], b.state[:, 0])  # never the robot
    moving = np.abs(a.state - a.subgoal)[:, 1:] > 0.15
    assert np.array_equal(a.state[:, 1:][moving], b.state[:, 1:][moving])
    assert np.abs(a.state - b.state)[:, 1:].max() > 0.9  # an untouched drawer became an open one
    # What rests stays where it is: the subgoal moves with the state.
    changed = np.abs(a.state - b.state)[:, 1:] > 0.5
    assert np.abs(b.state - b.subgoal)[:, 1:][changed].max() < 0.05


@pytest.mark.parametrize("draw", ["low_batch", "high_batch"])
def test_each_resting_element_is_swapped_or_not_by_itself(draw):
    plain, half, whole = (
        getattr(pool(replace(PLAIN, counterfactual=share)), draw)(np.random.default_rng(3), 4000).state[:, 1]
        for share in (0.0, 0.5, 1.0)
    )
    assert 0.35 < np.mean(half != plain) / np.mean(whole != plain) < 0.65


def test_a_swapped_element_rests_where_it_does_in_any_demonstration():
    swapped = pool(replace(PLAIN, counterfactual=1.0))
    laid, drawn = swapped.timeline, swapped.low_batch(np.random.default_rng(3), 4000).state[:, 1]
    for steps in (laid.first, laid.last[laid.done[:, 0]]):  # untouched or done
        assert all(np.mean(drawn == value) > 0.01 for value in laid.states[steps, 1])


def test_what_waits_never_comes_before_what_the_behaviour_serves():
    rng = np.random.default_rng(0)
    in_order = [drawer_demonstration(rng, (0, 1)) for _ in range(4)]
    learned = Pool(in_order, drawer_spec(), replace(PLAIN, named_goals=1.0, counterfactual=1.0))
    batch = learned.high_batch(rng, 4000)
    opens_second = (batch.subgoal - batch.state)[:, 2] > 0.3
    first_is_left = (batch.mask[:, 1] == 1) & (batch.state[:, 1] < 0.5)
    assert opens_second.any()
    assert not (opens_second & first_is_left).any()


def test_half_of_the_goals_of_a_flat_policy_are_ends():
    named = pool(replace(PLAIN, relabelling="goal", named_goals=0.5))
    ends = rows(named.timeline.states[STEPS - 1 :: STEPS])
    drawn = [row.tobytes() in ends for row in named.low_batch(np.random.default_rng(0), 2000).subgoal]
    assert 0.5 < np.mean(drawn) < 0.6  # and a few of those drawn within the window


@pytest.mark.parametrize("relabelling", ["relay", "segments", "goal", "end"])
def test_every_number_of_a_batch_is_finite(relabelling):
    relabelled = pool(PoolConfig(relabelling=relabelling, low_window=4, high_window=STEPS))
    batches = relabelled.low_batch(np.random.default_rng(0), 50), relabelled.high_batch(np.random.default_rng(0), 50)
    assert all(np.isfinite(column).all() for batch in batches for column in batch)


def test_without_elements_every_goal_is_a_whole_state_and_the_end_is_one():
    spec = drawer_spec().model_copy(update={"elements": {}, "library": {}})
    made = Pool(drawer_demonstrations(4).trajectories, spec, replace(PLAIN, named_goals=1.0))
    batch = made.high_batch(np.random.default_rng(0), 200)
    assert (batch.mask == [0, 1, 1]).all()  # the spec's goal dimensions
    ends = made.timeline.states[made.timeline.last]
    assert all((goal == ends).all(1).any() for goal in batch.goal)
    assert made.low_batch(np.random.default_rng(0), 10).state.shape == (10, 3)


def marked(*opens: tuple[int, ...], rest: int = 10, drawers: int = 2) -> list[Trajectory]:
    """Demonstrations that rest for so many steps and then open drawers; the hand says which, and the step."""
    made = []
    for place, order in enumerate(opens):
        states = np.zeros((STEPS, 1 + drawers), np.float32)
        states[:, 0] = 100 * place + np.arange(STEPS)
        for slot, drawer in enumerate(order):
            states[:, 1 + drawer] = np.clip((np.arange(STEPS) - rest - 6 * slot) / 4, 0, 1)
        made.append(Trajectory(states, states[:, :1], source="marked"))
    return made


def swapped(*opens: tuple[int, ...]) -> tuple[HighBatch, np.ndarray, np.ndarray, np.ndarray]:
    """Many tuples with every object swapped that may be, and each one's demonstration, step and goal step."""
    config = replace(PLAIN, high_window=STEPS, counterfactual=1.0)
    batch = Pool(marked(*opens), drawer_spec(), config).high_batch(np.random.default_rng(0), 4000)
    which, step = np.divmod(batch.state[:, 0].astype(int), 100)
    return batch, which, step, batch.goal[:, 0].astype(int) % 100


def test_the_element_that_moves_next_stays_as_it_was_recorded():
    """It is what the behaviour prepares, although it rests."""
    batch, which, step, _ = swapped((0,), (1,))
    before = step < 6  # neither drawer moves within the window
    assert (batch.state[before & (which == 0), 1] == 0).all()
    assert (batch.state[before & (which == 1), 2] == 0).all()
    # The other one is swapped: it waits to be opened, or stays untouched, or is open already.
    free = before & (which == 0)
    assert set(zip(batch.state[free, 2], batch.goal[free, 2], strict=True)) == {(0, 1), (0, 0), (1, 1)}


def test_an_element_waits_only_while_the_behaviour_does_what_the_goal_asks_for():
    batch, which, step, goal_step = swapped((0,), (1,))
    waits = (batch.state[:, 1] == 0) & (batch.goal[:, 1] == 1)
    second = which == 1  # opens the second drawer from step 10 on; nothing moves the first
    assert not waits[second & (goal_step <= 10)].any()
    # Half of those that may wait do; half of the others rest where the demonstration that opens the drawer leaves it.
    asked = second & (goal_step > 11) & (step < 13)
    opened = (batch.state[:, 1] == 1) & (batch.goal[:, 1] == 1)
    assert (waits[asked].mean(), opened[asked].mean()) == pytest.approx((0.5, 0.25), abs=0.05)


def test_what_is_too_early_for_one_behaviour_may_wait_for_another():
    """The first drawer is opened before the second, so that it may wait while the third is opened, not the second."""
    spec = drawer_spec()
    state = VectorSpec(names=(*NAMES, "third_drawer"), units=("m",) * 4, low=(-1.0,) * 4, high=(3.0,) * 4)
    third = {"third drawer": ElementSpec(dims=(3,), goal=(1.0,), tolerance=0.2)}
    spec = spec.model_copy(update={"state": state, "elements": spec.elements | third, "goal_dims": (1, 2, 3)})
    made = marked((0, 1), (1,), (2,), drawers=3)
    config = replace(PLAIN, high_window=STEPS, counterfactual=1.0)
    batch = Pool(made, spec, config).high_batch(np.random.default_rng(0), 4000)
    which, step = np.divmod(batch.state[:, 0].astype(int), 100)
    waits = (batch.state[:, 1] == 0) & (batch.goal[:, 1] == 1) & (step < 13)
    assert not waits[which == 1].any()
    assert waits[which == 2].any()


def closing() -> Trajectory:
    """The first drawer is open and is closed again."""
    opened = drawer_demonstration(np.random.default_rng(0), opens=(0,))
    states, targets = opened.states[::-1].copy(), opened.targets[::-1].copy()
    return Trajectory(states, targets, ("first drawer",), "closing", goal=states[-1])


@pytest.mark.parametrize("beside", [0, 1], ids=["closed", "open"])
def test_a_goal_that_leads_back_is_given_as_a_whole_state_whatever_is_done_beside_it(beside):
    states = closing().states + np.array([0, 0, beside], np.float32)  # the second drawer
    back = replace(closing(), states=states, goal=states[-1])
    there = Pool([back], drawer_spec(), replace(PLAIN, named_goals=1.0)).high_batch(np.random.default_rng(0), 50)
    assert (there.mask == [0, 1, 1]).all()
    assert (there.goal == back.goal).all()


def test_what_reaches_nothing_that_has_a_name_is_given_as_a_whole_state():
    """Named goals without a name would say that nothing is to be done where the robot moves."""
    opened = drawer_demonstration(np.random.default_rng(0), opens=(0,))
    half = Trajectory(opened.states[:7], opened.targets[:7], cut=True)
    there = Pool([half], drawer_spec(), replace(PLAIN, named_goals=1.0)).high_batch(np.random.default_rng(0), 50)
    assert (there.mask == [0, 1, 1]).all()
    assert (there.goal == half.states[-1]).all()


def test_other_elements_may_wait_until_after_a_cut():
    """Where it ends, the demonstration has not yet moved the element that it goes to, nor any other."""
    still = np.zeros((12, 3), np.float32)
    cut = Trajectory(still, still[:, :1], ("first drawer",), "cut", goal=np.array([0, 1, 0], np.float32), cut=True)
    other = drawer_demonstration(np.random.default_rng(0), opens=(1,))
    config = replace(PLAIN, named_goals=1.0, counterfactual=1.0)
    batch = Pool([cut, other], drawer_spec(), config).high_batch(np.random.default_rng(0), 400, slice(0, 1))
    waits = (batch.state[:, 2] < 0.5) & (batch.goal[:, 2] == 1) & (batch.mask[:, 2] == 1)
    assert 0.4 < waits.mean() < 0.6


def test_what_is_done_before_is_named_half_of_the_time():
    opened = drawer_demonstration(np.random.default_rng(0), opens=(0,))
    states = opened.states + np.array([0, 0, 1], np.float32)  # the second drawer is open all the time
    both = Trajectory(states, opened.targets, ("first drawer",), "both", goal=states[-1])
    there = Pool([both], drawer_spec(), replace(PLAIN, named_goals=1.0)).high_batch(np.random.default_rng(0), 400)
    assert (there.mask[:, 1] == 1).all()
    assert 0.4 < there.mask[:, 2].mean() < 0.6


def dragging() -> Trajectory:
    """The second drawer is opened; on the way there the first one, which was open, is dragged along."""
    states = np.zeros((STEPS, 3), np.float32)
    states[:, 0] = np.arange(STEPS)
    states[:, 1] = np.where(np.arange(STEPS) < 6, 1.0, 0.7)
    states[:, 2] = np.arange(STEPS) >= 12
    return Trajectory(states, states[:, :1], ("second drawer",), "dragged", goal=np.array([0, 1, 1], np.float32))


def test_what_is_dragged_along_is_not_asked_for_and_what_is_left_for_is_still_to_be_done():
    """Otherwise to leave, or to rest beside what is not done, would be shown where everything that is named is done."""
    demonstrations = [dragging(), *marked((0,), (1,))]

    def drawn(config: PoolConfig) -> HighBatch:
        return Pool(demonstrations, drawer_spec(), config).high_batch(np.random.default_rng(0), 500, slice(0, 1))

    assert not drawn(replace(PLAIN, named_goals=1.0)).mask[:, 1].any()
    swapped = drawn(replace(PLAIN, named_goals=1.0, counterfactual=1.0))
    before = swapped.state[:, 0] < 12
    assert (swapped.state[before, 2] == 0).all()
    assert (swapped.goal[before, 2] == 1).all()
    whole = drawn(replace(PLAIN, high_window=9, end_goals=1e-9))
    assert (whole.goal[:, 2] == 1).all()  # none in which only the first drawer has another place
    asked = whole.goal[:, 0] == 0  # as in the goal of the demonstration; on the way the hand is elsewhere
    assert whole.goal[asked, 1] == pytest.approx(0.7)


def test_with_end_goals_no_goal_comes_before_anything_moves():
    demonstration = drawer_demonstration(np.random.default_rng(0))
    plain = Pool([demonstration], drawer_spec(), replace(PLAIN, high_window=3))
    ends = Pool([demonstration], drawer_spec(), replace(PLAIN, high_window=3, end_goals=1e-9))
    aimless = [
        (abs(batch.goal - batch.state)[:, 1:].max(1)[batch.state[:, 2] < 0.5] < 0.01).mean()  # while work is left
        for batch in (each.high_batch(np.random.default_rng(0), 500) for each in (plain, ends))
    ]
    assert aimless[0] > 0.05
    assert aimless[1] == 0


def test_advice_teaches_the_low_level_alone_step_for_step():
    demonstration = drawer_demonstration(np.random.default_rng(0))
    there = np.full((3 * len(demonstration), 3), 2.5, np.float32)  # where no demonstration was
    advice = Trajectory(there, there[:, :1], source="advice", cut=True, subgoals=there)
    both = Pool([demonstration, advice], drawer_spec(), replace(PLAIN, low_noise=0.5))
    low, high = both.low_batch(np.random.default_rng(0), 1000), both.high_batch(np.random.default_rng(0), 1000)
    advised = low.state[:, 0] == 2.5
    assert 0.7 < advised.mean() < 0.8
    assert (low.subgoal[advised] == 2.5).all()
    assert (low.target[advised] == 2.5).all()
    assert high.state.max() < 2.5
