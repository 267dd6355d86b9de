"""Claim service: computes comparisons and gates, evaluates them in the family, records them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from bem_fleet.acceptance.catalogue import Catalogue
from bem_fleet.acceptance.gate_evaluation import (
    compare_metric,
    evaluate_gate,
    measure_gate,
    weakest_measurement,
)
from bem_fleet.services.validation.claim_families import (
    AdjustedPValue,
    FamilyEntry,
    adjust,
    family_entry,
    lost_gates,
    member_p_values,
)
from bem_fleet.services.validation.claim_ledger import ClaimLedger, RecordFault
from bem_fleet.services.validation.claims import (
    GATES_FAMILY,
    Claim,
    Comparison,
    EffectSizes,
    GateCheck,
    RecordedClaim,
    content_digest,
)
from bem_fleet.services.validation.compute_pool import ComputePool
from bem_fleet.services.validation.declared_families import (
    DeclaredFamily,
    Terms,
    check_member,
    declare_family,
    find_family,
)
from bem_fleet.stats.effects import paired_effect
from bem_fleet.stats.fdr import CorrectedPValue, benjamini_hochberg
from fleet import logs
from fleet.errors import FailedPreconditionError, UnavailableError
from prometheus_client import Gauge

Evaluate = Callable[[Claim, float], Claim]
_LOG = logs.get("validation")
LOST = Gauge(
    "bem_validation_gates_lost",
    "1 for a gate that was passed and is not significant now.",
    ["gate"],
)
# A claim recorded by another caller meanwhile makes the evaluation start over; it succeeds for one
# caller in every round, so this many failures in a row mean that something else is wrong.
_ATTEMPTS = 64
# Id of a claim in the family before it has one.
_NEW = "new"


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
            InvalidScoresError: The statistic is not defined on these scores, or out of range.
            FailedPreconditionError: The key names other content, the content was recorded outside
                of the family, or the family did not declare this.
            UnavailableError: Redis does not respond.
        """
        await self._check_declared(request)
        digest = await self.pool.compute(lambda: content_digest(request))
        if known := await self._ledger.find(request.claim, digest):
            return await self._recorded(*known, request.family)
        claim = await self.pool.compute(lambda: self._compare(request, digest))
        return await self._record(claim, None)

    async def gate(self, request: GateCheck) -> RecordedClaim:
        """Evaluate a gate and record the result; errors as of ``compare``."""
        await self._check_declared(request)
        digest = await self.pool.compute(lambda: content_digest(request))
        if known := await self._ledger.find(request.claim, digest):
            return await self._recorded(*known, request.family)
        measured = await self.pool.compute(
            lambda: measure_gate(request.gate, request.scores, resamples=self._resamples)
        )
        claim = Claim(
            key=request.claim,
            digest=digest,
            lineage=request.lineage,
            measured=weakest_measurement(request.gate, measured),
            gate_id=request.gate.id,
            family=request.family,
            member=request.member,
        )

        def evaluate(claim: Claim, p_adjusted: float) -> Claim:
            verdict = evaluate_gate(request.gate, measured, p_adjusted, alpha=self._alpha)
            return replace(claim, status=verdict.status, reasons=verdict.reasons)

        return await self._record(claim, evaluate)

    async def declare(self, name: str, members: Mapping[str, Terms]) -> DeclaredFamily:
        """Declare a family; errors as of ``declare_family``."""
        return await declare_family(self._ledger, name, members)

    async def correct(
        self,
        p_values: Mapping[str, float],
        *,
        family: str | None,
        alpha: float | None,
        dependent: bool,
    ) -> dict[str, CorrectedPValue]:
        """Adjust the p-values of a request, those of a family, or both together.

        Args:
            p_values: P-values of the request, by name.
            family: Family whose members join them; None for none.
            alpha: False discovery rate; None for the service's own.
            dependent: Whether the p-values may depend on each other in any way.

        Raises:
            InvalidScoresError: A p-value or the rate is out of range.
            FailedPreconditionError: The family was not declared.
            UnavailableError: Redis does not respond.
        """
        joined: dict[str, float] = {}
        if family is not None:
            members = await self._members(family)
            joined = member_p_values(await self._ledger.entries(), family, members)
        both = {**p_values, **{name: p for name, p in joined.items() if name not in p_values}}
        rate = self._alpha if alpha is None else alpha
        return await self.pool.compute(lambda: benjamini_hochberg(both, rate, dependent=dependent))

    async def claims(
        self, after: str, limit: int
    ) -> tuple[list[RecordedClaim], Sequence[RecordFault], str, bool]:
        """Return a page: claims, faults, last record id, and whether more records follow.

        Raises:
            InvalidArgumentError: ``after`` is not a record id.
            UnavailableError: Redis does not respond.
        """
        claims, faults = await self._ledger.page(after, limit + 1)
        ids = sorted((*(one for one, _ in claims), *(one.id for one in faults)), key=_id_order)
        page = set(ids[:limit])
        kept = [(identifier, claim) for identifier, claim in claims if identifier in page]
        adjusted = await self._adjusted(kept)
        recorded = [self._placed(name, claim, adjusted[name]) for name, claim in kept]
        last = ids[:limit][-1] if page else ""
        return recorded, [one for one in faults if one.id in page], last, len(ids) > limit

    async def watch_gates(self) -> None:
        """Set the metric of each gate to whether it has lost its significance.

        Raises:
            UnavailableError: Redis does not respond.
        """
        lost = lost_gates(await self._ledger.entries(), self.catalogue.gates, self._alpha)
        for gate in self.catalogue.gates:
            LOST.labels(gate).set(gate in lost)

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
            family=request.family,
            member=request.member,
        )

    async def _record(self, claim: Claim, evaluate: Evaluate | None) -> RecordedClaim:
        """Evaluate within the family as it is at the moment of recording, and record.

        The adjusted p-value depends on the family, so a claim recorded by another caller between
        reading the ledger and appending makes the evaluation start over.
        """
        claim = replace(claim, request_id=logs.request_id.get())
        own = family_entry(_NEW, claim, self.catalogue.gates)
        members = await self._members(own.family)
        for _ in range(_ATTEMPTS):
            entries = await self._ledger.entries()
            adjusted = adjust(entries, [own], members)[_NEW]
            final = evaluate(claim, adjusted.p) if evaluate else claim
            if kept := await self._ledger.append(final, len(entries)):
                identifier, record = kept
                if record is not final:
                    return await self._recorded(identifier, record, claim.family)
                _LOG.info("claim recorded", claim=claim.key, id=identifier, status=final.status)
                return self._placed(identifier, record, adjusted)
        raise UnavailableError("claims: too many are being recorded at once; retry")

    async def _recorded(self, identifier: str, claim: Claim, family: str) -> RecordedClaim:
        """Return a recorded claim that was asked again within a family.

        Raises:
            FailedPreconditionError: It was recorded in another family or outside of all: data that
                were seen before the declaration are no evidence of it.
        """
        entry = family_entry(identifier, claim, self.catalogue.gates)
        if entry.family != family:
            where = f"in family {entry.family!r}" if entry.family else "outside of all families"
            raise FailedPreconditionError(
                f"these scores are recorded as {identifier} {where}; scores that were seen before "
                "are no evidence for another family, measure again"
            )
        adjusted = await self._adjusted([(identifier, claim)])
        return self._placed(identifier, claim, adjusted[identifier])

    async def _check_declared(self, request: Comparison | GateCheck) -> None:
        if request.family not in ("", GATES_FAMILY):
            check_member(await find_family(self._ledger, request.family), request)

    async def _members(self, family: str) -> Collection[str]:
        """Return the members of a family; none for the claims outside of all families."""
        if family == GATES_FAMILY:
            return tuple(self.catalogue.gates)
        return tuple((await find_family(self._ledger, family)).members) if family else ()

    async def _adjusted(self, claims: Sequence[tuple[str, Claim]]) -> dict[str, AdjustedPValue]:
        """Return today's adjusted p-value of recorded claims, by record id."""
        entries = await self._ledger.entries()
        families: dict[str, list[FamilyEntry]] = {}
        for identifier, claim in claims:
            entry = family_entry(identifier, claim, self.catalogue.gates)
            families.setdefault(entry.family, []).append(entry)
        adjusted: dict[str, AdjustedPValue] = {}
        for family, own in families.items():
            try:
                adjusted |= adjust(entries, own, await self._members(family))
            except FailedPreconditionError as err:
                # A lost declaration is no evidence for its members, and no harm to other families.
                _LOG.error("family not readable", family=family, reason=str(err))
                adjusted |= {one.id: AdjustedPValue(1.0, 0, 1) for one in own}
        return adjusted

    def _placed(self, identifier: str, claim: Claim, adjusted: AdjustedPValue) -> RecordedClaim:
        entry = family_entry(identifier, claim, self.catalogue.gates)
        return RecordedClaim(
            identifier,
            claim,
            adjusted.p,
            adjusted.members,
            adjusted.attempts,
            entry.family,
            entry.member,
        )


def _id_order(identifier: str) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds), int(sequence)
