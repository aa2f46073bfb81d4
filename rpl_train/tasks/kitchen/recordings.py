"""Recordings of the kitchen in the formats of others."""

from pathlib import Path

from rpl_train.data.trajectory import Trajectory
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.minari import import_minari, is_minari_folder, is_minari_name
from rpl_train.tasks.kitchen.mjl import import_mjl, import_mjl_folder


def read(path: Path) -> tuple[list[Trajectory], list[str]] | None:
    """The demonstrations at a path, and a sentence for each that could not be read; None for a folder of `rpl demos`.

    Raises:
        DemonstrationError: the path is not a recording, or cannot be read.
        MissingExtra: its format needs a package that is not installed.
    """
    if path.is_dir():
        if is_minari_folder(path):
            return import_minari(path), []
        if any(path.rglob("*.mjl")):
            return import_mjl_folder(path)
        return None
    if path.suffix == ".mjl":
        return [import_mjl(path)], []
    if not path.exists() and is_minari_name(path.as_posix()):
        return import_minari(path), []
    return import_d4rl(path), []
