"""Pictures of the kitchen, with the subgoal drawn into it as a translucent second robot.

A `Frame` holds all numbers that its picture needs, so recorded episodes can be drawn too. Off-screen rendering needs a
system GL library, which no Python package installs; without one, `Renderer` says how to get it.
"""

import copy
import ctypes.util
import importlib
import os
from types import ModuleType
from typing import Any

import numpy as np

from rpl_runtime.errors import MissingExtra
from rpl_runtime.tasks.kitchen.elements import PERIOD, ROBOT_DIM
from rpl_runtime.tasks.mujoco import GL_LIBRARIES, load_mujoco
from rpl_runtime.tasks.pictures import BACKGROUND, Frame
from rpl_runtime.tasks.scenery import Model

WIDTH, HEIGHT, CAPTION_HEIGHT = 640, 480, 48  # [px] multiples of 16 for video encoders
_GHOST = (0.15, 0.75, 1.0, 0.38)  # red, green, blue, opacity
# An object's ghost is drawn if the subgoal moves the object further than this, or changes its rotation matrix by more.
_MOVED, _TURNED = 0.01, 0.1  # [m], [1]
_DIMMED = 0.75  # without shadows, all lights at full strength bleach the walls


class Renderer:
    """Draws frames.

    Args:
        model: the kitchen's MuJoCo model.

    Raises:
        MissingExtra: no GL library, or not the `sim` extra, is installed.
    """

    def __init__(self, model: Model) -> None:
        self._mujoco = mujoco = load_mujoco()
        self._model = model = copy.copy(model)
        # The model's own buffer has 16 times the pixels and twice the samples, beside a map for shadows: to open it
        # takes half as long again, and a frame more than twice as long, for what looks the same.
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 4, 0
        model.vis.global_.offwidth, model.vis.global_.offheight = WIDTH, HEIGHT
        self._real, self._ghost = mujoco.MjData(model), mujoco.MjData(model)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False  # four fifths of the time of a frame
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False
        self._context, self._opengl = _open_gl(mujoco, model)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._opengl)
        # FrankaKitchen-v1's own view.
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 2.2, 70, -35
        self._camera.lookat[:] = -0.2, 0.5, 2.0

    def draw(self, frame: Frame) -> np.ndarray:
        """The frame as an image (HEIGHT + CAPTION_HEIGHT, WIDTH, 3) uint8."""
        mujoco, scene = self._mujoco, self._scene
        option, perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        for data, qpos in ((self._real, frame.truth), (self._ghost, frame.subgoal)):
            data.qpos[:] = qpos
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_camlight(self._model, data)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._real, option, perturb, self._camera, everything, scene)
        for light in scene.lights[: scene.nlight]:
            light.diffuse *= _DIMMED
        first = scene.ngeom
        mujoco.mjv_addGeoms(self._model, self._ghost, option, perturb, mujoco.mjtCatBit.mjCAT_DYNAMIC, scene)
        for geom in scene.geoms[first : scene.ngeom]:
            geom.matid = -1  # its own colour instead of the material's
            geom.rgba[:] = _GHOST if self._moves(geom.objid) else 0.0
        image = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
        view = mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
        mujoco.mjr_render(view, scene, self._opengl)
        mujoco.mjr_readPixels(image, None, view, self._opengl)
        return np.concatenate([image[::-1], self._caption(frame)])

    def close(self) -> None:
        """Release the GL context."""
        self._opengl.free()
        self._context.free()

    def _moves(self, geom: int) -> bool:
        """Whether a geom belongs to the robot or the subgoal moves it."""
        body = self._model.geom_bodyid[geom]
        joint = self._model.body_jntadr[body]
        if 0 <= joint < ROBOT_DIM:
            return True
        moved = np.linalg.norm(self._ghost.geom_xpos[geom] - self._real.geom_xpos[geom])
        turned = np.abs(self._ghost.geom_xmat[geom] - self._real.geom_xmat[geom]).max()
        return bool(moved > _MOVED or turned > _TURNED)

    def _caption(self, frame: Frame) -> np.ndarray:
        from PIL import Image, ImageDraw, ImageFont

        strip = Image.new("RGB", (WIDTH, CAPTION_HEIGHT), BACKGROUND)
        draw = ImageDraw.Draw(strip)
        font = ImageFont.load_default(14)
        draw.text((10, 13), f"control step {frame.step}  {frame.step * PERIOD:.1f} s", "#9aa3ad", font, anchor="lm")
        draw.rectangle((10, 29, 22, 41), fill="#26bfff")
        draw.text((28, 35), f"subgoal, age {frame.age}", "#9aa3ad", font, anchor="lm")
        draw.text((150, 35), frame.note, "#ffb454", font, anchor="lm")
        x = WIDTH - 10
        for element in reversed(frame.named):
            done = element in frame.done
            x -= draw.textlength(element, font) + 14
            box = (x, 12, x + draw.textlength(element, font) + 12, 36)
            draw.rounded_rectangle(box, 5, fill="#2f9e5b" if done else None, outline="#2f9e5b" if done else "#59616b")
            draw.text((x + 6, 24), element, "white" if done else "#9aa3ad", font, anchor="lm")
            x -= 4
        return np.asarray(strip)


def _open_gl(mujoco: ModuleType, model: Model) -> tuple[Any, Any]:
    """An off-screen GL context: of MUJOCO_GL's kind if that is set, else of a kind whose library the system has."""
    installed = [kind for kind, library in GL_LIBRARIES.items() if ctypes.util.find_library(library)]
    kind = os.environ.get("MUJOCO_GL", "").lower() or next(iter(installed), "osmesa")
    if kind not in (*installed, "glfw"):
        raise MissingExtra(f"rendering by {kind} needs a GL library that is not installed: apt-get install libosmesa6")
    try:
        context = importlib.import_module(f"mujoco.{kind}").GLContext(WIDTH, HEIGHT)
        context.make_current()
        return context, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    # PyOpenGL and mujoco raise these if a library or a display is missing.
    except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
        raise MissingExtra(
            f"rendering by {kind} does not work here ({error}); set MUJOCO_GL to another kind, for example osmesa"
        ) from error
