"""Demonstrations played again through the physics."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.tasks.kitchen.simulator import Kitchen, open_kitchen
from rpl_train.data.replay import replay, replay_table
from rpl_train.data.trajectory import Trajectory
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.task import KITCHEN

SEQUENCES = Path(__file__).parents[5] / "shared" / "demos" / "kitchen_human_24x4.hdf5"
needs_recordings = pytest.mark.skipif(not SEQUENCES.exists(), reason="the human recordings are not here")


def played(kitchen: Kitchen, seed: int, steps: int = 12) -> Trajectory:
    """The arm drifts, and the microwave stands open from the start."""
    rng = np.random.default_rng(seed)
    start = kitchen.reset(seed)
    start[22] = -0.75
    states, targets = [kitchen.restore(start, seed)], []
    for _ in range(steps):
        targets.append(states[-1][:9] + rng.uniform(-0.1, 0.1, 9).astype(np.float32))
        states.append(kitchen.step(targets[-1]))
    return Trajectory(np.array(states[:-1]), np.array(targets), ("microwave",), f"made#{seed}")


@pytest.fixture(scope="module")
def demonstrations() -> list[Trajectory]:
    with open_kitchen() as kitchen:
        return [played(kitchen, seed) for seed in range(3)]


def test_the_objects_are_regenerated_from_the_first_state_and_the_targets(demonstrations):
    blank = [replace(t, states=np.vstack([t.states[:1], np.zeros_like(t.states[1:])])) for t in demonstrations]
    heard = []
    found = replay(KITCHEN, blank, on_episode=lambda: heard.append(1))
    for before, after in zip(demonstrations, found.trajectories, strict=True):
        assert after.states == pytest.approx(before.states, abs=0.06)  # the start was a noisy reading of the true one
        assert np.array_equal(after.targets, before.targets)
        assert (after.elements, after.source) == (before.elements, before.source)
    assert len(heard) == 3


def test_threads_change_nothing(demonstrations):
    alone, together = replay(KITCHEN, demonstrations, jobs=1), replay(KITCHEN, demonstrations, jobs=2)
    for one, other in zip(alone.trajectories, together.trajectories, strict=True):
        assert np.array_equal(one.states, other.states)
        assert one.source == other.source


def test_it_says_how_many_complete_their_elements(demonstrations):
    asked = [
        replace(t, elements=e)
        for t, e in zip(demonstrations, [("microwave",), (), ("microwave", "kettle")], strict=True)
    ]
    result = replay(KITCHEN, asked)
    assert [episode.completes for episode in result.episodes] == [True, True, False]
    assert all(episode.done_at_end == {"microwave"} for episode in result.episodes)
    page = io.StringIO()
    Console(width=100, file=page).print(replay_table(result, KITCHEN.spec))
    printed = page.getvalue()
    assert "2 of 3 demonstrations complete all their elements" in printed
    assert any(line.split() == ["│", "microwave", "│", "2", "│", "2", "│", "2", "│"] for line in printed.splitlines())


def test_what_is_not_of_the_kitchen_is_one_sentence():
    foreign = Trajectory(np.zeros((3, 5), np.float32), np.zeros((3, 2), np.float32), source="drawers#0")
    with pytest.raises(
        DemonstrationError, match="drawers#0 has states of 5 and targets of 2 numbers; kitchen has 30 and 9"
    ):
        replay(KITCHEN, [foreign])


@needs_recordings
def test_human_recordings_complete_their_elements():
    result = replay(KITCHEN, import_d4rl(SEQUENCES)[40:42])
    assert result.complete == 2
    assert [len(t.elements) for t in result.trajectories] == [4, 4]
