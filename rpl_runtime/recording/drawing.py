"""What a log draws by itself in Foxglove and in Rerun: the world of a task, and its subgoal as a translucent ghost.

The messages follow Foxglove's published schemas. Rerun draws no scene, so it gets points on the surfaces of the bodies.
Height fields are not drawn. A texture is drawn as its mean colour.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from rpl_runtime.errors import require
from rpl_runtime.relay.run_state import SubgoalOverride
from rpl_runtime.tasks.mujoco import load_mujoco
from rpl_runtime.tasks.scenery import OPACITY, OPERATOR, POLICY, Model, Poser, Poses, Scenery

_WORLD, _GHOST = "world", "subgoal/"  # the frame of what stands still; how the frames of ghosts begin
_CELL, _COARSE, _NONE = 0.012, 0.025, 1e-7  # [m] vertices drawn as one: of a mesh, of its ghost, of other shapes
_SIDES, _RINGS = 16, 9  # of what is round
_ENDLESS = 10.0  # [m] half the side of a plane without an end
_POINTS, _WORLD_POINTS = 150, 3000  # on a body for Rerun, and on all that stands still
_SKIPPED = 101  # of so many pixels, one counts for a texture's mean colour
_CHANNELS = ("red", "green", "blue", "alpha")
_ROW: Any = np.dtype([*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in _CHANNELS)])

_M = TypeVar("_M", bound=Message)
Channels = dict[str, type[Message]]  # topic -> its messages' class


class Drawing:
    """Draws a run, step by step.

    Raises:
        MissingExtra: foxglove-schemas-protobuf or MuJoCo is not installed.
    """

    def __init__(self, scenery: Scenery) -> None:
        self._pb, self._poser, self._scenery, model = _Schemas(), Poser(scenery), scenery, scenery.model
        moving = [int(body) for body in np.flatnonzero(model.body_weldid)]
        self._frames = {body: model.body(body).name or f"body {body}" for body in moving}
        fine, self._coarse = self._surfaces(_CELL), self._surfaces(_COARSE)
        self._scene = self._update(fine, None)
        self._clouds = {_points(frame): self._cloud(frame, each, None) for frame, each in fine.items()}
        for frame in (self._frames[body] for body in sorted(scenery.robot)):
            if each := self._coarse.get(frame):
                self._clouds[_points(_GHOST + frame)] = self._cloud(_GHOST + frame, each, POLICY)
        self._before: dict[str, object] = {}  # what the latest message of a topic showed

    @property
    def channels(self) -> Channels:
        """The topics of the messages."""
        pb = self._pb
        topics: Channels = {
            "/tf": pb.FrameTransforms,
            "/tf/subgoal": pb.FrameTransforms,
            "/scene": pb.SceneUpdate,
            "/ghost/robot": pb.SceneUpdate,
            "/ghost/objects": pb.SceneUpdate,
        }
        cloud: type[Message] = pb.PointCloud
        return topics | dict.fromkeys(self._clouds, cloud)

    def step(
        self, state: np.ndarray, subgoal: np.ndarray, override: SubgoalOverride, at_ns: int
    ) -> Iterator[tuple[str, Message]]:
        """The messages of a step, each with its topic: a pose of every body that can move, and whatever else changed.

        Args:
            state: (n,)
            subgoal: (n,)
            at_ns: [ns] Unix time of the state.
        """
        real, ghosts = self._poser([state]), self._poser([subgoal])
        colour = OPERATOR if override.lasts else POLICY
        yield "/tf", self._transforms(real, "", at_ns)
        if self._news("/tf/subgoal", subgoal.tobytes()):
            yield "/tf/subgoal", self._transforms(ghosts, _GHOST, at_ns)
        if self._news("/scene", True):
            for topic, message in (("/scene", self._scene), *self._clouds.items()):
                yield topic, _dated(message, at_ns)
        drawn, robot = self._poser.ghosts(real, ghosts)[0], self._scenery.robot
        shown = {body: frame for body, frame in self._frames.items() if drawn[body] and frame in self._coarse}
        for topic, ours in (("/ghost/robot", shown.keys() & robot), ("/ghost/objects", shown.keys() - robot)):
            # A viewer that jumps to a time sees the latest message of each topic alone, so each is whole.
            if self._news(topic, (ours, colour)):
                surfaces = {_GHOST + shown[body]: self._coarse[shown[body]] for body in sorted(ours)}
                yield topic, _dated(self._update(surfaces, colour), at_ns)

    def _news(self, topic: str, shown: object) -> bool:
        before, self._before[topic] = self._before.get(topic), shown
        return before != shown

    def _transforms(self, poses: Poses, prefix: str, at_ns: int) -> Message:
        pb, at = self._pb, _time(at_ns)
        return pb.FrameTransforms(
            transforms=[
                pb.FrameTransform(
                    timestamp=at,
                    parent_frame_id=_WORLD,
                    child_frame_id=prefix + frame,
                    translation=_fields(pb.Vector3, "xyz", poses.positions[0, body]),
                    rotation=_fields(pb.Quaternion, "wxyz", poses.turns[0, body]),
                )
                for body, frame in self._frames.items()
            ]
        )

    def _surfaces(self, cell: float) -> "dict[str, list[_Surface]]":
        """The surfaces of each frame, in its own coordinates; those of bodies that stand still are the world's."""
        model, rest = self._scenery.model, self._poser([self._scenery.rest])
        found: dict[str, list[_Surface]] = {}
        for body, geoms in self._scenery.visible().items():
            frame = self._frames.get(body, _WORLD)
            for geom in geoms:
                points, faces = _shape(model, geom, cell)
                points = points @ _matrix(model.geom_quat[geom]).T + model.geom_pos[geom]
                if frame == _WORLD:
                    points = points @ _matrix(rest.turns[0, body]).T + rest.positions[0, body]
                if len(faces):
                    found.setdefault(frame, []).append(_Surface(points, faces, _colour(model, geom)))
        return found

    def _update(self, surfaces: "dict[str, list[_Surface]]", ghost: tuple[int, int, int] | None) -> Message:
        """A scene of an entity for each frame, in place of the earlier scene of its topic; a ghost is of one colour."""
        pb = self._pb
        entities = [
            pb.SceneEntity(
                frame_id=frame,
                id=frame,
                frame_locked=True,
                triangles=[
                    pb.TriangleListPrimitive(
                        pose=pb.Pose(position=pb.Vector3(), orientation=pb.Quaternion(w=1.0)),
                        points=[_fields(pb.Point3, "xyz", point) for point in each.points],
                        color=_fields(pb.Color, "rgba", _ghostly(ghost) if ghost else each.colour),
                        indices=each.faces.ravel().tolist(),
                    )
                    for each in parts
                ],
            )
            for frame, parts in surfaces.items()
        ]
        return pb.SceneUpdate(deletions=[pb.SceneEntityDeletion(type=pb.SceneEntityDeletion.ALL)], entities=entities)

    def _cloud(self, frame: str, surfaces: "Sequence[_Surface]", ghost: tuple[int, int, int] | None) -> Message:
        pb, count = self._pb, _WORLD_POINTS if frame == _WORLD else _POINTS
        rows = np.concatenate([each.rows(count / len(surfaces), ghost) for each in surfaces])
        float32, uint8 = pb.PackedElementField.FLOAT32, pb.PackedElementField.UINT8
        fields = [
            pb.PackedElementField(name=name, offset=_ROW.fields[name][1], type=uint8 if name in _CHANNELS else float32)
            for name in _ROW.names
        ]
        pose = pb.Pose(position=pb.Vector3(), orientation=pb.Quaternion(w=1.0))
        return pb.PointCloud(frame_id=frame, pose=pose, point_stride=_ROW.itemsize, fields=fields, data=rows.tobytes())


