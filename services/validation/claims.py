"""Claims: the comparison or gate check requested, and the record that is kept of it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from bem_fleet.acceptance.catalogue import GateRule
from bem_fleet.acceptance.gate_evaluation import GateStatus, Measurement
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.stats.distribution import Statistic as MeanStatistic
from bem_fleet.stats.item_clusters import number_clusters

GATES_FAMILY = "gates"
"""Name of the family whose members are the gates of the catalogue."""

LARGEST_FIGURE = 1e15
"""Largest absolute figure of a record: every reader's float and every table holds it."""

# Conditions of gates that older records and declarations do not have.
_LATER_CONDITIONS = ("unit", "min_clusters", "min_baseline", "power")
_NO_DEFAULT = object()


@dataclass(frozen=True)
class Lineage:
    """Origin of scores.

    Attributes:
        mission_digest: Digest of the mission's artifact.
        baseline_digest: Digest of the baseline's artifact.
        data_digest: Digest of the items.
        command: Command that produced the scores.
    """

    mission_digest: str
    baseline_digest: str
    data_digest: str
    command: str


@dataclass(frozen=True)
class Comparison:
    """Request to compare a mission with its baseline.

    Attributes:
        claim: Key of the claim.
        lineage: Origin of the scores.
        scores: Scores of the one metric that is compared, by its name.
        statistic: Difference or ratio of means.
        null: Value of the statistic under the null hypothesis.
        family: Declared family; empty outside of all families.
        member: Member of the family; empty outside of all families.
    """

    claim: str
    lineage: Lineage
    scores: Mapping[str, PairedScores]
    statistic: MeanStatistic
    null: float
    family: str = ""
    member: str = ""

    @property
    def terms(self) -> dict[str, object]:
        """What the comparison asks, without scores: what a family declares of it."""
        (metric,) = self.scores
        return comparison_terms(metric, self.statistic, self.null)


@dataclass(frozen=True)
class GateCheck:
    """Request to evaluate a gate.

    Attributes:
        claim: Key of the claim.
        lineage: Origin of the scores.
        scores: Scores of each of the gate's metrics, by name.
        gate: Gate to be evaluated.
        family: Family of the gate: the catalogue's, or a declared one.
    """

    claim: str
    lineage: Lineage
    scores: Mapping[str, PairedScores]
    gate: GateRule
    family: str = GATES_FAMILY

    @property
    def member(self) -> str:
        """Member of the family: the gate's id."""
        return self.gate.id

    @property
    def terms(self) -> dict[str, object]:
        """What the gate asks, without scores: what a family declares of it."""
        return gate_terms(self.gate)


@dataclass(frozen=True)
class EffectSizes:
    """Effect sizes over the means of the seeds.

    Attributes:
        d_z: Cohen's d_z; None if the differences do not vary.
        hedges_g: Hedges' correction of d_z for few items; None if the differences do not vary.
        rank_biserial: Matched-pairs rank-biserial correlation, -1 to 1.
        wins: Share of items on which the mission scores higher.
        losses: Share of items on which the mission scores lower.
    """

    d_z: float | None
    hedges_g: float | None
    rank_biserial: float
    wins: float
    losses: float


@dataclass(frozen=True)
class Claim:
    """Record of a claim.

    Attributes:
        key: Key of the claim, a name for its content.
        digest: SHA-256 of question, scores and their sources' digests, hexadecimal.
        lineage: Origin of the scores.
        measured: Measurement; for a gate, of its weakest metric.
        p_permutation: P-value by sign flips, for a comparison against no change.
        effect: Effect sizes, for a comparison.
        gate_id: Gate id; empty for a comparison.
        status: Result of the gate at the time of recording; None for a comparison.
        reasons: Conditions that the gate did not meet.
        request_id: Id of the request that recorded the claim.
        family: Family; empty outside of all families, and in old records.
        member: Member of the family; empty outside of all families, and in old records.
    """

    key: str
    digest: str
    lineage: Lineage
    measured: Measurement
    p_permutation: float | None = None
    effect: EffectSizes | None = None
    gate_id: str = ""
    status: GateStatus | None = None
    reasons: tuple[str, ...] = ()
    request_id: str = ""
    family: str = ""
    member: str = ""

    @property
    def p(self) -> float:
        """P-value in the family.

        Older records have the p-value by inversion in ``measured`` and the one by sign flips
        beside it; the family takes the larger one.
        """
        if self.measured.p_inversion is None:
            return max(self.measured.p, self.p_permutation or 0.0)
        return self.measured.p


