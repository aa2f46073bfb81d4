"""What the pool promises of the tuples it draws."""

import numpy as np
import pytest

from demonstrations import STEPS, drawer_demonstration, drawer_demonstrations, drawer_spec
from rpl_runtime.errors import DemonstrationError
from rpl_train.demos.trajectory import Trajectory
from rpl_train.pool import Pool, PoolConfig

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
