"""The mirrored kitchen: its objects react to an arm that is somewhere else."""

from pathlib import Path

import numpy as np
import pytest

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.robots.franka.franka import HOME
from rpl_runtime.robots.mirror import KitchenMirror
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, EPISODE_STEPS, PERIOD, compound_goal
from rpl_runtime.tasks.kitchen.servo import course
from rpl_runtime.tasks.kitchen.simulator import open_kitchen

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def mirror():
    mirror = KitchenMirror()
    yield mirror
    mirror.close()


@pytest.fixture(scope="module")
def opening() -> np.ndarray:
    """The joints (T, 9) of an arm that opens the microwave, and stops there."""
    bundle = load_bundle(ROOT / "models" / "relay")
    loop = RelayLoop(OnnxPolicy(bundle), bundle.spec)
    joints = []
    with open_kitchen() as kitchen:
        state = kitchen.reset(0)
        loop.start("arm", bundle.spec.resolve(["microwave"], state))
        for step in range(100):
            joints.append(kitchen.qpos[:9])
            state = kitchen.step(loop.step(["arm"], [step], [state]).action[0])
    assert ELEMENTS["microwave"].is_done(state)
    return np.array(joints)


def test_what_an_arm_does_elsewhere_is_done_here(mirror: KitchenMirror, opening: np.ndarray) -> None:
    mirror.reset(0, opening[0])
    for joints in opening[1:]:
        seen = mirror.read(joints)
    state = np.append(opening[-1], seen.objects)
    assert ELEMENTS["microwave"].is_done(state)
    assert not any(element.is_done(state) for name, element in ELEMENTS.items() if name != "microwave")
    # The hand here closed on nothing; the one in the mirror has the handle between its fingers.
    assert seen.robot is not None
    assert seen.robot[7:].sum() > 0.01


def test_its_arm_follows_closely_and_is_held_up(mirror: KitchenMirror, opening: np.ndarray) -> None:
    mirror.reset(0, opening[0])
    for joints in opening[:20]:
        mirror.read(joints)
    for _ in range(5):
        mirror.read(opening[19])
    np.testing.assert_allclose(mirror.simulator.qpos[:7], opening[19, :7], atol=2e-3)


def test_a_stiff_arm_elsewhere_does_a_whole_compound_goal(mirror: KitchenMirror) -> None:
    """An arm that stands wherever its course leads, as FrankaRobot's does, and sees what the mirror holds it at."""
    bundle = load_bundle(ROOT / "models" / "kitchen")
    loop, goal, ever = RelayLoop(OnnxPolicy(bundle), bundle.spec), compound_goal("mksh"), set[str]()
    arm, fingers = HOME, np.array([0.04, 0.04])
    mirror.reset(0, np.append(arm, fingers))
    for step in range(EPISODE_STEPS):
        seen = mirror.read(np.append(arm, fingers))
        assert seen.robot is not None
        state = np.append(seen.robot, seen.objects).astype(np.float32)
        if step == 0:
            loop.start("arm", bundle.spec.resolve(goal, state))
        target = loop.step(["arm"], [step], [state]).action[0].astype(np.float64)
        gravity = mirror.simulator.data.qfrc_bias[:7]
        arm, fingers = course(arm, seen.robot[:7], target[:7], gravity, PERIOD).position, target[7:]
        ever |= {name for name in goal if ELEMENTS[name].is_done(state)}
    assert ever == set(goal)


def test_a_start_is_the_same_every_time(mirror: KitchenMirror, opening: np.ndarray) -> None:
    def play() -> np.ndarray:
        mirror.reset(3, opening[0])
        return np.array([mirror.read(joints).objects for joints in opening[:30]])

    np.testing.assert_array_equal(play(), play())
