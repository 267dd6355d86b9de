"""Request schemas of the validation routes."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# As doubles, these scores stay below the 4 MiB of one gRPC message.
MAX_SCORES = 200_000
MAX_METRICS = 16
MAX_P = 10_000
Scores = list[float] | list[list[float]]
MAX_MEMBERS = 256
Key = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class _ValidationBody(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LineageFields(_ValidationBody):
    """Lineage of the scores: digests of their sources and the command."""

    mission_digest: str = Field(min_length=1, max_length=128)
    baseline_digest: str = Field(min_length=1, max_length=128)
    data_digest: str = Field(min_length=1, max_length=128)
    command: str = Field(min_length=1, max_length=2048)


class Sides(_ValidationBody):
    """Scores of one metric: ``[items]``, or ``[seeds][items]``, and the cluster of each item."""

    mission: Scores
    baseline: Scores | None = None
    clusters: list[Key] | None = None
    unit: Name | None = None

    @property
    def total(self) -> int:
        """Number of scores on both sides."""
        return sum(
            len(row) if isinstance(row, list) else 1
            for side in (self.mission, self.baseline or [])
            for row in side
        )

    @model_validator(mode="after")
    def _rows_are_equal(self) -> "Sides":
        for side in (self.mission, self.baseline):
            rows = [row for row in side or () if isinstance(row, list)]
            if len({len(row) for row in rows}) > 1:
                raise ValueError("all seeds must have the same items")
        if (self.clusters is None) != (self.unit is None):
            raise ValueError("clusters and unit belong together; give both or none")
        return self


class CompareBody(_ValidationBody):
    """Body of ``POST /v1/validation/compare``."""

    claim: Key
    metric: str = Field(min_length=1, max_length=64)
    statistic: Literal["difference", "ratio"] = "difference"
    null_value: float | None = None
    mission: Scores
    baseline: Scores
    clusters: list[Key] | None = None
    unit: Name | None = None
    lineage: LineageFields
    family: Name | None = None
    member: Name | None = None

    @property
    def scores(self) -> dict[str, Sides]:
        """Scores by metric, in the form of a gate's."""
        sides = Sides(
            mission=self.mission, baseline=self.baseline, clusters=self.clusters, unit=self.unit
        )
        return {self.metric: sides}

    @model_validator(mode="after")
    def _fits(self) -> "CompareBody":
        _check_total(self.scores)
        return self


class SpecFields(_ValidationBody):
    """Gate that the request defines itself."""

    id: str = Field(min_length=1, max_length=64)
    metrics: list[str] = Field(min_length=1, max_length=MAX_METRICS)
    statistic: Literal["difference", "ratio", "mean", "share"]
    direction: Literal["higher", "lower"]
    target: float
    margin: float
    at_most: float | None = None
    at_least: float | None = None
    min_items: int = Field(ge=2, le=2**31 - 1)
    min_seeds: int = Field(ge=1, le=2**31 - 1)
    unit: Name | None = None


class GateBody(_ValidationBody):
    """Body of ``POST /v1/validation/gate``: a gate of the fleet by id, or a gate of its own."""

    claim: Key
    gate_id: str | None = Field(None, min_length=1, max_length=64)
    spec: SpecFields | None = None
    scores: dict[str, Sides] = Field(min_length=1, max_length=MAX_METRICS)
    lineage: LineageFields
    family: Name | None = None

    @model_validator(mode="after")
    def _fits(self) -> "GateBody":
        if (self.gate_id is None) == (self.spec is None):
            raise ValueError("give gate_id or spec, and not both")
        _check_total(self.scores)
        return self


class ComparisonFields(_ValidationBody):
    """Comparison that a family declares."""

    member: Name
    metric: Name
    statistic: Literal["difference", "ratio"] = "difference"
    null_value: float | None = None


class FamilyBody(_ValidationBody):
    """Body of ``POST /v1/validation/families``: a family and its members, before their data."""

    family: Name
    comparisons: list[ComparisonFields] = Field([], max_length=MAX_MEMBERS)
    gates: list[SpecFields] = Field([], max_length=MAX_MEMBERS)


class CorrectBody(_ValidationBody):
    """Body of ``POST /v1/validation/correct``; without ``p_values``, a family alone."""

    p_values: dict[Key, Annotated[float, Field(ge=0, le=1)]] = Field({}, max_length=MAX_P)
    with_family: bool = False
    family: Name | None = None
    alpha: float | None = Field(None, gt=0, lt=1)
    correction: Literal["benjamini_hochberg", "benjamini_yekutieli"] = "benjamini_hochberg"


def _check_total(scores: Mapping[str, Sides]) -> None:
    total = sum(sides.total for sides in scores.values())
    if total > MAX_SCORES:
        raise ValueError(
            f"scores: {total} given; the limit over HTTP is {MAX_SCORES}; stream more by gRPC"
        )