@dataclass(frozen=True)
class RecordedClaim:
    """A claim with its place in the family.

    Attributes:
        id: Record id.
        claim: The recorded claim.
        p_adjusted: P-value adjusted over the current family.
        family: Number of members of the family.
        attempts: Number of claims that are recorded for the member, this one included.
        family_name: Name of the family; empty outside of all families.
        member: Member of the family; the record id outside of all families.
    """

    id: str
    claim: Claim
    p_adjusted: float
    family: int
    attempts: int = 1
    family_name: str = ""
    member: str = ""

    @property
    def recorded_unix_ms(self) -> int:
        """Time of recording in milliseconds since the epoch, which Redis puts into the id."""
        return int(self.id.partition("-")[0])


def comparison_terms(metric: str, statistic: MeanStatistic, null: float) -> dict[str, object]:
    """Return what a comparison asks, without scores."""
    return {"metric": metric, "statistic": statistic, "null": null}


def gate_terms(gate: GateRule) -> dict[str, object]:
    """Return what a gate asks, without scores.

    Conditions that gates gained later are left out where they ask nothing: a family that was
    declared before them keeps its terms, and a claim its digest.
    """
    later = {one.name: one.default for one in fields(GateRule) if one.name in _LATER_CONDITIONS}
    terms = asdict(gate)
    return {name: value for name, value in terms.items() if later.get(name, _NO_DEFAULT) != value}


def content_digest(request: Comparison | GateCheck) -> str:
    """Return the SHA-256 of a claim's content, hexadecimal.

    The content is the question, the scores with the partition of their items into clusters, and
    the digests of mission, baseline and items. Who asks, under which key or with which command
    line, and how clusters are numbered is not part of it.
    """
    content: dict[str, object] = {"terms": request.terms}
    origin = asdict(request.lineage)
    del origin["command"]
    content["lineage"] = origin
    content["shapes"] = {name: one.mission.shape for name, one in sorted(request.scores.items())}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for _, one in sorted(request.scores.items()):
        if one.clusters is not None:
            units = [one.unit, *map(int, number_clusters(one.clusters, len(one.clusters)))]
            digest.update(json.dumps(units).encode())
        for side in (one.mission, one.baseline):
            # The marker keeps a missing baseline apart from an empty one; the byte order is fixed
            # so that machines agree. Adding 0 makes -0 the 0 that it equals.
            digest.update(b"-" if side is None else b"+" + (side + 0.0).astype("<f8").tobytes())
    return digest.hexdigest()


def figure_problem(claim: Claim) -> str:
    """Return which figure of a claim is impossible; empty if all figures are in range."""
    for name, value in _numbers("", asdict(claim)):
        if not math.isfinite(value) or abs(value) > LARGEST_FIGURE:
            return f"{name} is {value:g}; figures are finite and within {LARGEST_FIGURE:g}"
    measured = claim.measured
    p_values = {
        "measured.p": measured.p,
        "measured.p_inversion": measured.p_inversion,
        "measured.p_permutation": measured.p_permutation,
        "p_permutation": claim.p_permutation,
    }
    for name, p in p_values.items():
        if p is not None and not 0 <= p <= 1:
            return f"{name} is {p:g}; a p-value lies in [0, 1]"
    if min(measured.items, measured.seeds) < 1:
        return f"measured has {measured.items} items and {measured.seeds} seeds; at least 1 each"
    return ""


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield every float of a record with its path."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{name}.{key}".lstrip("."), inner)
