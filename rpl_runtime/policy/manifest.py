"""The content of a bundle's manifest, as pydantic models with a schema version."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rpl_runtime.files import JsonDict
from rpl_runtime.policy.spec import PolicySpec

SCHEMA_VERSION = 1
PLANNER = "rpl.v1.Planner"  # the service of planner.proto


class Statistics(BaseModel):
    """The distribution of the states in the training data, one number for each dimension.

    novelty.py scores a state x by |W (x - mean)|, where W is the lower triangular matrix `whitening`, scaled so that
    one state in a hundred of the training data scores above 1.
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
            raise ValueError("the whitening must be a triangle: rows of 1, 2, ... numbers, one row for each dimension")
        return self


class Stall(BaseModel):
    """When the policy asks for help (stall.py).

    The limit is a conformal quantile (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005): of
    further episodes like the held-out ones that reached their goal, a share of `rate` at most ask in vain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    limit: float = Field(gt=0)  # of steps without progress, each counted as its state is novel
    rate: float = Field(gt=0, lt=1)
    episodes: int = Field(ge=1)  # held out, that reached their goal
    tolerance: float | None = Field(None, gt=0)  # of a goal without elements [standard deviations of the data]


class Provenance(BaseModel):
    """The origin of a policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    commit: str  # of the code that trained it; ends in "-dirty" if files differed from that commit
    seeds: tuple[int, ...] = ()
    data: tuple[JsonDict, ...] = ()  # name, digest, episodes, steps, licence of each source
    settings: JsonDict = {}
    packages: dict[str, str] = {}
    parents: tuple[str, ...] = ()  # digests of the bundles it was made from


class Measures(BaseModel):
    """Means over episodes, as the model card prints them; an evaluation holds more beside them."""

    mean_steps_ever: float | None = None
    mean_steps_end: float | None = None
    success_ever: float | None = None
    success_end: float | None = None
    intervals: dict[str, tuple[float, float] | None] | None = None
    goals: dict[str, "Measures"] | None = None


class Evaluation(BaseModel):
    """The parts of `evaluation.json` that the model card reads."""

    starts: dict[str, Measures] | None = None
    protocol: JsonDict | None = None


class Manifest(BaseModel):
    """The content of `manifest.json` without its own digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    spec: PolicySpec
    pair_id: str  # digest of both graphs without metadata; stands in each graph's metadata too
    files: dict[str, str]  # name -> SHA-256
    parity: dict[str, float] = {}  # measured when the graphs were exported
    statistics: Statistics | None = None
    # How the products of the low level's inner layers are computed, if not in float32.
    quantized: Literal["int8"] | None = None
    stall: Stall | None = None  # None: the policy never asks for help
    # The service that plans for a low level alone, in states of the spec's names and units; None: there is a high level
    planner: Literal["rpl.v1.Planner"] | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.statistics is not None and len(self.statistics.mean) != self.spec.state.dim:
            raise ValueError("the statistics need one number for each dimension of the state")
        if self.stall is not None and not self.spec.elements and None in (self.statistics, self.stall.tolerance):
            raise ValueError("without elements, asking for help needs the statistics and a tolerance")
        return self
