"""Families of claims: members that are fixed before data, and the adjusted p-value of a claim.

A member has one p-value however many claims are recorded for it: the smallest, times their number
(Bonferroni), so that a claim that is retried until it passes pays for every attempt. A member
without data has p-value 1.

The catalogue's gates are corrected by Benjamini and Hochberg, because nobody can add a member.
Declared families, and the claims outside of all families, are corrected by Holm: there a further
member, a copy or a truism included, never lowers the adjusted p-value of another one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bem_fleet.services.validation.claims import GATES_FAMILY, Claim
from bem_fleet.stats.fdr import benjamini_hochberg
from bem_fleet.stats.fwer import holm


@dataclass(frozen=True)
class FamilyEntry:
    """Place of one record in its family.

    Attributes:
        id: Record id.
        family: Family; empty outside of all families.
        member: Member; the record id outside of all families, where each claim is its own.
        p: P-value before any correction; 1 for a record that cannot be read.
        passed: Whether it is a gate's claim that passed when it was recorded.
    """

    id: str
    family: str
    member: str
    p: float
    passed: bool = False


@dataclass(frozen=True)
class AdjustedPValue:
    """P-value of a claim in its family.

    Attributes:
        p: Adjusted p-value.
        members: Number of members of the family.
        attempts: Number of claims that are recorded for the member, this one included.
    """

    p: float
    members: int
    attempts: int


def family_entry(identifier: str, claim: Claim, gates: Collection[str]) -> FamilyEntry:
    """Return the place of a claim.

    Args:
        identifier: Record id.
        claim: The claim; old records name no family, and theirs follows from the gate's id.
        gates: Ids of the catalogue's gates.
    """
    if claim.gate_id in gates:
        passed = claim.status == "pass"
        return FamilyEntry(identifier, GATES_FAMILY, claim.gate_id, claim.p, passed)
    if claim.family:
        return FamilyEntry(identifier, claim.family, claim.member, claim.p)
    return FamilyEntry(identifier, "", identifier, claim.p)


def member_p_values(
    entries: Sequence[FamilyEntry], family: str, members: Collection[str]
) -> dict[str, float]:
    """Return the p-value of every member of a family.

    Args:
        entries: All records.
        family: Name of the family; empty for the claims outside of all families.
        members: Members of the family; the claims outside of all families are their own.
    """
    attempts: dict[str, list[float]] = {member: [] for member in members}
    for entry in entries:
        if entry.family == family and (not family or entry.member in attempts):
            attempts.setdefault(entry.member, []).append(entry.p)
    return {
        member: min(1.0, len(values) * min(values)) if values else 1.0
        for member, values in attempts.items()
    }


def adjust(
    entries: Sequence[FamilyEntry], claims: Sequence[FamilyEntry], members: Collection[str]
) -> dict[str, AdjustedPValue]:
    """Return the adjusted p-value of claims of one family, by record id.

    In its own member's place a claim has its own p-value times the member's attempts, so that a
    failed attempt is not shown with the p-value of a better one.

    Args:
        entries: All records, with or without the claims.
        claims: Claims of one family.
        members: Members of the family; none for the claims outside of all families.
    """
    if not claims:
        return {}
    family, known = claims[0].family, {entry.id for entry in entries}
    everyone = [*entries, *(one for one in claims if one.id not in known)]
    p_values = member_p_values(everyone, family, members)
    if not family:
        corrected = holm(p_values)
        return {one.id: AdjustedPValue(corrected[one.id], len(p_values), 1) for one in claims}
    adjusted = {}
    for one in claims:
        attempts = sum(entry.family == family and entry.member == one.member for entry in everyone)
        own = {**p_values, one.member: min(1.0, attempts * one.p)}
        adjusted[one.id] = AdjustedPValue(_correct(family, own)[one.member], len(own), attempts)
    return adjusted


def lost_gates(
    entries: Sequence[FamilyEntry], gates: Collection[str], alpha: float
) -> frozenset[str]:
    """Return the gates that have passed once and are not significant now.

    A gate is lost if its newest claim did not pass, or if the adjusted p-value of that claim in
    today's family exceeds ``alpha``: later attempts and failures of other gates raise it.

    Args:
        entries: All records, oldest first.
        gates: Ids of the catalogue's gates.
        alpha: False discovery rate, between 0 and 1.
    """
    claims = [one for one in entries if one.family == GATES_FAMILY and one.member in gates]
    newest = {one.member: one for one in claims}
    passed = [newest[name] for name in {one.member for one in claims if one.passed}]
    adjusted = adjust(entries, passed, gates)
    return frozenset(one.member for one in passed if not one.passed or adjusted[one.id].p > alpha)


def _correct(family: str, p_values: dict[str, float]) -> dict[str, float]:
    if family != GATES_FAMILY:
        return holm(p_values)
    return {name: one.p_adjusted for name, one in benjamini_hochberg(p_values).items()}
