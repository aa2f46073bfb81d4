"""Episodes in the kitchen: what each depends on, and what not."""

from dataclasses import replace

import numpy as np
import pytest

import drawers
from rpl_runtime.errors import RelayError
from rpl_runtime.policy.spec import VectorSpec
from rpl_runtime.tasks.kitchen.elements import kitchen_spec
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_train.rl.rollout import Episode, Start, open_worlds, rollout
from rpl_train.tasks.kitchen.fast import FastKitchen
from rpl_train.tasks.kitchen.task import KITCHEN

SPEC = kitchen_spec("wave", horizon=5)
STARTS = [
    Start(("microwave",), seed=1),
    Start(("kettle", "light switch"), seed=2, sampling=7),
    Start(("kettle", "light switch"), seed=2, sampling=8),
    Start(("bottom burner",), seed=3, sampling=7),
    Start(("microwave",), seed=4),
]
STEPS = 12


class Wave:
    """A policy that computes each number of each row by itself, so batches of any size agree to the last bit."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def plan(self, state, goal, mask, noise):
        return (state + 0.1 * mask * (goal - state) + 0.05 * noise).astype(np.float32)

    def act(self, state, subgoal, noise):
        self.rows.append(len(state))
        return (state[:, :9] + 0.05 * np.sin(7 * subgoal[:, 9:18] + subgoal[:, :9]) + 0.02 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def kitchens():
    with open_worlds(KITCHEN, 4) as made:
        yield made


def play(starts, kitchens, **options) -> list[Episode]:
    return rollout(Wave(), SPEC, KITCHEN, starts, kitchens, steps=STEPS, **options)


def same(one: Episode, other: Episode) -> bool:
    arrays = ("states", "subgoals", "targets", "final_state")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    return equal and one.start == other.start and one.done == other.done


def test_an_episode_does_not_depend_on_what_plays_beside_it(kitchens):
    together = play(STARTS, kitchens)
    backwards = play(STARTS[::-1], kitchens[:3])[::-1]
    alone = [play([start], kitchens[:1])[0] for start in STARTS]
    assert all(map(same, together, backwards))
    assert all(map(same, together, alone))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_change_nothing(kitchens, threads):
    assert all(map(same, play(STARTS, kitchens, threads=threads), play(STARTS, kitchens)))


def test_fast_kitchens_change_nothing(kitchens):
    with open_worlds(replace(KITCHEN, open_fast=None), 2) as slow:
        assert type(slow[0]) is Kitchen
        assert all(map(same, play(STARTS[:2], slow), play(STARTS[:2], kitchens)))


def test_the_policy_is_called_once_a_step_for_all_that_play(kitchens):
    wave = Wave()
    rollout(wave, SPEC, KITCHEN, STARTS, kitchens, steps=STEPS)
    assert wave.rows == [4] * STEPS + [1] * STEPS


def test_an_episode_holds_what_happened(kitchens):
    first, second, third, *_ = play(STARTS, kitchens)
    assert first.start == STARTS[0]
    assert first.states.shape == (STEPS, 30)
    assert first.subgoals.shape == (STEPS, 30)
    assert first.targets.shape == (STEPS, 9)
    assert len(first.done) == STEPS
    assert np.array_equal(first.subgoals[0], first.subgoals[4])
    assert not np.array_equal(first.subgoals[4], first.subgoals[5])
    assert first.goal.mask[22] == 1
    assert np.array_equal(second.states[0], third.states[0])  # the same start
    assert not np.array_equal(second.targets[0], third.targets[0])  # sampled otherwise
    kitchen = kitchens[0]
    KITCHEN.reset(kitchen, STARTS[4].seed, "perturbed")
    last = play(STARTS[4:], [kitchen])[0]
    assert np.array_equal(last.final_state, kitchen.state)
    assert last.done[-1] == kitchen.done()


def test_an_episode_begins_at_the_tasks_last_start_and_has_its_length_unless_others_are_asked_for(kitchens):
    task, kitchen, [begun] = replace(KITCHEN, episode_steps=3), kitchens[0], STARTS[:1]
    for options, start in (({}, list(task.starts)[-1]), ({"start": "nominal"}, "nominal")):
        [episode] = rollout(Wave(), SPEC, task, [begun], [kitchen], **options)
        assert episode.states.shape == (3, 30)
        assert np.array_equal(episode.states[0], task.reset(kitchen, begun.seed, start))
    assert list(task.starts)[-1] == "perturbed"


def test_each_is_asked_for_its_goal_from_where_it_is_and_takes_modes_unless_it_samples(kitchens):
    episodes = play(STARTS, kitchens)
    for episode in episodes:
        goal = SPEC.resolve(episode.start.elements, episode.states[0])
        assert np.array_equal(episode.goal.state, goal.state)
        assert np.array_equal(episode.goal.mask, goal.mask)
        modes = Wave().act(episode.states, episode.subgoals, np.zeros((STEPS, 9), np.float32))
        assert np.array_equal(modes, episode.targets) == (episode.start.sampling is None)


class Pull:
    """A hand that goes past both drawers, from wherever it is."""

    def plan(self, state, goal, mask, noise):
        return state

    def act(self, state, subgoal, noise):
        return np.full((len(state), 1), 2.2, dtype=np.float32)


def test_elements_are_done_after_the_step_that_brings_them_to_their_goal():
    starts = [Start(drawers.GOAL, seed) for seed in range(3)]
    with open_worlds(drawers.TASK, 2) as two:
        for episode in rollout(Pull(), drawers.spec(), drawers.TASK, starts, two):
            after = [*episode.states[1:], episode.final_state]
            assert episode.done == tuple(drawers.spec().done(state) for state in after)
            assert [len(done) for done in episode.done] == sorted(len(done) for done in episode.done)
            assert episode.done[-1] == set(drawers.GOAL)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_goes_wrong_in_a_kitchen_comes_out(kitchens, threads):
    class Wild(Wave):
        def act(self, state, subgoal, noise):
            return np.full((len(state), 9), np.nan, dtype=np.float32)

    with pytest.raises(RelayError, match="action that is not finite"):
        rollout(Wild(), SPEC, KITCHEN, STARTS, kitchens, steps=STEPS, threads=threads)

    class Broken(FastKitchen):
        def step(self, target):
            raise RelayError("the door is off its hinges")

    with pytest.raises(RelayError, match="off its hinges"):
        rollout(Wave(), SPEC, KITCHEN, STARTS, [*kitchens[:3], Broken()], steps=STEPS, threads=threads)


def test_a_state_that_a_server_would_refuse_is_seen_at_the_edge_of_what_it_accepts(kitchens):
    free = play(STARTS[:2], kitchens)
    edges = np.minimum.reduce([episode.states for episode in free]).min(0) + np.float32(1e-3)
    state = VectorSpec(**SPEC.state.model_dump() | {"low": tuple(map(float, edges))})
    narrow = SPEC.model_copy(update={"state": state})
    kept = rollout(Wave(), narrow, KITCHEN, STARTS[:2], kitchens, steps=STEPS)
    assert all(len(episode.states) == STEPS for episode in kept)
    assert all((episode.states >= edges).all() for episode in kept)
