"""Families of claims: fixed members, attempts, and no dilution."""

import pytest
from bem_fleet.services.validation.claim_families import (
    FamilyEntry,
    adjust,
    family_entry,
    lost_gates,
    member_p_values,
)
from bem_fleet.services.validation.claims import GATES_FAMILY, Claim
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.services.validation.test_claims import LINEAGE, MEASURED

GATES = tuple(f"A.gate_{index}" for index in range(5))
P = st.floats(0, 1)


def entries(family: str, *rows: tuple[str, float]) -> list[FamilyEntry]:
    """Return records of a family, from member and p-value."""
    return [
        FamilyEntry(f"{family}{index}-0", family, member or f"{family}{index}-0", p)
        for index, (member, p) in enumerate(rows)
    ]


def test_copies_of_a_true_claim_do_not_carry_a_failed_gate() -> None:
    """The issue's case: sixty copies of a true claim, and a gate that fails alone."""
    gate = FamilyEntry("new", GATES_FAMILY, GATES[0], 0.0429)
    before = adjust([], [gate], GATES)["new"]
    copies = entries("", *[("", 0.0)] * 60)
    copies += entries(GATES_FAMILY, *[(GATES[1], 0.0002)] * 60)
    after = adjust(copies, [gate], GATES)["new"]

    assert before.p == pytest.approx(5 * 0.0429)
    assert after.p > 0.05
    assert (before.members, after.members) == (5, 5)


@given(st.lists(P, min_size=1, max_size=6), st.lists(P, min_size=1, max_size=40))
def test_no_further_claim_lowers_another(own: list[float], more: list[float]) -> None:
    """Outside of all families, whatever is recorded besides."""
    claims = entries("", *[("", p) for p in own])
    others = entries("later", *[("", p) for p in more])
    others = [FamilyEntry(f"later-{one.id}", "", f"later-{one.id}", one.p) for one in others]
    alone = adjust(claims, claims, ())
    together = adjust([*claims, *others], claims, ())

    assert all(together[name].p >= one.p - 1e-12 for name, one in alone.items())


@given(P, st.lists(P, min_size=1, max_size=40))
def test_truisms_in_a_declared_family_help_no_member(own: float, truisms: list[float]) -> None:
    """A member is never better off for the members that were declared beside it."""
    members = ["own", *(f"m{index}" for index in range(len(truisms)))]
    claim = FamilyEntry("new", "study", "own", own)
    beside = entries("study", *zip(members[1:], truisms, strict=True))

    assert adjust(beside, [claim], members)["new"].p >= adjust([], [claim], ["own"])["new"].p


@given(st.lists(P, min_size=1, max_size=20))
def test_member_pays_for_its_attempts(attempts: list[float]) -> None:
    """A member has one p-value, the smallest times the number of attempts, at most 1."""
    recorded = entries(GATES_FAMILY, *[(GATES[2], p) for p in attempts])
    p_values = member_p_values(recorded, GATES_FAMILY, GATES)

    assert p_values[GATES[2]] == pytest.approx(min(1.0, len(attempts) * min(attempts)))
    assert [p for name, p in p_values.items() if name != GATES[2]] == [1.0] * 4


def test_failed_attempt_is_not_shown_with_the_p_of_a_better_one() -> None:
    """Each claim has its own p-value in its member's place."""
    recorded = entries("study", ("a", 0.5), ("a", 0.001))
    adjusted = adjust(recorded, recorded, ["a", "b"])

    assert [round(one.p, 6) for one in adjusted.values()] == [1.0, 0.004]
    assert {one.attempts for one in adjusted.values()} == {2}


def test_old_records_are_placed_by_their_gate() -> None:
    """A record without a family is the gate's if the catalogue has it, and else its own."""
    claim = Claim("k", "d", LINEAGE, MEASURED, gate_id=GATES[0])
    gate = family_entry("1-0", claim, GATES)
    other = family_entry("2-0", claim, ())

    assert (gate.family, gate.member) == (GATES_FAMILY, GATES[0])
    assert (other.family, other.member) == ("", "2-0")


def gate_entry(order: int, gate: str, p: float, *, passed: bool) -> FamilyEntry:
    """Return a record of a gate."""
    return FamilyEntry(f"{order}-0", GATES_FAMILY, gate, p, passed)


@pytest.mark.parametrize(
    ("records", "lost"),
    [
        ([(0.001, True)], False),
        ([(0.9, False)], False),  # it never passed
        ([(0.001, True), (0.9, False)], True),  # its newest claim failed
        ([(0.001, True), (0.9, False), (0.001, True)], False),  # it passed again
        ([(0.009, True), (0.9, True)], True),  # not significant by today's family
    ],
)
def test_a_gate_is_lost_if_it_passed_and_is_not_significant_now(
    records: list[tuple[float, bool]], lost: bool
) -> None:
    """The newest claim counts, by its verdict and by its adjusted p-value of today."""
    claims = [gate_entry(i, GATES[0], p, passed=ok) for i, (p, ok) in enumerate(records)]

    assert lost_gates(claims, GATES, 0.05) == ({GATES[0]} if lost else set())


def test_attempts_raise_the_p_value_of_a_passed_gate() -> None:
    """A gate that is claimed again and again pays for every attempt until it is lost."""
    once = [gate_entry(0, GATES[0], 0.005, passed=True)]
    often = [gate_entry(i, GATES[0], 0.005, passed=True) for i in range(4)]

    assert not lost_gates(once, GATES, 0.05)
    assert lost_gates(often, GATES, 0.05) == {GATES[0]}


def test_claims_outside_of_the_gates_lose_none() -> None:
    """Other families and gates that the catalogue has no more are no gates."""
    others = [
        FamilyEntry("1-0", "mine", GATES[0], 0.001, passed=True),
        gate_entry(2, "Z.gone", 0.001, passed=True),
        gate_entry(3, "Z.gone", 0.9, passed=False),
    ]

    assert not lost_gates(others, GATES, 0.05)
