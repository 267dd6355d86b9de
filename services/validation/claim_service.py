"""Claim service: computes comparisons and gates, evaluates them in the family, records them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from bem_fleet.acceptance.catalogue import Catalogue
from bem_fleet.acceptance.gate_evaluation import (
    compare_metric,
    evaluate_gate,
    measure_gate,
    weakest_measurement,
)
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.claims import (
    Claim,
    Comparison,
    EffectSizes,
    GateCheck,
    RecordedClaim,
    content_digest,
)
from bem_fleet.services.validation.compute_pool import ComputePool
from bem_fleet.stats.effects import paired_effect
from bem_fleet.stats.fdr import CorrectedPValue, benjamini_hochberg
from fleet import logs
from fleet.errors import UnavailableError

Evaluate = Callable[[Claim, float], Claim]
_LOG = logs.get("validation")
# A claim recorded by another caller meanwhile makes the evaluation start over; it succeeds for one
# caller in every round, so this many failures in a row mean that something else is wrong.
_ATTEMPTS = 64
# Name of a claim in the family before it has an id.
_NEW = ""


class ClaimService:
    """Computes and records claims; equal requests under one key are computed once.

    Args:
        catalogue: Metrics and gates of the fleet.
        ledger: Ledger of recorded claims.
        pool: Threads for computing, and the bound on what is in progress.
        alpha: False discovery rate, between 0 and 1.
        resamples: Number of resamples of each bootstrap.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        ledger: ClaimLedger,
        pool: ComputePool,
        *,
        alpha: float,
        resamples: int,
    ) -> None:
        self.catalogue = catalogue
        self.pool = pool
        self._ledger = ledger
        self._alpha = alpha
        self._resamples = resamples

    async def compare(self, request: Comparison) -> RecordedClaim:
        """Compare, record the claim, and return it with its place in the family.

        Raises:
            InvalidScoresError: The statistic is not defined on these scores.
            FailedPreconditionError: The claim key was used for other content.
            UnavailableError: Redis does not respond.
        """
        digest = await self.pool.compute(lambda: content_digest(request))
        if known := await self._ledger.find(request.claim, digest):
            return await self._with_family(*known)
        claim = await self.pool.compute(lambda: self._compare(request, digest))
        return await self._record(claim, None)

    async def gate(self, request: GateCheck) -> RecordedClaim:
        """Evaluate a gate and record the result; errors as of ``compare``."""
        digest = await self.pool.compute(lambda: content_digest(request))
        if known := await self._ledger.find(request.claim, digest):
            return await self._with_family(*known)
        measured = await self.pool.compute(
            lambda: measure_gate(request.gate, request.scores, resamples=self._resamples)
        )
        claim = Claim(
            key=request.claim,
            digest=digest,
            lineage=request.lineage,
            measured=weakest_measurement(request.gate, measured),
            gate_id=request.gate.id,
        )

        def evaluate(claim: Claim, p_adjusted: float) -> Claim:
            verdict = evaluate_gate(request.gate, measured, p_adjusted, alpha=self._alpha)
            return replace(claim, status=verdict.status, reasons=verdict.reasons)

        return await self._record(claim, evaluate)

    async def correct(
        self, p_values: Mapping[str, float], *, family: bool, alpha: float | None, dependent: bool
    ) -> dict[str, CorrectedPValue]:
        """Adjust the p-values of a request, those of the family, or both together.

        Args:
            p_values: P-values of the request, by name.
            family: Whether the recorded claims join them, named by their ids.
            alpha: False discovery rate; None for the service's own.
            dependent: Whether the p-values may depend on each other in any way.

        Raises:
            InvalidScoresError: A p-value or the rate is out of range.
            UnavailableError: Redis does not respond.
        """
        recorded = await self._ledger.family() if family else {}
        both = {**p_values, **{name: p for name, p in recorded.items() if name not in p_values}}
        rate = self._alpha if alpha is None else alpha
        return await self.pool.compute(lambda: benjamini_hochberg(both, rate, dependent=dependent))

    async def claims(self, after: str, limit: int) -> tuple[list[RecordedClaim], bool]:
        """Return a page of claims, and whether more follow; errors as of ``ClaimLedger.page``."""
        page = await self._ledger.page(after, limit + 1)
        family = await self._ledger.family()
        adjusted = benjamini_hochberg(family, self._alpha)
        recorded = [
            RecordedClaim(identifier, claim, adjusted[identifier].p_adjusted, len(family))
            for identifier, claim in page[:limit]
            # A claim recorded between the two reads is left to the next page.
            if identifier in adjusted
        ]
        return recorded, len(page) > limit

    def _compare(self, request: Comparison, digest: str) -> Claim:
        ((metric, scores),) = request.scores.items()
        measured = compare_metric(
            metric, scores, request.statistic, request.null, resamples=self._resamples
        )
        left = scores.mission.mean(axis=0)
        right = np.zeros_like(left) if scores.baseline is None else scores.baseline.mean(axis=0)
        sizes = paired_effect(left, right)
        effect = EffectSizes(
            d_z=sizes.d_z if math.isfinite(sizes.d_z) else None,
            hedges_g=sizes.hedges_g if math.isfinite(sizes.hedges_g) else None,
            rank_biserial=sizes.rank_biserial,
            wins=sizes.wins,
            losses=sizes.losses,
        )
        no_change = request.null == (1.0 if request.statistic == "ratio" else 0.0)
        return Claim(
            key=request.claim,
            digest=digest,
            lineage=request.lineage,
            measured=measured,
            p_permutation=measured.p_permutation if no_change else None,
            effect=effect,
        )

    async def _record(self, claim: Claim, evaluate: Evaluate | None) -> RecordedClaim:
        """Evaluate within the family as it is at the moment of recording, and record.

        The adjusted p-value depends on the family, so a claim recorded by another caller between
        reading the family and appending makes the evaluation start over.
        """
        claim = replace(claim, request_id=logs.request_id.get())
        for _ in range(_ATTEMPTS):
            family = await self._ledger.family()
            corrected = benjamini_hochberg({**family, _NEW: claim.p}, self._alpha)
            p_adjusted = corrected[_NEW].p_adjusted
            final = evaluate(claim, p_adjusted) if evaluate else claim
            if kept := await self._ledger.append(final, len(family)):
                identifier, record = kept
                if record is not final:
                    return await self._with_family(identifier, record)
                _LOG.info("claim recorded", claim=claim.key, id=identifier, status=final.status)
                return RecordedClaim(identifier, record, p_adjusted, len(family) + 1)
        raise UnavailableError("claims: too many are being recorded at once; retry")

    async def _with_family(self, identifier: str, claim: Claim) -> RecordedClaim:
        family = await self._ledger.family()
        adjusted = benjamini_hochberg(family, self._alpha)[identifier].p_adjusted
        return RecordedClaim(identifier, claim, adjusted, len(family))
