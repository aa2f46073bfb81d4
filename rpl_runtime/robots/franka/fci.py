"""Franka's control interface, as franky speaks it: what it raises becomes ours here.

In: a call to the arm or its hand. Out: the same call, failing with an error of this project. It does not know what
the calls do.
"""

import contextlib
from collections.abc import Iterator
from types import ModuleType

from rpl_runtime.errors import RelayError, RobotStopped, require


def franky() -> ModuleType:
    """The vendor's client library.

    Raises:
        MissingExtra: the `franka` extra is not installed.
    """
    return require("franky", "franka")


@contextlib.contextmanager
def translated(what: str, kind: type[RelayError] = RobotStopped) -> Iterator[None]:
    """Raise what franky raises in this block as an error of a kind; its message says `what` and why."""
    library = franky()
    try:
        yield
    except (library.Exception, RuntimeError) as error:  # its motion planner raises a RuntimeError
        why = " ".join(str(error).removeprefix("libfranka: ").split())
        raise kind(f"{what}: {why}") from None
