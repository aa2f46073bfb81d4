"""Demonstrations with a record of where they come from."""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from rpl_runtime.files import JsonDict
from rpl_train.data.trajectory import Trajectory

PLAY_SETTINGS = "play.json"  # of the demonstrator and its seed, in a folder of play


class Demonstrations(NamedTuple):
    """Demonstrations, and for each source its name, digest, number of episodes and steps, and licence.

    A source that a task's demonstrator played has its settings, too.
    """

    trajectories: list[Trajectory]
    sources: list[JsonDict]


def merged(*lists: Iterable[JsonDict]) -> tuple[JsonDict, ...]:
    """The sources of several lists, each digest once."""
    found: dict[str, JsonDict] = {}
    for source in chain(*lists):
        found.setdefault(source["digest"], source)
    return tuple(found.values())
