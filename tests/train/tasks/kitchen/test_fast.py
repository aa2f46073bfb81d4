"""The kitchen for training is the kitchen, bit for bit."""

from pathlib import Path

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, PERTURBED, Kitchen
from rpl_train.rl.rollout import Start, rollout
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.fast import FastKitchen
from rpl_train.tasks.kitchen.task import KITCHEN

ROOT = Path(__file__).parents[4]
RECORDINGS = ROOT.parent / "shared" / "demos"


@pytest.fixture(scope="module")
def kitchens():
    made = Kitchen(), FastKitchen()
    yield made
    for kitchen in made:
        kitchen.close()


def agree(kitchens) -> bool:
    kitchen, fast = kitchens
    return (
        np.array_equal(kitchen.state, fast.state)
        and np.array_equal(kitchen.data.qpos, fast.data.qpos)
        and np.array_equal(kitchen.data.qvel, fast.data.qvel)
        and kitchen.done() == fast.done()
    )


@pytest.mark.parametrize("noise", [NOMINAL, PERTURBED])
@pytest.mark.parametrize("reach", [0.1, 0.4, 6.0])  # [rad, m] within a step's reach, beyond it, and wild
def test_random_targets_lead_to_the_same_states_with_the_same_noise(kitchens, noise, reach):
    rng = np.random.default_rng(int(10 * reach))
    for kitchen in kitchens:
        kitchen.reset(3, noise)
    for _ in range(120):
        target = kitchens[0].state[:9] + rng.uniform(-reach, reach, 9)
        assert np.array_equal(kitchens[0].step(target), kitchens[1].step(target))
        assert agree(kitchens)


def test_a_restored_configuration_is_the_same(kitchens):
    qpos = kitchens[0].qpos
    qpos[22], qpos[23:26] = -0.7, (-0.2, 0.3, 2.2)  # the microwave open, the kettle in the air
    for kitchen in kitchens:
        kitchen.restore(qpos, seed=5)
    assert agree(kitchens)
    for _ in range(25):
        for kitchen in kitchens:
            kitchen.step(qpos[:9])
        assert agree(kitchens)


@pytest.mark.parametrize("goal", ["mkbs", "btsh"])
def test_episodes_of_the_shipped_policy_are_the_same(kitchens, goal):
    bundle = load_bundle(ROOT / "models" / "kitchen")
    start = Start(bundle.spec.library.get(goal, ("microwave",)), seed=11, sampling=1)
    slow, fast = (
        rollout(OnnxPolicy(bundle), bundle.spec, KITCHEN, [start], [kitchen], threads=1)[0] for kitchen in kitchens
    )
    assert np.array_equal(slow.states, fast.states)
    assert np.array_equal(slow.final_state, fast.final_state)
    assert slow.done == fast.done
    assert agree(kitchens)


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["d4rl_kitchen_complete_v0.hdf5", "kitchen_human_24x4.hdf5"])
def test_replays_of_demonstrations_are_the_same(kitchens, name, every):
    if not (RECORDINGS / name).exists():
        pytest.skip("the human recordings are not here")
    for index, demonstration in enumerate(import_d4rl(RECORDINGS / name)[::every]):
        for kitchen in kitchens:
            kitchen.restore(demonstration.states[0], index)
        for target in demonstration.targets:
            for kitchen in kitchens:
                kitchen.step(target)
            assert agree(kitchens)


def test_the_bodies_weigh_what_they_weigh(kitchens):
    whole, fast = (kitchen.model for kitchen in kitchens)
    assert fast.ngeom < whole.ngeom
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_invweight0", "dof_armature", "jnt_range"):
        assert np.array_equal(getattr(whole, name), getattr(fast, name))


def test_kitchens_that_share_a_model_share_nothing_else():
    one, other = FastKitchen(), FastKitchen()
    before = other.qpos
    one.step(one.state[:9] + 0.1)
    assert np.array_equal(other.qpos, before)
    assert one.model is other.model


@pytest.mark.parametrize("target", [np.zeros(8), np.full(9, np.nan), np.zeros((1, 9))])
def test_a_bad_target_is_refused_and_moves_nothing(kitchens, target):
    fast = kitchens[1]
    before = fast.qpos
    with pytest.raises(InvalidInput, match="9 finite numbers"):
        fast.step(target)
    assert np.array_equal(fast.qpos, before)


@pytest.mark.parametrize(("dim", "value"), [(22, 1.0), (22, -9.0), (13, 0.3), (4, 3.4), (19, -0.4)])
def test_a_joint_forced_past_its_stop_comes_back_the_same_way(kitchens, dim, value):
    qpos = kitchens[0].qpos
    qpos[dim] = value
    for kitchen in kitchens:
        kitchen.restore(qpos, seed=0)
    for _ in range(8):
        for kitchen in kitchens:
            kitchen.step(qpos[:9])
        assert agree(kitchens)
