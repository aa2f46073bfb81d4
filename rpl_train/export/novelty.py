"""Add the whitening of the out-of-distribution score (rpl_runtime/policy/novelty.py) to an older bundle.

The graphs stay the same, byte for byte.
"""

from pathlib import Path

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle, write_bundle
from rpl_runtime.policy.manifest import Provenance
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations


def add_novelty(bundle: Bundle, demonstrations: Demonstrations) -> Bundle:
    """Write the bundle again, in its place, with a new digest. Its evaluation is dropped and must be made again.

    Raises:
        DemonstrationError: the manifest names other demonstrations.
    """
    check_sources(bundle.path, bundle.manifest.provenance, demonstrations)
    manifest = bundle.manifest
    fitted = Pool(demonstrations.trajectories, bundle.spec, PoolConfig()).statistics
    if manifest.statistics is not None:
        fitted = manifest.statistics.model_copy(update={"whitening": fitted.whitening})
    manifest = manifest.model_copy(update={"statistics": fitted})
    return write_bundle(bundle.path, manifest, bundle.files.get(HIGH), bundle.files[LOW])


def check_sources(path: Path, provenance: Provenance, demonstrations: Demonstrations) -> None:
    """
    Raises:
        DemonstrationError: the bundle or run at the path names other demonstrations.
    """
    named = {source["digest"] for source in provenance.data if "digest" in source}
    given = {source["digest"] for source in demonstrations.sources}
    if named and given != named:
        raise DemonstrationError(
            f"the demonstrations have the digests {_short(given)}; {path} learned from {_short(named)}"
        )


def _short(digests: set[str]) -> str:
    return ", ".join(sorted(digest[:12] for digest in digests))
