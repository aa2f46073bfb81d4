"""Recordings of every kind, as one list of demonstrations and a record of where each comes from.

In: paths. Out: `Demonstrations`. It knows which importer reads which kind, and the licences of public recordings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rpl_runtime.errors import DemonstrationError
from rpl_train.demos.d4rl import import_d4rl
from rpl_train.demos.trajectory import Trajectory, digest, load_folder

# Digests of public recordings, as `digest` computes them, and what their publishers say of them.
_LICENCES = {
    "382a410ab0bd58b4d203567815c83c145182f3310ffb80e26100a65f663a80af": (
        "CC BY 4.0 (D4RL kitchen-complete-v0); recordings: google-research/relay-policy-learning, Apache-2.0"
    ),
    "f94703837571f909379b5b68427d31ca3d301099e05075197a10915b139cd1e4": (
        "recordings: google-research/relay-policy-learning, Apache-2.0; as published with MH-AIRL, which states none"
    ),
}


class Demonstrations(NamedTuple):
    """Demonstrations, and for each source its name, digest, number of episodes and steps."""

    trajectories: list[Trajectory]
    sources: list[dict[str, Any]]


def load_demonstrations(paths: Sequence[Path]) -> Demonstrations:
    """Read folders written by `rpl demos` and HDF5 files in D4RL's layout.

    Raises:
        DemonstrationError: a path is neither, or what it holds cannot be read.
    """
    trajectories: list[Trajectory] = []
    sources = []
    for path in paths:
        found = load_folder(path) if path.is_dir() else import_d4rl(path)
        trajectories += found
        sources.append(
            {
                "name": path.name,
                "digest": digest(found),
                "episodes": len(found),
                "steps": sum(map(len, found)),
                "licence": _LICENCES.get(digest(found), "not stated"),
            }
        )
    if not trajectories:
        raise DemonstrationError("no demonstrations are named; give folders or HDF5 files")
    return Demonstrations(trajectories, sources)
