"""What a bundle's manifest says.

In: the values an exporter knows. Out: pydantic models with a schema version. It knows neither files nor seals.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from rpl_runtime.policy.spec import PolicySpec

SCHEMA_VERSION = 1


class Statistics(BaseModel):
    """How the states of the training data were distributed, one number for each dimension.

    The whitening is what novelty.py scores states with: a state x lies |W (x - mean)| from the training data, for the
    lower triangular W whose rows these are, scaled so that one state in a hundred of the training data lies beyond 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...] | None = None  # row i has i + 1 numbers; None: states cannot be scored

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.whitening is not None and [len(row) for row in self.whitening] != list(range(1, len(self.mean) + 1)):
            raise ValueError("the whitening is a triangle: 1, 2, ... numbers, and a row for each dimension")
        return self


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.statistics is not None and len(self.statistics.mean) != self.spec.state.dim:
            raise ValueError("the statistics need one number for each dimension of the state")
        return self
