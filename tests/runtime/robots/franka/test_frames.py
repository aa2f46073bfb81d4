"""The joint map, proved by forward kinematics: the kitchen's Panda beside Franka's own models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.robots.franka.frames import JOINT_ZERO, pose_in_base, pose_in_kitchen, to_franka, to_kitchen
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.tasks.kitchen.elements import TARGET_HIGH, TARGET_LOW
from rpl_runtime.tasks.kitchen.servo import RANGE_HIGH, RANGE_LOW
from rpl_runtime.tasks.kitchen.simulator import open_kitchen

ROOT = Path(__file__).parents[4]
Pose = tuple[np.ndarray, np.ndarray]  # position (3,) [m], rotation (3, 3), in the frame of the arm's base
FK = Callable[[np.ndarray, str], Pose]

# Wherever a set-point of the kitchen may lead its arm.
LOW = np.maximum(RANGE_LOW, TARGET_LOW[:7])
HIGH = np.minimum(RANGE_HIGH, TARGET_HIGH[:7])
CONFIGURATIONS = np.random.default_rng(0).uniform(LOW, HIGH, (300, 7))
HALF_TURN = np.diag([-1.0, -1.0, 1.0])  # about the hand's own axis


def kinematics(model, base: str) -> FK:
    """Forward kinematics by MuJoCo: link poses for the arm's joints, the first seven, with the hand open."""
    import mujoco

    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0

    def pose(joints: np.ndarray, link: str) -> Pose:
        data.qpos[:9] = np.append(joints, [0.04, 0.04])
        mujoco.mj_kinematics(model, data)
        origin, frame = data.body(base), data.body(link)
        turn = origin.xmat.reshape(3, 3).T
        return turn @ (frame.xpos - origin.xpos), turn @ frame.xmat.reshape(3, 3)

    return pose


@pytest.fixture(scope="module")
def kitchen():
    with open_kitchen() as opened:
        yield kinematics(opened.model, "panda0_link0")


@pytest.fixture(scope="module")
def franka() -> FK:
    """The FR3 of Franka's own description, as franky-sim ships it."""
    simulators = pytest.importorskip("franky_sim.mujoco_simulator", reason="needs the franka-sim extra")
    with simulators.MujocoSimulator() as simulator:
        simulator.add_robot()
        simulator.start()
        return kinematics(simulator.model, "robot0_fr3_link0")


def apart(one: Pose, other: Pose) -> tuple[float, float]:
    """How far two poses lie from each other: [m], [rad]."""
    turn = one[1].T @ other[1]
    return float(np.linalg.norm(one[0] - other[0])), float(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))


@pytest.mark.parametrize(
    ("theirs", "ours", "turned"),
    [
        *((f"robot0_fr3_link{link}", f"panda0_link{link}", np.eye(3)) for link in range(1, 7)),
        ("robot0_fr3_link7", "panda0_link7", HALF_TURN),
        # Turned by half a turn the hand is the same hand with its fingers changed over.
        ("robot0_right_finger", "panda0_leftfinger", None),
        ("robot0_left_finger", "panda0_rightfinger", None),
    ],
)
def test_every_link_is_where_franka_has_it(kitchen: FK, franka: FK, theirs: str, ours: str, turned) -> None:
    worst = np.zeros(2)
    for joints in CONFIGURATIONS:
        expected, place = franka(to_franka(joints), theirs), kitchen(joints, ours)
        # The two models turn the frames of their fingers differently; where they are is what counts.
        expected = (expected[0], place[1] if turned is None else expected[1] @ turned)
        worst = np.maximum(worst, apart(expected, place))
    assert worst[0] < 1e-3
    assert worst[1] < 1e-3


def test_the_flange_is_where_frankas_documentation_has_it(kitchen: FK) -> None:
    for joints in CONFIGURATIONS:
        position, rotation = kitchen(joints, "panda0_link7")
        flange = position + 0.107 * rotation[:, 2], rotation
        expected = flange_pose(to_franka(joints))
        assert apart((expected[0], expected[1] @ HALF_TURN), flange) < (1e-3, 1e-3)


def test_the_shipped_policy_stays_within_reach_of_an_fr3_thanks_to_the_half_turn() -> None:
    fr3 = PROFILES["fr3"].rezeroed(JOINT_ZERO)
    unturned = PROFILES["fr3"].rezeroed(JOINT_ZERO + np.pi * np.eye(7)[6])
    bundle = load_bundle(ROOT / "models" / "kitchen")
    loop = RelayLoop(OnnxPolicy(bundle), bundle.spec)
    joints = []
    with open_kitchen() as opened:
        state = opened.reset(0)
        loop.start("arm", bundle.spec.resolve(bundle.spec.library["mkbs"], state))
        for step in range(280):
            state = opened.step(loop.step(["arm"], [step], [state]).action[0])
            joints.append(opened.qpos[:7])
    assert (fr3.low[:7] < np.min(joints, axis=0)).all()
    assert (np.max(joints, axis=0) < fr3.high[:7]).all()
    assert np.max(joints, axis=0)[6] > unturned.high[6] + 0.3


def test_the_map_has_a_way_back() -> None:
    np.testing.assert_allclose(to_kitchen(to_franka(CONFIGURATIONS)), CONFIGURATIONS, atol=1e-12)


def test_the_base_stands_where_the_kitchens_model_has_it() -> None:
    with open_kitchen() as opened:
        base = opened.data.body("panda0_link0")
        np.testing.assert_allclose(pose_in_kitchen(np.array([0, 0, 0, 1.0, 0, 0, 0])), [*base.xpos, *base.xquat])


@given(st.lists(st.floats(-1, 1), min_size=7, max_size=7).filter(lambda pose: np.linalg.norm(pose[3:]) > 0.1))
def test_a_pose_is_the_same_one_in_both_frames(numbers: list[float]) -> None:
    pose = np.array(numbers)
    pose[3:] /= np.linalg.norm(pose[3:])
    back = pose_in_kitchen(pose_in_base(pose))
    np.testing.assert_allclose(back[:3], pose[:3], atol=1e-12)
    assert abs(back[3:] @ pose[3:]) == pytest.approx(1)  # a quaternion and its negative are one rotation
    assert back[3] >= 0
