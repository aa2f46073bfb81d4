"""What a bundle's manifest says.

In: the values an exporter knows. Out: pydantic models with a schema version. It knows neither files nor seals.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from rpl_runtime.spec import PolicySpec

SCHEMA_VERSION = 1


class Statistics(BaseModel):
    """How the states of the training data were distributed, one number for each dimension."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Provenance(BaseModel):
    """Where a policy comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    commit: str  # of the code that trained it; ends in "-dirty" where it was not what was committed
    seeds: tuple[int, ...] = ()
    data: tuple[dict[str, Any], ...] = ()  # name, digest, episodes, steps, licence of each source
    settings: dict[str, Any] = {}
    packages: dict[str, str] = {}
    parents: tuple[str, ...] = ()  # digests of the policies it was distilled from


class Manifest(BaseModel):
    """What `manifest.json` holds, but for its own digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    spec: PolicySpec
    pair_id: str  # digest of both graphs without metadata; stands in each graph's metadata too
    files: dict[str, str]  # name -> SHA-256
    parity: dict[str, float] = {}  # what the exporter's parity gate measured
    statistics: Statistics | None = None
    provenance: Provenance
