"""Finds what a question asks for, judges it within the whole family and has it recorded."""

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
from bem_fleet.services.validation.claims import (
    Claim,
    Comparison,
    Effect,
    GateQuestion,
    Recorded,
    content_digest,
)
from bem_fleet.services.validation.desk import Desk
from bem_fleet.services.validation.ledger import Ledger
from bem_fleet.stats.effects import paired_effect
from bem_fleet.stats.fdr import CorrectedPValue, benjamini_hochberg
from fleet import logs
from fleet.errors import UnavailableError

Judge = Callable[[Claim, float], Claim]
_LOG = logs.get("validation")
# Claims that others record meanwhile make the verdict start over; this many in a row never come.
_ATTEMPTS = 64
# Name that a claim has in the family before it has an id.
_NEW = ""


class Examiner:
    """Answers questions; equal questions under one key are found once.

    Args:
        catalogue: The fleet's metrics and gates.
        ledger: Where claims are kept.
        desk: Where they are computed.
        alpha: False discovery rate.
        resamples: Of each bootstrap.
    """

    def __init__(
        self, catalogue: Catalogue, ledger: Ledger, desk: Desk, *, alpha: float, resamples: int
    ) -> None:
        self.catalogue = catalogue
        self.desk = desk
        self._ledger = ledger
        self._alpha = alpha
        self._resamples = resamples

    async def compare(self, asked: Comparison) -> Recorded:
        """Compare, record, and place the claim in the family.

        Raises:
            InvalidScoresError: The statistic is not defined on these scores.
            FailedPreconditionError: The claim key stands for other content.
            UnavailableError: Redis does not answer.
        """
        digest = await self.desk.compute(lambda: content_digest(asked))
        if known := await self._ledger.find(asked.claim, digest):
            return await self._placed(*known)
        claim = await self.desk.compute(lambda: self._compared(asked, digest))
        return await self._recorded(claim, None)

    async def gate(self, asked: GateQuestion) -> Recorded:
        """Judge a gate and record the verdict; errors as of ``compare``."""
        digest = await self.desk.compute(lambda: content_digest(asked))
        if known := await self._ledger.find(asked.claim, digest):
            return await self._placed(*known)
        measured = await self.desk.compute(
            lambda: measure_gate(asked.gate, asked.scores, resamples=self._resamples)
        )
        claim = Claim(
            key=asked.claim,
            digest=digest,
            lineage=asked.lineage,
            measured=weakest_measurement(asked.gate, measured),
            gate_id=asked.gate.id,
        )

        def judged(unjudged: Claim, p_adjusted: float) -> Claim:
            verdict = evaluate_gate(asked.gate, measured, p_adjusted, alpha=self._alpha)
            return replace(unjudged, status=verdict.status, reasons=verdict.reasons)

        return await self._recorded(claim, judged)

    async def correct(
        self, given: Mapping[str, float], *, family: bool, alpha: float | None, dependent: bool
    ) -> dict[str, CorrectedPValue]:
        """Adjust given p-values, the family's, or both together.

        Args:
            given: By name.
            family: Whether the recorded claims belong to it; their names are their ids.
            alpha: False discovery rate; None for the service's own.
            dependent: Whether to allow any dependence.

        Raises:
            InvalidScoresError: A p-value or the rate is out of range.
            UnavailableError: Redis does not answer.
        """
        recorded = await self._ledger.family() if family else {}
        both = {**given, **{name: p for name, p in recorded.items() if name not in given}}
        rate = self._alpha if alpha is None else alpha
        return await self.desk.compute(lambda: benjamini_hochberg(both, rate, dependent=dependent))

    async def claims(self, after: str, limit: int) -> tuple[list[Recorded], bool]:
        """Return a page of claims and whether more follow; errors as of ``Ledger.page``."""
        page = await self._ledger.page(after, limit + 1)
        family = await self._ledger.family()
        adjusted = benjamini_hochberg(family, self._alpha)
        recorded = [
            Recorded(identifier, claim, adjusted[identifier].p_adjusted, len(family))
            for identifier, claim in page[:limit]
            # Recorded between the two look-ups: the next page has it.
            if identifier in adjusted
        ]
        return recorded, len(page) > limit

    def _compared(self, asked: Comparison, digest: str) -> Claim:
        ((metric, scores),) = asked.scores.items()
        measured = compare_metric(
            metric, scores, asked.statistic, asked.null, resamples=self._resamples
        )
        left = scores.mission.mean(axis=0)
        right = np.zeros_like(left) if scores.baseline is None else scores.baseline.mean(axis=0)
        found = paired_effect(left, right)
        effect = Effect(
            d_z=found.d_z if math.isfinite(found.d_z) else None,
            hedges_g=found.hedges_g if math.isfinite(found.hedges_g) else None,
            rank_biserial=found.rank_biserial,
            wins=found.wins,
            losses=found.losses,
        )
        no_change = asked.null == (1.0 if asked.statistic == "ratio" else 0.0)
        return Claim(
            key=asked.claim,
            digest=digest,
            lineage=asked.lineage,
            measured=measured,
            p_permutation=measured.p_permutation if no_change else None,
            effect=effect,
        )

    async def _recorded(self, claim: Claim, judged: Judge | None) -> Recorded:
        """Judge within the family as it is at the moment of recording, and record."""
        claim = replace(claim, request_id=logs.request_id.get())
        for _ in range(_ATTEMPTS):
            family = await self._ledger.family()
            corrected = benjamini_hochberg({**family, _NEW: claim.p}, self._alpha)
            p_adjusted = corrected[_NEW].p_adjusted
            final = judged(claim, p_adjusted) if judged else claim
            if kept := await self._ledger.append(final, len(family)):
                identifier, record = kept
                if record is not final:
                    return await self._placed(identifier, record)
                _LOG.info("claim recorded", claim=claim.key, id=identifier, status=final.status)
                return Recorded(identifier, record, p_adjusted, len(family) + 1)
        raise UnavailableError("too many claims are being recorded at once")

    async def _placed(self, identifier: str, claim: Claim) -> Recorded:
        family = await self._ledger.family()
        adjusted = benjamini_hochberg(family, self._alpha)[identifier].p_adjusted
        return Recorded(identifier, claim, adjusted, len(family))
