"""What a log draws in Foxglove and Rerun: decoded by the published schemas, and compared with the simulator."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from foxglove_schemas_protobuf import FrameTransforms_pb2, PackedElementField_pb2, PointCloud_pb2, SceneUpdate_pb2
from mcap.reader import make_reader

import policies
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.recording.mcap import LogHeader, LogWriter, read_log
from rpl_runtime.relay.messages import Action
from rpl_runtime.relay.run import Step
from rpl_runtime.relay.run_state import SubgoalOverride
from rpl_runtime.tasks.kitchen.elements import kitchen_spec
from rpl_runtime.tasks.kitchen.scenery import scenery as kitchen
from rpl_runtime.tasks.scenery import Scenery

SPEC = policies.tiny_spec()
SCHEMAS = {
    "foxglove.FrameTransforms": FrameTransforms_pb2.FrameTransforms,
    "foxglove.SceneUpdate": SceneUpdate_pb2.SceneUpdate,
    "foxglove.PointCloud": PointCloud_pb2.PointCloud,
}
MODEL = """
<mujoco>
  <asset>
    <mesh name="wedge" vertex="0 0 0  .2 0 0  0 .2 0  0 0 .2"/>
    <material name="brass" rgba=".8 .6 .2 1"/>
  </asset>
  <worldbody>
    <geom name="floor" type="plane" size="1 2 .1" rgba=".5 .5 .5 1"/>
    <body name="shelf" pos="0 1 .5" euler="0 0 90"><geom name="board" type="box" size=".3 .1 .02"/></body>
    <body name="arm" pos="0 0 .2">
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom name="upper" type="capsule" size=".05 .2" euler="0 90 0" material="brass"/>
      <body name="hand" pos="0 0 .3">
        <joint name="heading" type="hinge" axis="0 0 1"/>
        <geom name="palm" type="mesh" mesh="wedge"/>
        <geom name="hidden" type="sphere" size=".1" group="3"/>
      </body>
    </body>
    <body name="cup" pos=".5 0 .1">
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom name="side" type="cylinder" size=".04 .06"/>
      <geom name="ball" type="sphere" size=".03" pos="0 0 .1"/>
      <geom name="egg" type="ellipsoid" size=".03 .02 .05" pos="0 .1 0"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def scenery() -> Scenery:
    model = mujoco.MjModel.from_xml_string(MODEL)
    robot = frozenset({model.body("arm").id, model.body("hand").id})
    order = [0, 2, 1]  # the tiny state's x, y, heading
    return Scenery(
        model, lambda state: state[order], np.zeros(5), robot, model.body("hand").id, {}, (0, 0, 0), (0, 0, 0)
    )


def step_of(number: int, state: np.ndarray, subgoal: np.ndarray, override=SubgoalOverride.NONE) -> Step:
    state, subgoal = state.astype(np.float32), subgoal.astype(np.float32)
    action = Action(np.zeros(2, np.float32), subgoal, number, False, (number + 1) * 50_000_000, override=override)
    return Step(number, state, action, frozenset(), SPEC.resolve(["door"], np.zeros(5)))


def write(path: Path, scenery: Scenery | None, steps: list[Step], spec: PolicySpec = SPEC) -> Path:
    header = LogHeader(robot="cart", seed=None, plan_lead=0, digest="d" * 64, spec=spec)
    writer = LogWriter(path, header, scenery)
    for step in steps:
        writer.write_step(step, step.action.valid_until_ns)
    writer.close(dropped=0)
    return path


