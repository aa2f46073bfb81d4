"""What the pool promises of the tuples it draws."""

from dataclasses import replace

import numpy as np
import pytest

from demonstrations import STEPS, drawer_demonstration, drawer_demonstrations, drawer_spec
from rpl_runtime.errors import DemonstrationError
from rpl_train.augment import Pool, PoolConfig
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
    reached = rows(plain.states)
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
    noisy = pool(PoolConfig(**{**PLAIN.__dict__, "low_noise": 0.5, "object_noise": 0.1}))
    a, b = (p.low_batch(np.random.default_rng(1), 400) for p in (quiet, noisy))
    assert np.array_equal(a.target, b.target)
    assert np.array_equal(a.subgoal, b.subgoal)
    moved = np.abs(a.state - b.state).mean(0)
    assert (moved > 0).all()
    assert moved[0] > 2 * moved[1:].max()  # the commanded dimension moves more


def test_named_goals_ask_for_elements_at_their_goal_values():
    named = pool(PoolConfig(**{**PLAIN.__dict__, "named_goals": 1.0}))
    batch = named.high_batch(np.random.default_rng(2), 300)
    assert (batch.mask[:, 0] == 0).all()
    assert (batch.goal[batch.mask == 1] == 1.0).all()
    assert len(rows(batch.mask)) == 3  # either drawer, or both


def test_counterfactual_objects_touch_only_what_rests():
    plain, swapped = pool(PLAIN), pool(PoolConfig(**{**PLAIN.__dict__, "counterfactual": 1.0}))
    a, b = (p.low_batch(np.random.default_rng(3), 2000) for p in (plain, swapped))
    assert np.array_equal(a.state[:, 0], b.state[:, 0])  # never the robot
    moving = np.abs(a.state - a.subgoal)[:, 1:] > 0.15
    assert np.array_equal(a.state[:, 1:][moving], b.state[:, 1:][moving])
    assert np.abs(a.state - b.state)[:, 1:].max() > 0.9  # an untouched drawer became an open one
    # What rests stays where it is: the subgoal moves with the state.
    changed = np.abs(a.state - b.state)[:, 1:] > 0.5
    assert np.abs(b.state - b.subgoal)[:, 1:][changed].max() < 0.05


def test_what_waits_never_comes_before_what_the_behaviour_serves():
    rng = np.random.default_rng(0)
    in_order = [drawer_demonstration(rng, (0, 1)) for _ in range(4)]
    learned = Pool(in_order, drawer_spec(), PoolConfig(**{**PLAIN.__dict__, "named_goals": 1.0, "counterfactual": 1.0}))
    batch = learned.high_batch(rng, 4000)
    opens_second = (batch.subgoal - batch.state)[:, 2] > 0.3
    first_is_left = (batch.mask[:, 1] == 1) & (batch.state[:, 1] < 0.5)
    assert opens_second.any()
    assert not (opens_second & first_is_left).any()


def offsets(relabelled: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Of each low tuple, how far its goal lies ahead, and how far the end of its demonstration does."""
    step, goal = relabelled.low_tuples
    return goal - step, STEPS - 1 - step % STEPS


def test_a_relay_sees_what_is_reached_within_the_window():
    ahead, _ = offsets(pool(PLAIN))
    assert (ahead.min(), ahead.max()) == (1, 4)


def test_goals_reach_to_the_end_of_the_high_window():
    ahead, left = offsets(pool(replace(PLAIN, relabelling="goal", high_window=10)))
    assert (ahead.min(), ahead.max()) == (1, 10)
    assert (ahead <= left).all()


def test_half_of_the_goals_of_a_flat_policy_are_ends():
    named = pool(replace(PLAIN, relabelling="goal", named_goals=0.5))
    ends = rows(named.states[STEPS - 1 :: STEPS])
    drawn = [row.tobytes() in ends for row in named.low_batch(np.random.default_rng(0), 2000).subgoal]
    assert 0.5 < np.mean(drawn) < 0.6  # and a few of those drawn within the window


def test_without_relabelling_every_goal_is_the_end():
    ahead, left = offsets(pool(replace(PLAIN, relabelling="end")))
    assert (ahead == left).all()
    assert len(ahead) == len(pool(PLAIN).states)


def test_segments_end_where_the_next_drawer_comes_to_rest():
    """In a demonstration that opens both, the first rests a little before step 10, the second before step 20."""
    both = [drawer_demonstration(np.random.default_rng(0))]
    segments = Pool(both, drawer_spec(), replace(PLAIN, relabelling="segments"))
    step, goal = segments.low_tuples
    ends = np.unique(goal)
    assert len(ends) == 3  # after the second drawer, the end of the demonstration
    assert ends == pytest.approx([9.5, 19.5, STEPS - 1], abs=1)
    assert step.tolist() == list(range(STEPS))
    assert (goal[:-1] > step[:-1]).all()
    assert (np.diff(goal) >= 0).all()
    high = segments.high_tuples
    assert (high.subgoal <= high.goal).all()
    assert np.isin(high.subgoal[high.subgoal < high.goal], ends).all()


def test_segments_are_those_of_what_a_demonstration_does():
    one = [drawer_demonstration(np.random.default_rng(0), opens=(1,))]
    goal = Pool(one, drawer_spec(), replace(PLAIN, relabelling="segments")).low_tuples.goal
    assert np.unique(goal) == pytest.approx([9.5, STEPS - 1], abs=1)


@pytest.mark.parametrize("relabelling", ["relay", "segments", "goal", "end"])
def test_no_kind_of_goal_lies_in_another_demonstration(relabelling):
    relabelled = pool(PoolConfig(relabelling=relabelling, low_window=4, high_window=STEPS, hold=0))
    for tuples in (relabelled.low_tuples, relabelled.high_tuples):
        episodes = [column // STEPS for column in tuples]
        assert all((episode == episodes[0]).all() for episode in episodes)
    batches = relabelled.low_batch(np.random.default_rng(0), 50), relabelled.high_batch(np.random.default_rng(0), 50)
    assert all(np.isfinite(column).all() for batch in batches for column in batch)


@pytest.mark.parametrize(
    ("demonstrations", "sentence"),
    [
        ([], "no demonstrations"),
        ([Trajectory(np.zeros((5, 4), np.float32), np.zeros((5, 1), np.float32), source="foreign")], "foreign has"),
    ],
)
def test_foreign_demonstrations_are_refused(demonstrations, sentence):
    with pytest.raises(DemonstrationError, match=sentence):
        Pool(demonstrations, drawer_spec(), PoolConfig())
