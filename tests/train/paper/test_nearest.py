"""The nearest demonstration, and that it is played whatever happens."""

import contextlib
import json

import numpy as np
import pytest

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.evaluation.evaluate import EvaluateConfig
from rpl_runtime.evaluation.results import check_evaluation
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, ROBOT_DIM, STATE_DIM, compound_goal, kitchen_spec
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory
from rpl_train.paper import nearest as module
from rpl_train.paper.nearest import evaluate_nearest, nearest, open_loop

AT_REST = np.zeros(STATE_DIM, dtype=np.float32)


def demonstration(letters: str, length: int = 6, begin: float = 0.0) -> Trajectory:
    """One that does these elements, from a state whose first joint is at `begin`; its targets count its steps."""
    elements = compound_goal(letters)
    done = kitchen_spec("kitchen").resolve(elements, AT_REST).state
    states = np.linspace(AT_REST, done, length).astype(np.float32)
    states[0, 0] = begin
    targets = np.tile(np.arange(length, dtype=np.float32)[:, None], (1, ROBOT_DIM))
    return Trajectory(states, targets, elements, f"{letters}@{begin:g}")


DEMONSTRATIONS = [demonstration(letters) for letters in ("mk", "mkb", "mkbs", "kbts")]


@pytest.mark.parametrize(
    ("goal", "found"),
    [
        ("mkbs", "mkbs@0"),
        ("mkb", "mkb@0"),  # and not mkbs, which does more than was asked for
        ("kbts", "kbts@0"),
        ("k", "mk@0"),  # one element too many is the least there is
    ],
)
def test_what_ended_as_it_is_asked_for_is_nearest(goal, found):
    assert nearest(DEMONSTRATIONS, compound_goal(goal), AT_REST).source == found


def test_among_equals_the_one_that_begins_as_the_kitchen_does_is_nearest():
    twice = [demonstration("mk", begin=begin) for begin in (-0.4, 0.4)]
    for first_joint in (-0.3, 0.3):
        state = AT_REST.copy()
        state[0] = first_joint
        assert nearest(twice, compound_goal("mk"), state).states[0, 0] * first_joint > 0


def test_among_equals_the_one_whose_objects_end_nearest_to_the_goal_is_nearest():
    """Both have the same elements done and begin alike; one leaves the microwave at its goal, one within tolerance."""
    exact, other = demonstration("mk"), demonstration("mk")
    microwave = list(ELEMENTS["microwave"].dims)
    other.states[-1, microwave] += 0.2
    assert ELEMENTS["microwave"].is_done(other.states[-1])
    for order in ([exact, other], [other, exact]):
        assert nearest(order, compound_goal("mk"), AT_REST) is exact


def test_how_the_arm_ends_does_not_count():
    first, second = demonstration("mk"), demonstration("mk")
    first.states[-1, :ROBOT_DIM] += 1.0
    assert nearest([first, second], compound_goal("mk"), AT_REST) is first  # a tie, so the first of them


class Recorder:
    """A kitchen in which nothing happens; it keeps what it is told."""

    def __init__(self) -> None:
        self.state = self.truth = AT_REST
        self.goal = None
        self.targets: list[float] = []

    def reset(self, seed, noise):
        self.targets.clear()
        return self.state

    def step(self, target):
        self.targets.append(float(target[0]))

    def done(self):
        return frozenset({"microwave"}) if len(self.targets) >= 4 else frozenset()


@pytest.fixture
def kitchen(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(module, "open_kitchen", lambda: contextlib.nullcontext(recorder))
    return recorder


def test_its_targets_are_played_and_the_last_is_held(kitchen):
    config = EvaluateConfig(("mkbs",), episodes=1, starts=("nominal",), steps=9)
    content = evaluate_nearest(Demonstrations(DEMONSTRATIONS, []), config)
    assert kitchen.targets == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    results = content["starts"]["nominal"]["goals"]["mkbs"]
    assert (results["mean_steps_ever"], results["success_ever"]) == (1, 0)


def test_it_is_an_evaluation_like_any_other(kitchen):
    config = EvaluateConfig(("mkbs", "kbts"), episodes=2, steps=5)
    content = evaluate_nearest(Demonstrations(DEMONSTRATIONS, []), config)
    check_evaluation(content)
    assert json.loads(json.dumps(content))["protocol"]["goals"] == ["mkbs", "kbts"]
    assert set(content["starts"]) == {"nominal", "perturbed"}
    with pytest.raises(InvalidGoal):
        evaluate_nearest(Demonstrations(DEMONSTRATIONS, []), EvaluateConfig(("mx",)))


def test_the_real_kitchen_plays_it():
    config = EvaluateConfig(("mkbs",), episodes=1, starts=("perturbed",), steps=3)
    content = evaluate_nearest(Demonstrations(DEMONSTRATIONS, []), config)
    assert content["starts"]["perturbed"]["episodes"] == 1
    assert set(content["starts"]["perturbed"]["elements"]) <= set(ELEMENTS)


def test_a_run_plays_its_demonstration_and_then_holds():
    """For the hard protocol: whatever the state, and from the beginning of another one for a new goal."""
    control, state = open_loop(DEMONSTRATIONS), AT_REST
    played = []
    control.start("robot", compound_goal("mk"), state)
    for step in range(8):
        played.append(control.step("robot", step, state + step).target[5])
    whole = kitchen_spec("kitchen").resolve(compound_goal("kbts"), AT_REST).state
    control.set_goal("robot", whole, state)
    played += [control.step("robot", step, state).target[5] for step in (8, 9)]
    control.finish("robot")
    np.testing.assert_allclose(played, [0, 1, 2, 3, 3.8, 3.8, 3.8, 3.8, 0, 1])  # within the range of a target
