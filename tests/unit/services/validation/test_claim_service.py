"""Claim service: compute once, evaluate within the family, record."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from bem_fleet.acceptance.catalogue import CENTRAL_GATES, load_catalogue
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.claim_service import ClaimService
from bem_fleet.services.validation.claims import Comparison, GateCheck
from bem_fleet.services.validation.compute_pool import ComputePool
from fleet.testing import RedisServer
from prometheus_client import REGISTRY

from tests.unit.services.validation.test_claims import LINEAGE


@pytest.fixture
async def service(redis_server: RedisServer) -> AsyncIterator[ClaimService]:
    """A service with an empty ledger."""
    catalogue = load_catalogue(CENTRAL_GATES)
    ledger, pool = ClaimLedger(redis_server.url, "claims", catalogue.gates), ComputePool(2, 4)
    yield ClaimService(catalogue, ledger, pool, alpha=0.05, resamples=10_000)
    await pool.close()
    await ledger.close()


def scores(gain: float, *, seed: int = 1, items: int = 200) -> PairedScores:
    """Return scores of three training seeds with a gain."""
    rng = np.random.default_rng(seed)
    baseline = np.clip(0.5 + 0.1 * rng.standard_normal((3, items)), 0.2, 0.8)
    noise = 0.02 * rng.standard_normal((3, items))
    return PairedScores(np.clip(baseline + gain + noise - noise.mean(), 0, 1), baseline)


def comparison(key: str, gain: float) -> Comparison:
    """Return a comparison."""
    return Comparison(key, LINEAGE, {"f1": scores(gain)}, "difference", 0.0)


async def test_equal_requests_are_computed_once(service: ClaimService) -> None:
    """The second answer is the record of the first."""
    first = await service.compare(comparison("k", 0.05))
    second = await service.compare(comparison("k", 0.05))

    assert first == second
    assert first.claim.measured.figure == pytest.approx(0.05, abs=0.005)
    assert first.claim.effect is not None
    assert first.family == 1


async def test_claims_in_parallel_are_all_in_the_family(service: ClaimService) -> None:
    """Each is evaluated in a family that has the others that came first."""
    recorded = await asyncio.gather(
        *(service.compare(comparison(f"k{i}", 0.01 * i)) for i in range(4))
    )
    listed, _, last, more = await service.claims("", 10)

    assert sorted(one.family for one in recorded) == [1, 2, 3, 4]
    assert len({one.id for one in recorded}) == 4
    assert ([one.family for one in listed], more) == ([4] * 4, False)
    assert last == listed[-1].id


async def test_a_gate_keeps_its_verdict_while_its_p_is_adjusted(service: ClaimService) -> None:
    """Later claims change the adjusted p of today, and not what was decided."""
    gate = service.catalogue.gates["A.em_f1"].rule
    gate = replace(gate, min_items=100, min_seeds=3, unit="item")
    both = {name: scores(0.05, seed=2) for name in gate.metrics}
    check = GateCheck("g", LINEAGE, both, gate)
    passed = await service.gate(check)
    for index in range(3):
        retried = {name: scores(0.03, seed=3 + index) for name in gate.metrics}
        await service.gate(GateCheck(f"g{index}", LINEAGE, retried, gate))
        await service.compare(comparison(f"k{index}", 0.01 * index))
    later = await service.gate(check)

    assert passed.claim.status == later.claim.status == "pass"
    assert passed.family == later.family == len(service.catalogue.gates)
    assert (passed.attempts, later.attempts) == (1, 4)
    assert later.p_adjusted == pytest.approx(4 * passed.p_adjusted)


async def test_p_values_are_adjusted_with_or_without_the_family(service: ClaimService) -> None:
    """Nothing is recorded by a correction."""
    recorded = await service.compare(comparison("k", 0.05))
    alone = await service.correct({"a": 0.01, "b": 0.04}, family=None, alpha=None, dependent=False)
    both = await service.correct({"a": 0.01}, family="", alpha=0.1, dependent=True)
    gates = await service.correct({}, family="gates", alpha=None, dependent=False)

    assert {name: one.p_adjusted for name, one in alone.items()} == {"a": 0.02, "b": 0.04}
    assert set(both) == {"a", recorded.id}
    assert {name: one.p for name, one in gates.items()} == dict.fromkeys(service.catalogue.gates, 1)
    assert (await service.claims("", 10))[0][0].family == 1


async def test_a_lost_gate_is_a_metric(service: ClaimService) -> None:
    """Each gate of the catalogue has a series, which is 1 once its newest claim fails."""
    rule = replace(service.catalogue.gates["A.em_f1"].rule, min_items=100, min_seeds=3, unit="item")
    lost = []
    for key, gain in (("good", 0.2), ("bad", -0.2)):
        measured = {name: scores(gain) for name in rule.metrics}
        await service.gate(GateCheck(key, LINEAGE, measured, rule))
        await service.watch_gates()
        lost.append(REGISTRY.get_sample_value("bem_validation_gates_lost", {"gate": rule.id}))
    series = {
        sample.labels["gate"]
        for family in REGISTRY.collect()
        if family.name == "bem_validation_gates_lost"
        for sample in family.samples
    }

    assert lost == [0, 1]
    assert series == set(service.catalogue.gates)
