"""Recordings of the kitchen in every format, as one list of demonstrations and a record of where each comes from."""

from collections.abc import Sequence
from pathlib import Path

from rpl_runtime.errors import DemonstrationError
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory, digest, load_folder
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.minari import import_minari, is_minari_folder, is_minari_name
from rpl_train.tasks.kitchen.mjl import import_mjl, import_mjl_folder

# Licences that the publishers of recordings state, by digest.
_LICENCES = {
    "382a410ab0bd58b4d203567815c83c145182f3310ffb80e26100a65f663a80af": (
        "CC BY 4.0 (D4RL kitchen-complete-v0); recordings: google-research/relay-policy-learning, Apache-2.0"
    ),
    "f94703837571f909379b5b68427d31ca3d301099e05075197a10915b139cd1e4": (
        "recordings: google-research/relay-policy-learning, Apache-2.0; as published with MH-AIRL, which states none"
    ),
}


def load_demonstrations(paths: Sequence[Path]) -> Demonstrations:
    """Read recordings of every kind: folders written by `rpl demos`, HDF5 files in D4RL's layout, raw logs (`.mjl`)
    and folders of them, and Minari data sets, by folder or by name.

    A log that cannot be read is left out of its folder; a sentence on it is kept under `left_out` of its source.

    Raises:
        DemonstrationError: a path is none of these, or cannot be read.
        MissingExtra: a format needs a package that is not installed.
    """
    trajectories: list[Trajectory] = []
    sources = []
    for path in paths:
        found, left_out = _load(path)
        trajectories += found
        sources.append(
            {
                "name": path.name if path.exists() else path.as_posix(),
                "digest": digest(found),
                "episodes": len(found),
                "steps": sum(map(len, found)),
                "licence": _LICENCES.get(digest(found), "not stated"),
            }
            | ({"left_out": left_out} if left_out else {})
        )
    if not trajectories:
        raise DemonstrationError("no demonstrations are named; give folders or HDF5 files")
    return Demonstrations(trajectories, sources)


def _load(path: Path) -> tuple[list[Trajectory], list[str]]:
    """The demonstrations at a path, and a sentence for each that could not be read."""
    if path.is_dir():
        if is_minari_folder(path):
            return import_minari(path), []
        if any(path.rglob("*.mjl")):
            return import_mjl_folder(path)
        return load_folder(path), []
    if path.suffix == ".mjl":
        return [import_mjl(path)], []
    if not path.exists() and is_minari_name(path.as_posix()):
        return import_minari(path), []
    return import_d4rl(path), []