class _Schemas:
    """Foxglove's message classes by name."""

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__[name] = getattr(require(f"foxglove_schemas_protobuf.{name}_pb2", "record"), name)
        return found


class _Surface:
    """A surface of one colour."""

    def __init__(self, points: np.ndarray, faces: np.ndarray, colour: np.ndarray) -> None:
        self.points = points  # (V, 3) [m]
        self.faces = faces  # (F, 3) indices of points, counterclockwise from outside
        self.colour = colour  # (4,) red, green, blue, alpha, 0 to 1

    def rows(self, count: float, ghost: tuple[int, int, int] | None) -> np.ndarray:
        """About so many points, evenly over the surface."""
        corners, rng = self.points[self.faces], np.random.default_rng(0)
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        chosen = rng.choice(len(areas), size=max(1, round(count)), p=areas / areas.sum())
        weights = rng.dirichlet((1.0, 1.0, 1.0), len(chosen))
        rows: Any = np.zeros(len(chosen), dtype=_ROW)
        for axis, values in zip("xyz", np.einsum("pc,pca->ap", weights, corners[chosen]), strict=True):
            rows[axis] = values
        for channel, value in zip(_CHANNELS, _ghostly(ghost) if ghost else self.colour, strict=True):
            rows[channel] = round(255 * float(value))
        return rows


def _points(frame: str) -> str:
    """The topic of the points of a frame: Rerun warns of blanks."""
    return f"/points/{frame}".replace(" ", "_")


def _ghostly(colour: tuple[int, int, int]) -> np.ndarray:
    return np.array([*(part / 255 for part in colour), OPACITY])


def _fields(kind: type[_M], names: str, values: np.ndarray) -> _M:
    return kind(**dict(zip(names, values.tolist(), strict=True)))


