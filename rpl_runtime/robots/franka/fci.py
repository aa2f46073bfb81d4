"""Franka's control interface, through the vendor's client library franky; its exceptions become this project's."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from rpl_runtime.errors import RelayError, RobotStopped, require

# franky is optional and untyped; the names of its types.
Arm = Any  # franky.Robot
ArmState = Any  # franky.RobotState, in Franka's zeros
Gripper = Any  # franky.Gripper
Command = Any  # franky.BoolFuture
Motion = Any  # franky.JointWaypointMotion


def franky() -> ModuleType:
    """The vendor's client library.

    Raises:
        MissingExtra: the `franka` extra is not installed.
    """
    return require("franky", "franka")


@contextlib.contextmanager
def translated(what: str, kind: type[RelayError] = RobotStopped) -> Iterator[None]:
    """Raise franky's exceptions in the block as errors of a kind; the message says `what` failed and why."""
    library = franky()
    try:
        yield
    except (library.Exception, RuntimeError) as error:  # its motion planner raises a RuntimeError
        why = " ".join(str(error).removeprefix("libfranka: ").split())
        raise kind(f"{what}: {why}") from None
