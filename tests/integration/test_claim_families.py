"""Claim families over the wire with a real Redis: declarations, attempts, bad records, roles."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis.asyncio as redis
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.testing import RedisServer, free_port

from tests.integration.validations import (
    compare,
    gate,
    refused,
    scores,
    validation,
    weak_scores,
)
from tests.support.access_keys import write_access_keys


@pytest.fixture
async def stub(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Any]:
    """A running service."""
    async with validation(tmp_path, redis_server) as (made, _):
        yield made


PLANS = pb.GateSpec(
    id="canary.plans",
    metrics=["plan_steps"],
    statistic=pb.STATISTIC_SHARE,
    direction=pb.DIRECTION_HIGHER,
    at_most=3,
    target=1,
    margin=0.99,
    min_items=400,
    min_seeds=1,
)


def plans(claim: str, items: int = 500, **head: Any) -> pb.GateRequest:
    """Return a question for a gate that is not in the catalogue."""
    steps = pb.ScoreMatrix(values=[2.0] * items)
    request = gate(claim, pb.MetricScores(metric="plan_steps", mission=steps), unit="")
    request.head.spec.CopyFrom(PLANS)
    request.head.family = head.get("family", "plans")
    return request


def declaration(family: str = "plans") -> pb.DeclareFamilyRequest:
    """Return a family with a gate and a comparison."""
    members = [
        pb.FamilyMember(gate=PLANS),
        pb.FamilyMember(comparison=pb.ComparisonTerms(member="quality", metric="f1")),
    ]
    return pb.DeclareFamilyRequest(family=family, members=members)


async def test_described_gate_is_judged_in_its_declared_family(stub: Any) -> None:
    """A caller's own gate, here a share without a baseline, is one that was declared before."""
    undeclared = await refused(stub.Gate(plans("g1")))
    nowhere = await refused(stub.Gate(plans("g1", family="")))
    declared = await stub.DeclareFamily(declaration())
    again = await stub.DeclareFamily(declaration())
    answer = await stub.Gate(plans("g1"))
    changed = plans("g2")
    changed.head.spec.target = 0.995
    other = await refused(stub.Gate(changed))

    assert undeclared.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (nowhere.code, nowhere.field) == (grpc.StatusCode.INVALID_ARGUMENT, "family")
    assert declared == again
    assert list(declared.members) == ["canary.plans", "quality"]
    assert answer.status == pb.GATE_STATUS_PASS
    assert answer.measured.coverage_class == "exact"
    assert (answer.claim.family_name, answer.claim.family) == ("plans", 2)
    assert answer.claim.p_adjusted == pytest.approx(2 * answer.measured.p)
    assert "declared with target 1.0" in other.message


async def test_data_seen_before_are_no_evidence_for_a_family(stub: Any) -> None:
    """Scores that were recorded outside cannot move into a family that is declared for them."""
    await stub.Compare(compare("c1"))
    await stub.DeclareFamily(declaration())
    inside = await refused(stub.Compare(compare("c1", family="plans", member="quality")))
    fresh = await stub.Compare(compare("c2", scores(gain=0.04), family="plans", member="quality"))

    assert inside.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "outside of all families" in inside.message
    assert (fresh.claim.member, fresh.claim.attempts) == ("quality", 1)


async def test_attempts_raise_the_adjusted_p_until_a_gate_passes_no_more(stub: Any) -> None:
    """A gate that is tried until it passes pays for every attempt."""
    first = await stub.Gate(gate("g1"))
    for index in range(8):
        await stub.Gate(gate(f"try-{index}", weak_scores(index, "exact_match"), weak_scores(index)))
    last = await stub.Gate(gate("g2", scores("exact_match", 0.06), scores("f1", 0.06)))
    listed = (await stub.ListClaims(pb.ListClaimsRequest())).claims

    assert first.status == pb.GATE_STATUS_PASS
    assert (last.status, last.measured.p) == (pb.GATE_STATUS_FAIL, first.measured.p)
    assert (last.claim.attempts, last.claim.family) == (10, first.claim.family)
    assert last.claim.p_adjusted == pytest.approx(10 * first.claim.p_adjusted)
    assert any("adjusted p" in reason for reason in last.reasons)
    assert listed[0].status == pb.GATE_STATUS_PASS
    assert listed[0].ref.p_adjusted == pytest.approx(10 * first.claim.p_adjusted)


