"""The flange's pose against two models of the arm."""

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from rpl_runtime.errors import require
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.tasks.kitchen.simulator import Kitchen

RNG = np.random.default_rng(0)
JOINTS = RNG.uniform([-2.7, -1.7, -2.7, -3.0, -2.7, 0.6, -2.7], [2.7, 1.7, 2.7, -0.2, 2.7, 3.7, 2.7], (50, 7))


def relative(data, base: str, link: str) -> tuple[np.ndarray, np.ndarray]:
    """A link's position (3,) and rotation (3, 3) in the frame of another one."""
    frame = data.body(base).xmat.reshape(3, 3)
    return frame.T @ (data.body(link).xpos - data.body(base).xpos), frame.T @ data.body(link).xmat.reshape(3, 3)


def test_it_is_the_fr3_of_mujoco_menagerie() -> None:
    found = importlib.util.find_spec("franky_sim")
    if found is None or found.origin is None:
        pytest.skip("franky-sim is not installed")
    mujoco = require("mujoco", "sim")
    tree = ElementTree.parse(Path(found.origin).parent / "assets" / "fr3.xml")
    for parent in list(tree.iter()):
        for shape in [child for child in parent if child.tag in ("geom", "mesh")]:
            parent.remove(shape)  # its files lie elsewhere, and lengths do not depend on it
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(tree.getroot(), encoding="unicode"))
    data = mujoco.MjData(model)
    for joints in JOINTS:
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        position, rotation = relative(data, "base", "fr3_link7")
        ours = flange_pose(joints)
        np.testing.assert_allclose(ours[0], position + rotation @ [0.0, 0.0, 0.107], atol=1e-5)
        np.testing.assert_allclose(ours[1], rotation, atol=1e-5)


def test_it_is_the_kitchens_panda_but_for_two_moved_zeros_and_its_rounded_angles() -> None:
    mujoco, kitchen = require("mujoco", "sim"), Kitchen()
    for joints in JOINTS:
        kitchen.data.qpos[:7] = joints - [0.0, 0.0, 0.0, 0.0, 0.0, 1.57, 0.7854]
        mujoco.mj_kinematics(kitchen.model, kitchen.data)
        position, rotation = relative(kitchen.data, "panda0_link0", "panda0_link7")
        ours = flange_pose(joints)
        np.testing.assert_allclose(ours[0], position + rotation @ [0.0, 0.0, 0.107], atol=3e-4)
        np.testing.assert_allclose(ours[1], rotation, atol=2e-3)
    kitchen.close()


def test_many_configurations_are_each_of_them_alone() -> None:
    position, rotation = flange_pose(JOINTS.reshape(5, 10, 7))
    assert position.shape == (5, 10, 3)
    assert rotation.shape == (5, 10, 3, 3)
    for number, joints in enumerate(JOINTS):
        alone = flange_pose(joints)
        np.testing.assert_allclose(position.reshape(50, 3)[number], alone[0], atol=1e-12)
        np.testing.assert_allclose(rotation.reshape(50, 3, 3)[number], alone[1], atol=1e-12)


def test_at_zero_the_arm_stands_up() -> None:
    np.testing.assert_allclose(flange_pose(np.zeros(7))[0], [0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107], atol=1e-12)
