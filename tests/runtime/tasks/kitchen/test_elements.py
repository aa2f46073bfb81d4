"""The element table against the environment it describes."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.tasks.kitchen.elements import (
    DONE_DISTANCE,
    ELEMENTS,
    OBJECT_DIMS,
    OTHER_HUMAN_GOALS,
    PAPER_GOALS,
    STATE_HIGH,
    STATE_LOW,
    TARGET_HIGH,
    TARGET_LOW,
    UNSEEN_GOALS,
    compound_goal,
    kitchen_spec,
)
from rpl_runtime.tasks.kitchen.simulator import Kitchen


@pytest.fixture(scope="module")
def environment():
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics.envs.franka_kitchen import kitchen_env
    return kitchen_env


def test_the_table_is_the_environments(environment):
    assert set(ELEMENTS) == set(environment.OBS_ELEMENT_GOALS)
    for name, element in ELEMENTS.items():
        assert list(element.dims) == environment.OBS_ELEMENT_INDICES[name].tolist()
        assert list(element.goal) == environment.OBS_ELEMENT_GOALS[name].tolist()
        assert element.tolerance == DONE_DISTANCE == environment.BONUS_THRESH


def test_the_limits_are_the_environments():
    kitchen = Kitchen()
    bounds = kitchen._env.robot_env.robot_pos_bound[:9]
    assert np.stack([TARGET_LOW, TARGET_HIGH], axis=1) == pytest.approx(bounds, abs=1e-6)
    model = kitchen.model
    for joint in range(23):
        low, high = model.jnt_range[joint]
        address = model.jnt_qposadr[joint]
        assert STATE_LOW[address] < low <= high < STATE_HIGH[address]
    kitchen.close()


def test_the_35_sets_of_four_are_split_in_three():
    sets = [frozenset(compound_goal(goal)) for goal in (*PAPER_GOALS, *OTHER_HUMAN_GOALS, *UNSEEN_GOALS)]
    assert [len(PAPER_GOALS), len(OTHER_HUMAN_GOALS), len(UNSEEN_GOALS)] == [17, 7, 11]
    assert len(set(sets)) == 35
    assert {len(elements) for elements in sets} == {4}


def test_an_unknown_letter_says_which_are_known():
    with pytest.raises(InvalidGoal, match="no element has the letter x; must be one of m, k, b, t, l, s, h"):
        compound_goal("mkx")


@given(st.sets(st.sampled_from(list(ELEMENTS)), min_size=1))
def test_any_set_of_elements_is_a_goal(names):
    spec = kitchen_spec("kitchen")
    start = ((STATE_LOW + STATE_HIGH) / 2).astype(np.float32)
    goal = spec.resolve(sorted(names), start)
    assert spec.done(goal.state) >= names
    counted = {dim for name in names for dim in ELEMENTS[name].dims}
    assert set(np.flatnonzero(goal.mask)) == counted <= set(OBJECT_DIMS)
    untouched = [dim for dim in range(30) if dim not in counted]
    assert (goal.state[untouched] == start[untouched]).all()
