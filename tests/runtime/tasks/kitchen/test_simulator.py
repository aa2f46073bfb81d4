"""The kitchen simulator: exact targets, seeds, threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, PERTURBED, Kitchen


@pytest.fixture(scope="module")
def kitchens():
    made = [Kitchen(), Kitchen()]
    yield made
    for kitchen in made:
        kitchen.close()


@pytest.fixture
def kitchen(kitchens):
    return kitchens[0]


def play(kitchen: Kitchen, seed: int, steps: int = 15) -> np.ndarray:
    state = kitchen.reset(seed, PERTURBED)
    rng = np.random.default_rng(seed)
    states = [state]
    for _ in range(steps):
        state = kitchen.step(state[:9] + rng.uniform(-0.1, 0.1, 9))
        states.append(state)
    return np.array(states)


def test_a_seed_fixes_an_episode(kitchen):
    assert np.array_equal(play(kitchen, 3), play(kitchen, 3))
    assert not np.array_equal(play(kitchen, 3), play(kitchen, 4))


def test_kitchens_in_threads_are_kitchens_in_turn(kitchens):
    alone = [play(kitchens[0], seed) for seed in (5, 6)]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(play, kitchens, (5, 6)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_target_within_reach_is_commanded_exactly_and_one_beyond_is_clipped(kitchen):
    state = kitchen.reset(0)
    target = state[:9].astype(np.float64)
    target[0] += 0.9 * MAX_TARGET_STEP
    target[1] += 5 * MAX_TARGET_STEP
    kitchen.step(target)
    assert kitchen.data.ctrl[0] == pytest.approx(target[0], abs=1e-6)
    assert kitchen.data.ctrl[1] == pytest.approx(state[1] + MAX_TARGET_STEP, abs=1e-6)


def test_setpoints_held_for_each_physics_step_are_a_target_held_for_a_period(kitchens):
    held, followed = kitchens
    target = held.reset(4)[:9] + np.float32(0.05)
    assert np.array_equal(followed.reset(4)[:9] + np.float32(0.05), target)
    held.step(target)
    assert np.array_equal(followed.follow([held.data.ctrl.copy()] * 40), held.state)
    assert np.array_equal(followed.qpos, held.qpos)


def test_starts_lie_where_they_are_asked_for(kitchen):
    nominal = kitchen.reset(1, NOMINAL) if kitchen.reset(0) is not None else None
    true = []
    for seed in range(20):
        kitchen.reset(seed, PERTURBED)
        true.append(kitchen.qpos)
    away = np.abs(np.array(true) - nominal)
    assert away[:, :7].max() <= PERTURBED.arm + 0.002  # the nominal reading has noise of its own
    assert away[:, :7].max() > PERTURBED.arm / 2
    assert away[:, 23:25].max() <= PERTURBED.kettle + 0.002
    assert away[:, 9:23].max() < 0.002


def test_it_can_start_from_any_configuration(kitchen):
    play(kitchen, 2)
    wanted = kitchen.qpos
    kitchen.reset(9)
    state = kitchen.restore(wanted, seed=0)
    assert np.array_equal(kitchen.qpos, wanted)
    assert state == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("target", [np.zeros(8), np.full(9, np.nan), np.zeros((1, 9))])
def test_a_bad_target_is_refused_and_moves_nothing(kitchen, target):
    kitchen.reset(0)
    before = kitchen.qpos
    with pytest.raises(InvalidInput, match="9 finite numbers"):
        kitchen.step(target)
    assert np.array_equal(kitchen.qpos, before)


@pytest.mark.parametrize("library", ["", "osmesa"])
@pytest.mark.parametrize("first", ["rpl_runtime.tasks.kitchen.simulator", "rpl_train.tasks.kitchen.task"])
def test_a_first_kitchen_starts_no_python_and_leaves_the_environment_alone(first, library):
    # GLFW would start one for each of its libraries, which Ctrl-C ends with a traceback.
    program = f"""
import os, sys
started = []
sys.addaudithook(lambda event, arguments: started.append(arguments[0]) if event == "subprocess.Popen" else None)
import {first}
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
with open_kitchen():
    print(sys.executable in started, os.environ["MUJOCO_GL"], "PYGLFW_LIBRARY" in os.environ, "glfw" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYGLFW")}
    environment["MUJOCO_GL"] = library
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == f"False {library} False True"