def _time(at_ns: int) -> Timestamp:
    return Timestamp(seconds=at_ns // 10**9, nanos=at_ns % 10**9)


def _dated(message: Any, at_ns: int) -> Any:
    at = _time(at_ns)
    for part in getattr(message, "entities", [message]):
        part.timestamp.CopyFrom(at)
    for part in getattr(message, "deletions", ()):
        part.timestamp.CopyFrom(at)
    return message


def _matrix(turn: np.ndarray) -> np.ndarray:
    """The rotation matrix (3, 3) of a quaternion wxyz."""
    w, x, y, z = turn / np.linalg.norm(turn)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _colour(model: Model, geom: int) -> np.ndarray:
    """(4,) of a geom, as MuJoCo draws it: its material's, times its texture's mean; without a material its own."""
    material = int(model.geom_matid[geom])
    if material < 0:
        return model.geom_rgba[geom].astype(float)
    colour, texture = model.mat_rgba[material].astype(float), int(model.mat_texid[material].max())
    if texture >= 0:
        size = int(model.tex_width[texture] * model.tex_height[texture] * model.tex_nchannel[texture])
        start = int(model.tex_adr[texture])
        pixels = model.tex_data[start : start + size].reshape(-1, int(model.tex_nchannel[texture]))
        colour[:3] *= pixels[::_SKIPPED, :3].mean(axis=0) / 255
    return colour


def _shape(model: Model, geom: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a geom in its own frame: points (V, 3) [m] and faces (F, 3).

    Args:
        cell: [m] within which the vertices of a mesh are drawn as one.
    """
    kinds, kind, size = load_mujoco().mjtGeom, model.geom_type[geom], model.geom_size[geom]
    polar = np.linspace(0.0, np.pi, _RINGS)
    ball, can = np.stack([np.sin(polar), np.cos(polar)], axis=1), np.array([[0, 1], [1, 1], [1, -1], [0, -1]])
    if kind == kinds.mjGEOM_MESH:
        mesh = int(model.geom_dataid[geom])
        first, face = int(model.mesh_vertadr[mesh]), int(model.mesh_faceadr[mesh])
        points = model.mesh_vert[first : first + int(model.mesh_vertnum[mesh])].astype(float)
        return _merged(points, model.mesh_face[face : face + int(model.mesh_facenum[mesh])], cell)
    if kind == kinds.mjGEOM_PLANE:
        return _turned(can, 4, np.array([size[0] or _ENDLESS, size[1] or _ENDLESS, _NONE * 2]))
    if kind == kinds.mjGEOM_BOX:
        return _turned(can, 4, size)
    if kind == kinds.mjGEOM_CYLINDER:
        return _turned(can, _SIDES, size[[0, 0, 1]])
    if kind == kinds.mjGEOM_CAPSULE:
        half, end = _RINGS // 2, np.array([0.0, size[1]])
        profile = np.concatenate([ball[: half + 1] * size[0] + end, ball[half:] * size[0] - end])
        return _turned(profile, _SIDES, np.ones(3))
    if kind in (kinds.mjGEOM_SPHERE, kinds.mjGEOM_ELLIPSOID):
        return _turned(ball, _SIDES, size[[0, 0, 0]] if kind == kinds.mjGEOM_SPHERE else size)
    return np.zeros((0, 3)), np.zeros((0, 3), dtype=int)


def _turned(profile: np.ndarray, sides: int, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A profile (K, 2) of radius and height turned about z; four sides make a square that encloses its circle."""
    angles = np.pi / 4 + 2 * np.pi * np.arange(sides) / sides
    reach = np.sqrt(2.0) if sides == 4 else 1.0
    radius, height = profile[:, :1] * reach, profile[:, 1:]
    rings = np.stack([radius * np.cos(angles), radius * np.sin(angles), height + 0 * angles], axis=2)
    upper = np.arange(sides) + sides * np.arange(len(profile) - 1)[:, None]
    after = np.roll(upper, -1, axis=1)
    corners = np.stack([upper, upper + sides, after + sides, upper, after + sides, after], axis=2)
    return _merged(rings.reshape(-1, 3) * scale, corners.reshape(-1, 3), _NONE)


def _merged(points: np.ndarray, faces: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """The surface with the points of each cell of a grid drawn as one, their mean, and without faces that vanish."""
    grid = np.round(points / cell).astype(np.int64)
    cells = _numbered(grid - grid.min(axis=0))
    count = np.bincount(cells)
    means = np.stack([np.bincount(cells, weights=axis) / count for axis in points.T], axis=1)
    faces = cells[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    return means, faces[np.unique(_numbered(faces), return_index=True)[1]]


def _numbered(rows: np.ndarray) -> np.ndarray:
    """The number of each row (N, 3) of whole numbers from 0 on; equal rows have the same."""
    key = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        key = np.unique(key * (column.max(initial=0) + 1) + column, return_inverse=True)[1].ravel()
    return key