def drawn(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """The messages that any reader of the published schemas finds: topic, entry and content."""
    with path.open("rb") as file:
        for schema, channel, entry in make_reader(file).iter_messages():
            if schema is not None and schema.name in SCHEMAS:
                yield channel.topic, entry, SCHEMAS[schema.name].FromString(entry.data)


def poses(message: Any) -> dict[str, np.ndarray]:
    """Frame -> position and quaternion wxyz."""
    return {
        each.child_frame_id: np.array(
            [*(getattr(each.translation, axis) for axis in "xyz"), *(getattr(each.rotation, axis) for axis in "wxyz")]
        )
        for each in message.transforms
        if each.parent_frame_id == "world"
    }


def simulated(scenery: Scenery, state: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    model, data = scenery.model, mujoco.MjData(scenery.model)
    data.qpos[:] = scenery.qpos(state)
    mujoco.mj_forward(model, data)
    moving = np.flatnonzero(model.body_weldid)
    return {
        prefix + (model.body(body).name or f"body {body}"): np.concatenate([data.xpos[body], data.xquat[body]])
        for body in moving
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for frame, pose in expected.items():
        np.testing.assert_array_equal(found[frame], pose, err_msg=frame)


def test_every_body_and_its_ghost_are_where_the_simulator_has_them(scenery: Scenery, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states, goals = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    steps = [step_of(number, states[number], goals[number // 2]) for number in range(3)]
    found = list(drawn(write(tmp_path / "run.mcap", scenery, steps)))
    real = [(entry, message) for topic, entry, message in found if topic == "/tf"]
    ghosts = [(entry, message) for topic, entry, message in found if topic == "/tf/subgoal"]
    assert [entry.sequence for entry, _ in real] == [0, 1, 2]
    assert [entry.sequence for entry, _ in ghosts] == [0, 2]  # when it is another one
    for (entry, message), state in zip(real, states, strict=True):
        assert_same(poses(message), simulated(scenery, state))
        assert {each.timestamp.ToNanoseconds() for each in message.transforms} == {entry.publish_time}
    for (_, message), goal in zip(ghosts, goals, strict=True):
        assert_same(poses(message), simulated(scenery, goal, "subgoal/"))
    assert [step.step for step in read_log(tmp_path / "run.mcap").steps] == [0, 1, 2]


def test_the_kitchen_draws_itself(tmp_path: Path) -> None:
    world, spec = kitchen(), kitchen_spec("kitchen")
    subgoal = world.rest.copy()
    subgoal[0] += 0.3
    subgoal[spec.elements["kettle"].dims[0]] += 0.2
    step = step_of(0, world.rest, subgoal)._replace(goal=spec.resolve(["kettle"], world.rest))
    step = step._replace(action=step.action._replace(target=np.zeros(9, np.float32)))
    topics = {topic: message for topic, _, message in drawn(write(tmp_path / "run.mcap", world, [step], spec))}
    assert_same(poses(topics["/tf"]), simulated(world, world.rest))
    assert_same(poses(topics["/tf/subgoal"]), simulated(world, subgoal, "subgoal/"))
    assert [entity.id for entity in topics["/ghost/objects"].entities] == ["subgoal/kettleroot"]
    assert {"subgoal/panda0_link7", "subgoal/panda0_leftfinger"} <= {
        each.id for each in topics["/ghost/robot"].entities
    }
    assert {"world", "kettleroot", "panda0_link7"} <= {entity.id for entity in topics["/scene"].entities}
    assert (tmp_path / "run.mcap").stat().st_size < 600_000


def test_the_scene_has_the_surface_of_every_visible_geom(scenery: Scenery, tmp_path: Path) -> None:
    """Drawn where MuJoCo has it: every corner of a surface lies on the geom, and they span its whole size."""
    path = write(tmp_path / "run.mcap", scenery, [step_of(0, np.zeros(5), np.zeros(5))])
    [scene] = [message for topic, _, message in drawn(path) if topic == "/scene"]
    surfaces = {entity.id: [corners(each) for each in entity.triangles] for entity in scene.entities}
    assert {name: len(each) for name, each in surfaces.items()} == {"world": 2, "arm": 1, "hand": 1, "cup": 3}
    assert all(entity.frame_id == entity.id and entity.frame_locked for entity in scene.entities)
    floor, board = surfaces["world"]
    np.testing.assert_allclose(np.abs(floor).max(axis=0)[:2], (1, 2))
    np.testing.assert_allclose([board.min(axis=0), board.max(axis=0)], [(-0.1, 0.7, 0.48), (0.1, 1.3, 0.52)], atol=1e-6)
    [upper] = surfaces["arm"]
    np.testing.assert_allclose(np.abs(upper).max(axis=0), (0.25, 0.05, 0.05), atol=2e-3)
    [palm] = surfaces["hand"]
    np.testing.assert_allclose([palm.min(axis=0), palm.max(axis=0)], [(0, 0, 0), (0.2, 0.2, 0.2)], atol=1e-6)
    side, ball, egg = surfaces["cup"]
    np.testing.assert_allclose(
        [side.min(axis=0), side.max(axis=0)], [(-0.04, -0.04, -0.06), (0.04, 0.04, 0.06)], atol=2e-3
    )
    np.testing.assert_allclose(np.linalg.norm(ball - (0, 0, 0.1), axis=1), 0.03)
    np.testing.assert_allclose(np.linalg.norm((egg - (0, 0.1, 0)) / (0.03, 0.02, 0.05), axis=1), 1)
    brass = next(each for entity in scene.entities if entity.id == "arm" for each in entity.triangles).color
    np.testing.assert_allclose((brass.r, brass.g, brass.b, brass.a), (0.8, 0.6, 0.2, 1.0), rtol=1e-6)


def corners(primitive: Any) -> np.ndarray:
    """(V, 3) of a list of triangles, each of which looks outward from the middle of its points."""
    points = np.array([(point.x, point.y, point.z) for point in primitive.points])
    faces = np.array(primitive.indices).reshape(-1, 3)
    first, second, third = (points[faces[:, at]] for at in range(3))
    outward = np.einsum("fa,fa->f", np.cross(second - first, third - first), first - points.mean(axis=0))
    assert (outward > -1e-9).all()
    return points


def test_a_ghost_is_of_the_robot_and_of_what_is_to_move_in_the_colour_of_who_set_it(
    scenery: Scenery, tmp_path: Path
) -> None:
    still, moved = np.zeros(5), np.array([0.0, 0.2, 0.0, 0.0, 0.0])
    steps = [step_of(0, still, still), step_of(1, still, moved), step_of(2, still, moved, SubgoalOverride.PINNED)]
    path = write(tmp_path / "run.mcap", scenery, steps)
    found = {topic: [] for topic in ("/ghost/robot", "/ghost/objects")}
    for topic, entry, message in drawn(path):
        if topic in found:
            assert [deletion.type for deletion in message.deletions] == [1]  # all that its topic showed before
            colours = {each.color.r > 0.5 for entity in message.entities for each in entity.triangles}
            found[topic].append((entry.sequence, [entity.id for entity in message.entities], colours))
    robot = ["subgoal/arm", "subgoal/hand"]
    assert found["/ghost/robot"] == [(0, robot, {False}), (2, robot, {True})]
    assert found["/ghost/objects"] == [(0, [], set()), (1, ["subgoal/cup"], {False}), (2, ["subgoal/cup"], {True})]


def test_the_points_for_rerun_lie_on_the_bodies(scenery: Scenery, tmp_path: Path) -> None:
    path = write(tmp_path / "run.mcap", scenery, [step_of(0, np.zeros(5), np.zeros(5))])
    clouds = {topic: message for topic, _, message in drawn(path) if topic.startswith("/points/")}
    assert set(clouds) == {f"/points/{name}" for name in ("world", "arm", "hand", "cup", "subgoal/arm", "subgoal/hand")}
    for topic, cloud in clouds.items():
        assert cloud.frame_id == topic.removeprefix("/points/")
        kinds = [(each.name, each.offset, each.type) for each in cloud.fields]
        floats, bytes_ = (
            PackedElementField_pb2.PackedElementField.FLOAT32,
            PackedElementField_pb2.PackedElementField.UINT8,
        )
        assert kinds == [
            *((name, 4 * at, floats) for at, name in enumerate("xyz")),
            *((name, 12 + at, bytes_) for at, name in enumerate(("red", "green", "blue", "alpha"))),
        ]
    hand = np.frombuffer(clouds["/points/hand"].data, [("xyz", "<f4", 3), ("rgba", "u1", 4)])["xyz"]
    assert hand.min() >= -1e-6
    on_a_side = np.isclose(hand, 0, atol=1e-6).any(axis=1) | np.isclose(hand.sum(axis=1), 0.2, atol=1e-6)
    assert on_a_side.all()


def test_a_log_without_a_scenery_holds_numbers_alone(tmp_path: Path) -> None:
    assert not list(drawn(write(tmp_path / "run.mcap", None, [step_of(0, np.zeros(5), np.zeros(5))])))
