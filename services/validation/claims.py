"""Claims: the comparison or gate check requested, and the record that is kept of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bem_fleet.acceptance.catalogue import GateRule
from bem_fleet.acceptance.gate_evaluation import GateStatus, Measurement
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.stats.distribution import Statistic as MeanStatistic


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
        claim: Idempotency key.
        lineage: Origin of the scores.
        scores: Scores of the one metric that is compared, by its name.
        statistic: Difference or ratio of means.
        null: Value of the statistic under the null hypothesis.
    """

    claim: str
    lineage: Lineage
    scores: Mapping[str, PairedScores]
    statistic: MeanStatistic
    null: float


@dataclass(frozen=True)
class GateCheck:
    """Request to evaluate a gate.

    Attributes:
        claim: Idempotency key.
        lineage: Origin of the scores.
        scores: Scores of each of the gate's metrics, by name.
        gate: Gate to be evaluated.
    """

    claim: str
    lineage: Lineage
    scores: Mapping[str, PairedScores]
    gate: GateRule


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
        key: Idempotency key.
        digest: SHA-256 of request and scores, hexadecimal.
        lineage: Origin of the scores.
        measured: Measurement; for a gate, of its weakest metric.
        p_permutation: P-value by sign flips, for a comparison against no change.
        effect: Effect sizes, for a comparison.
        gate_id: Gate id; empty for a comparison.
        status: Result of the gate at the time of recording; None for a comparison.
        reasons: Conditions that the gate did not meet.
        request_id: Id of the request that recorded the claim.
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
        family: Number of claims in the family.
    """

    id: str
    claim: Claim
    p_adjusted: float
    family: int

    @property
    def recorded_unix_ms(self) -> int:
        """Time of recording in milliseconds since the epoch, which Redis puts into the id."""
        return int(self.id.partition("-")[0])


def content_digest(request: Comparison | GateCheck) -> str:
    """Return the SHA-256 of everything that the result depends on, hexadecimal."""
    if isinstance(request, GateCheck):
        content: dict[str, object] = {"gate": asdict(request.gate)}
    else:
        content = {"statistic": request.statistic, "null": request.null}
    content["lineage"] = asdict(request.lineage)
    content["shapes"] = {name: one.mission.shape for name, one in sorted(request.scores.items())}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for _, one in sorted(request.scores.items()):
        for side in (one.mission, one.baseline):
            # The marker keeps a missing baseline apart from an empty one; the byte order is fixed
            # so that machines agree.
            digest.update(b"-" if side is None else b"+" + side.astype("<f8").tobytes())
    return digest.hexdigest()
