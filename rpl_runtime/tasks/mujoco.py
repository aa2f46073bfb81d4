"""MuJoCo, imported so that it needs no library to draw and starts no process."""

import ctypes.util
import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

from rpl_runtime.errors import require

GL_LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}  # value of MUJOCO_GL -> its system library
_IMPORTING = threading.Lock()  # the environment must not be swapped by two threads at once


def load_mujoco(module: str = "mujoco") -> ModuleType:
    """The module itself, or another one that imports it.

    It reads MUJOCO_GL on import, and fails if it names a library that the system lacks; a simulator that draws nothing
    needs none. GLFW asks each of its libraries in a process of its own, which Ctrl-C would end with a traceback, unless
    PYGLFW_LIBRARY names one.

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """
    with _IMPORTING:
        if module in sys.modules:
            return sys.modules[module]
        wanted = os.environ.get("MUJOCO_GL", "")
        given = {"PYGLFW_LIBRARY": glfw} if (glfw := _glfw_library()) else {}
        if wanted.lower() in GL_LIBRARIES and not ctypes.util.find_library(GL_LIBRARIES[wanted.lower()]):
            given["MUJOCO_GL"] = "disable"
        before = {name: os.environ.get(name) for name in given}
        os.environ |= given
        try:
            return require(module, "sim")
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


def _glfw_library() -> str:
    """The file of the library inside the GLFW package, or "" where there is none or the environment names another."""
    found = importlib.util.find_spec("glfw")
    if found is None or found.origin is None or any(name.startswith("PYGLFW_LIBRARY") for name in os.environ):
        return ""
    return str(next(Path(found.origin).parent.glob("x11/libglfw*.so*"), ""))
