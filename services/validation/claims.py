"""What is asked, what is found and what is kept of a claim."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bem_fleet.acceptance.catalogue import GateRule
from bem_fleet.acceptance.gate_evaluation import GateStatus, Measurement
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.stats.distribution import Statistic as OfMeans


@dataclass(frozen=True)
class Lineage:
    """Where scores come from: digests of both artifacts and of the items, and the command."""

    mission_digest: str
    baseline_digest: str
    data_digest: str
    command: str


@dataclass(frozen=True)
class Comparison:
    """Asks how a mission compares with its baseline.

    Attributes:
        claim: Idempotency key.
        lineage: Where the scores come from.
        scores: Of the one metric that is compared.
        statistic: Difference or ratio of means.
        null: Value under the null hypothesis.
    """

    claim: str
    lineage: Lineage
    scores: Mapping[str, PairedScores]
    statistic: OfMeans
    null: float


@dataclass(frozen=True)
class GateQuestion:
    """Asks whether a gate is open.

    Attributes:
        claim: Idempotency key.
        lineage: Where the scores come from.
        scores: Of each of the gate's metrics.
        gate: The gate.
    """

    claim: str
    lineage: Lineage
    scores: Mapping[str, PairedScores]
    gate: GateRule


@dataclass(frozen=True)
class Effect:
    """Effect sizes over the seeds' means; None where nothing varies."""

    d_z: float | None
    hedges_g: float | None
    rank_biserial: float
    wins: float
    losses: float


@dataclass(frozen=True)
class Claim:
    """A claim as it is kept.

    Attributes:
        key: Idempotency key.
        digest: SHA-256 of question and scores.
        lineage: Where the scores came from.
        measured: What was found; for a gate of its weakest metric.
        p_permutation: Of a comparison with no change.
        effect: Of a comparison.
        gate_id: Of a gate, else empty.
        status: Of a gate, at the time of recording.
        reasons: Why a gate did not pass.
        request_id: Of the request that recorded it.
    """

    key: str
    digest: str
    lineage: Lineage
    measured: Measurement
    p_permutation: float | None = None
    effect: Effect | None = None
    gate_id: str = ""
    status: GateStatus | None = None
    reasons: tuple[str, ...] = ()
    request_id: str = ""

    @property
    def p(self) -> float:
        """The p-value that it has in the family.

        Records from before the larger of both was measured hold p by inversion alone, and a
        comparison's sign flips beside it.
        """
        if self.measured.p_inversion is None:
            return max(self.measured.p, self.p_permutation or 0.0)
        return self.measured.p


@dataclass(frozen=True)
class Recorded:
    """A claim with its place in the family.

    Attributes:
        id: Of its record.
        claim: As kept.
        p_adjusted: Over the whole family as it stands now.
        family: Number of claims in the family.
    """

    id: str
    claim: Claim
    p_adjusted: float
    family: int

    @property
    def recorded_unix_ms(self) -> int:
        """When it was recorded: Redis puts its clock into the id."""
        return int(self.id.partition("-")[0])


def content_digest(asked: Comparison | GateQuestion) -> str:
    """Return the SHA-256 of everything that the answer depends on, hexadecimal."""
    if isinstance(asked, GateQuestion):
        question: dict[str, object] = {"gate": asdict(asked.gate)}
    else:
        question = {"statistic": asked.statistic, "null": asked.null}
    question["lineage"] = asdict(asked.lineage)
    question["shapes"] = {name: one.mission.shape for name, one in sorted(asked.scores.items())}
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode())
    for _, one in sorted(asked.scores.items()):
        for side in (one.mission, one.baseline):
            digest.update(b"-" if side is None else b"+" + side.astype("<f8").tobytes())
    return digest.hexdigest()