async def test_copies_of_a_true_claim_lower_no_other_claim(stub: Any) -> None:
    """Twenty copies, and twenty variations of them, change neither gate nor comparison."""
    doubtful = await stub.Compare(compare("doubtful", weak_scores(3)))
    failed = await stub.Gate(gate("g1", weak_scores(1, "exact_match"), weak_scores(1)))
    true = await stub.Compare(compare("true"))
    for index in range(20):
        copy = compare(f"copy-{index}")
        copy.head.lineage.command = f"make synthetic-{index}"
        assert (await stub.Compare(copy)).claim.id == true.claim.id
    for index in range(20):
        await stub.Compare(compare(f"vary-{index}", scores(gain=0.051 + index / 1e6)))
    today = {one.claim: one.ref for one in (await stub.ListClaims(pb.ListClaimsRequest())).claims}

    assert len(today) == 23
    assert today["doubtful"].p_adjusted >= doubtful.claim.p_adjusted
    assert today["g1"].p_adjusted == failed.claim.p_adjusted


async def test_bad_record_is_named_and_harms_no_other(stub: Any, redis_server: RedisServer) -> None:
    """The whole service works beside a record that is no claim; the record is listed by id."""
    await stub.Compare(compare("c1"))
    client: Any = redis.Redis.from_url(redis_server.url, decode_responses=True)
    async with client as raw:
        (_, fields), *_ = await raw.xrange("bem:claims")
        fields["claim"] = re.sub(r'"figure":[^,]*', '"figure":1e308', fields["claim"])
        bad = await raw.xadd("bem:claims", fields)
    second = await stub.Compare(compare("c2", weak_scores(2)))
    judged = await stub.Gate(gate("g1"))
    listed = await stub.ListClaims(pb.ListClaimsRequest())
    rest = await stub.ListClaims(pb.ListClaimsRequest(after=bad, limit=1))

    assert second.claim.family == 3
    assert judged.status == pb.GATE_STATUS_PASS
    assert [one.claim for one in listed.claims] == ["c1", "c2", "g1"]
    assert [(one.id, one.problem[:26]) for one in listed.unreadable] == [
        (bad, "measured.figure is 1e+308;")
    ]
    assert (rest.claims[0].claim, rest.has_more) == ("c2", True)


async def test_only_operators_write_claims(tmp_path: Path, redis_server: RedisServer) -> None:
    """On a network address claims and families need an operator's key; a service's is too small."""
    keys = write_access_keys(tmp_path / "keys", {"name": "acme"})
    settings = {"address": f"127.0.0.1:{free_port()}", "keys_file": keys.file}
    async with validation(tmp_path, redis_server, **settings) as (stub, _):
        calls = (
            (stub.Compare, compare("c1")),
            (stub.Gate, gate("g1")),
            (stub.DeclareFamily, declaration()),
            (stub.ListClaims, pb.ListClaimsRequest()),
        )
        errors = [
            await refused(call(request, metadata=keys.metadata(name)))
            for name in ("acme", "service")
            for call, request in calls
        ]
        keyless = [await refused(call(request)) for call, request in calls]
        answer = await stub.Compare(compare("c1"), metadata=keys.metadata("operator"))

    assert {error.code for error in errors} == {grpc.StatusCode.PERMISSION_DENIED}
    assert {error.code for error in keyless} == {grpc.StatusCode.UNAUTHENTICATED}
    assert answer.claim.family == 1
