"""When a policy asks for help: the distance that is left of a goal, and the steps without progress."""

from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import ValidationError

import policies
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.manifest import Manifest, Provenance, Stall
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.policy.stall import Clock, StallDetector

SPEC, STATISTICS = policies.tiny_spec(), policies.tiny_statistics()
STALL = Stall(limit=3.0, rate=0.02, episodes=100)
START = np.zeros(5, np.float32)


@dataclass
class Run:
    goal: ResolvedGoal
    clock: Clock | None = None


def asked(
    run: Run, doors: list[float], score: float | None = None, detector: StallDetector | None = None
) -> list[bool]:
    """Whether a run asks for help while its door is at each of these places."""
    detector = detector or StallDetector(SPEC, None, STALL)
    states = [np.array([0, 0, 0, door, 0], np.float32) for door in doors]
    return [detector.asks([run], state[None], [score])[0] for state in states]


def test_what_is_left_is_counted_in_tolerances_of_the_elements_asked_for() -> None:
    detector = StallDetector(SPEC, None, STALL)
    both, dock = SPEC.resolve(["door", "lamp"], START), SPEC.resolve(["dock"], START)
    states = np.zeros((2, 5), np.float32)
    states[1, 3] = 1.35  # of 1.5, in tolerances of 0.1
    left = detector.left(*(np.array([each, each]) for each in both), states)
    assert left == pytest.approx([14 + 9, 0.5 + 9], rel=1e-5)
    left = detector.left(dock.state[None], dock.mask[None], states[:1])
    assert left == pytest.approx([np.sqrt(2) / 0.2 - 1], rel=1e-5)
    assert detector.left(both.state[None], both.mask[None], both.state[None]) == [0]


def test_steps_without_progress_are_counted_until_the_limit() -> None:
    run = Run(SPEC.resolve(["door"], START))
    assert asked(run, [0.0] * 5) == [False] * 4 + [True]
    assert asked(run, [0.5, 0.51, 0.49, 0.5, 0.5]) == [False] * 4 + [True]  # noise is not progress
    assert asked(run, [0.4, 0.3, 0.2]) == [True] * 3  # nor is the way back


def test_a_goal_that_is_reached_needs_no_help() -> None:
    assert asked(Run(SPEC.resolve(["door"], START)), [0.5, *[1.45] * 20]) == [False] * 21


def test_a_novel_state_counts_more_and_an_ordinary_one_less() -> None:
    goal = SPEC.resolve(["door"], START)
    assert asked(Run(goal), [0.0] * 4, 2.0) == [False, False, True, True]
    assert asked(Run(goal), [0.0] * 8, 0.5) == [False] * 7 + [True]


def test_another_goal_starts_another_count() -> None:
    run = Run(SPEC.resolve(["door"], START))
    assert asked(run, [0.0] * 5)[-1]
    run.goal = SPEC.resolve(["door"], START)
    assert asked(run, [0.0] * 5) == [False] * 4 + [True]


def test_runs_of_a_batch_are_watched_each_by_itself() -> None:
    runs = [Run(SPEC.resolve(["door"], START)), Run(SPEC.resolve(["lamp"], START))]
    states, detector = np.zeros((2, 5), np.float32), StallDetector(SPEC, None, STALL)
    for step in range(5):
        states[1, 4] = 0.2 * step
        found = detector.asks(runs, states, [None, None])
    assert found == [True, False]


def test_without_elements_a_goal_is_reached_within_the_stated_distance() -> None:
    spec = SPEC.model_copy(update={"elements": {}, "library": {}})
    detector = StallDetector(spec, STATISTICS, STALL.model_copy(update={"tolerance": 2.0}))
    goal = spec.resolve_state(np.array([0, 0, 0, 1.5, 0], np.float32))
    far, near = (np.array([[0, 0, 3, door, 0]], np.float32) for door in (0.0, 0.95))  # the heading does not count
    assert detector.left(goal.state[None], goal.mask[None], far) == pytest.approx([1.5 / 0.6 - 1])
    assert detector.left(goal.state[None], goal.mask[None], near) == [0]


def test_a_bundle_keeps_its_limit_and_one_without_it_never_asks(tmp_path) -> None:
    assert policies.tiny_bundle(tmp_path / "with", stall=STALL).manifest.stall == STALL
    assert load_bundle(tmp_path / "with").manifest.stall == STALL
    assert policies.tiny_bundle(tmp_path / "without").manifest.stall is None


def test_a_limit_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValidationError):
        Stall(limit=0.0, rate=0.02, episodes=100)
    spec = SPEC.model_copy(update={"elements": {}, "library": {}})
    with pytest.raises(ValidationError, match="without elements, asking for help needs the statistics and a tolerance"):
        Manifest(spec=spec, pair_id="", files={}, stall=STALL, provenance=Provenance(command="", commit=""))
