"""The 3D part of the page: robots with their worlds, and the subgoal of each as a translucent second robot.

Each mesh of a body has an instance for each robot, so that many robots cost hardly more than one. Only what has changed
is sent to the browsers; it is found here for all bodies at once, since viser takes half of a picture's time for that.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.tasks.scenery import OPACITY, Poser, Scenery

if TYPE_CHECKING:
    import trimesh
    import viser

TRAIL = (214, 0, 140)  # told apart from both ghosts, also by people who are colour-blind
_FAR, _COARSE = 1.0, 1500  # [m] beyond which a mesh is drawn with about so many vertices
_SPACING = 0.62  # of the extent of a model, between the places of two robots
_Handle = TypeVar("_Handle")  # of viser


class Actor(NamedTuple):
    """One robot to be drawn."""

    name: str
    state: np.ndarray  # (n,)
    subgoal: np.ndarray | None  # (n,)
    colour: tuple[int, int, int]  # of the ghost
    trail: np.ndarray  # (T, 3) [m] the way of the flange


class _Parts(Generic[_Handle]):
    """Meshes, each of one body, with an instance for each robot."""

    def __init__(self) -> None:
        self.meshes: list[tuple[_Handle, int]] = []  # and their bodies
        self._sent: dict[str, np.ndarray] = {}

    def set(self, name: str, values: np.ndarray) -> None:
        """Set a property (robots, bodies, k) of the meshes whose body has other values than before."""
        before = self._sent.get(name)
        changed = np.ones(values.shape[1], dtype=bool)
        if before is not None and before.shape == values.shape:
            changed = (values != before).any(axis=(0, *range(2, values.ndim)))
        for handle, body in self.meshes:
            if changed[body]:
                setattr(handle, name, values[:, body])
        self._sent[name] = values


class Stage:
    """Everything that the page draws.

    Args:
        server: of the page.
        scenery: the task that its robots work at.

    Raises:
        MissingExtra: mjviser is not installed.
    """

    def __init__(self, server: "viser.ViserServer", scenery: Scenery) -> None:
        self._server, self._scenery, self._poses = server, scenery, Poser(scenery)
        self._names: list[str] = []
        self._labels: list[viser.LabelHandle] = []
        self._real: _Parts[viser.BatchedGlbHandle] = _Parts()
        self._ghosts: _Parts[viser.BatchedMeshHandle] = _Parts()
        self._light()
        self._build()
        none = np.zeros((0, 2, 3), dtype=np.float32)
        self._trail = server.scene.add_line_segments("/trail", none, none, thickness=0.008)

    def flange(self, state: np.ndarray) -> np.ndarray:
        """Where the flange is (3,) [m] in a state (n,), in the model's own frame."""
        return self._poses([state]).positions[0, self._scenery.flange]

    def on_click(self, clicked: Callable[[str], None]) -> None:
        """Call a function with the name of an element that somebody clicks."""
        for handle, body in self._real.meshes:
            name = self._scenery.elements.get(body)
            if name is not None:
                handle.on_click(lambda _, name=name: clicked(name))

    def look(self, index: int, robots: int) -> None:
        """Turn every viewer's camera to one of several robots."""
        offset = self._offsets(robots)[index]
        for viewer in self._server.get_clients().values():
            with viewer.atomic():
                viewer.camera.position = self._scenery.eye + offset
                viewer.camera.look_at = self._scenery.look_at + offset

    def show(self, actors: Sequence[Actor]) -> None:
        """Draw robots, in their order."""
        offsets = self._offsets(len(actors))
        real = self._poses([actor.state for actor in actors])
        ghosts = self._poses([actor.state if actor.subgoal is None else actor.subgoal for actor in actors])
        drawn = self._poses.ghosts(real, ghosts).astype(np.float32)
        drawn[[actor.subgoal is None for actor in actors]] = 0.0
        colours = np.array([actor.colour for actor in actors], dtype=np.uint8).reshape(-1, 3)
        for parts, poses in ((self._real, real), (self._ghosts, ghosts)):
            parts.set("batched_positions", (poses.positions + offsets[:, None]).astype(np.float32))
            parts.set("batched_wxyzs", poses.turns.astype(np.float32))
        self._ghosts.set("batched_scales", drawn)
        self._ghosts.set("batched_colors", np.repeat(colours[:, None], drawn.shape[1], axis=1))
        self._show_trails(actors, offsets)
        self._name([actor.name for actor in actors], offsets)

    def _offsets(self, robots: int) -> np.ndarray:
        """Where the world of each robot stands (robots, 3) [m], in rows of a square."""
        side = int(np.ceil(np.sqrt(max(robots, 1))))
        spacing = _SPACING * self._scenery.model.stat.extent
        grid = [(index % side * spacing, -(index // side) * spacing, 0.0) for index in range(robots)]
        return np.array(grid).reshape(-1, 3)

    def _show_trails(self, actors: Sequence[Actor], offsets: np.ndarray) -> None:
        ways, colours = [np.zeros((0, 2, 3))], [np.zeros((0, 2, 3), dtype=np.uint8)]
        for actor, offset in zip(actors, offsets, strict=True):
            if len(actor.trail) > 1:
                points = actor.trail + offset
                ways.append(np.stack([points[:-1], points[1:]], axis=1))
                age = np.linspace(0.25, 1.0, len(points))[:, None] * TRAIL
                colours.append(np.stack([age[:-1], age[1:]], axis=1).astype(np.uint8))
        self._trail.points, self._trail.colors = np.concatenate(ways).astype(np.float32), np.concatenate(colours)

    def _name(self, names: list[str], offsets: np.ndarray) -> None:
        """A label over each of several robots."""
        if names == self._names:
            return
        for label in self._labels:
            label.remove()
        above = np.array([*self._scenery.look_at[:2], self._scenery.look_at[2] + 0.9])
        shown = names if len(names) > 1 else []
        self._labels = [
            self._server.scene.add_label(f"/names/{index}", name, position=above + offset, anchor="bottom-center")
            for index, (name, offset) in enumerate(zip(shown, offsets, strict=False))
        ]
        self._names = names

    def _light(self) -> None:
        scene, scenery = self._server.scene, self._scenery
        scene.set_up_direction("+z")
        scene.configure_default_lights(enabled=False)
        scene.add_light_hemisphere("/light/sky", sky_color=(255, 255, 255), ground_color=(170, 170, 180), intensity=0.8)
        scene.add_light_directional("/light/sun", color=(255, 250, 240), intensity=1.7, position=(-3.0, -4.0, 6.0))
        camera = self._server.initial_camera
        camera.position, camera.look_at, camera.up = scenery.eye, scenery.look_at, (0.0, 0.0, 1.0)
        camera.fov = np.radians(48.0)

    def _build(self) -> None:
        """Add a mesh of each geometry, and its ghost where it can move."""
        shapes = require("mjviser.conversions", "view")
        model, scene = self._scenery.model, self._server.scene
        nowhere = np.zeros((0, 4)), np.zeros((0, 3))  # turns and positions of no instance
        for body, geoms in self._scenery.visible().items():
            looks = shapes.group_geoms_by_visual_compat(model, geoms)
            meshes = [shapes.merge_geoms(model, alike) for alike in looks]
            for number, mesh in enumerate(meshes):
                handle = scene.add_batched_meshes_trimesh(f"/real/{body}/{number}", mesh, *nowhere, lod=_far(mesh))
                self._real.meshes.append((handle, body))
            if not shapes.is_fixed_body(model, body):
                whole = shapes.merge_geoms_hull(model, geoms)
                if whole is None:  # merging takes a good part of the time until the first picture
                    whole = meshes[0] if len(meshes) == 1 else shapes.merge_geoms(model, geoms)
                handle = scene.add_batched_meshes_simple(
                    f"/ghost/{body}",
                    whole.vertices,
                    whole.faces,
                    *nowhere,
                    opacity=OPACITY,
                    cast_shadow=False,
                    receive_shadow=False,
                    lod="off",
                )
                self._ghosts.meshes.append((handle, body))


def _far(mesh: "trimesh.Trimesh") -> "tuple[tuple[float, float], ...] | Literal['off']":
    """How a mesh is drawn from further away than a person would look at its details from."""
    return ((_FAR, _COARSE / len(mesh.vertices)),) if len(mesh.vertices) > 2 * _COARSE else "off"
