"""Validation over the wire with a real Redis: findings, history, and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bem_fleet.services.validation.servicer import SERVICE
from bem_fleet.stats.bootstrap import cluster_bca
from bem_fleet.stats.effects import paired_effect
from bem_fleet.stats.pvalues import inversion_p_value, sign_flip_p_value
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.clients import open_channel, wait_ready
from fleet.errors import UnavailableError
from fleet.testing import RedisServer
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.integration.validations import (
    clustered,
    compare,
    gate,
    process,
    ready,
    refused,
    scores,
    validation,
    weak_scores,
)


@pytest.fixture
async def stub(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Any]:
    """A running service."""
    async with validation(tmp_path, redis_server) as (made, _):
        yield made


async def test_comparison_is_the_librarys(stub: Any) -> None:
    """Estimate, interval, both p-values and effect are those of the statistics library."""
    given = scores(gain=0.01)
    answer = await stub.Compare(compare("c1", given))
    mission = np.reshape(given.mission.values, (3, -1))
    baseline = np.reshape(given.baseline.values, (3, -1))
    interval = cluster_bca(mission, baseline, resamples=10_000)
    means = mission.mean(axis=0), baseline.mean(axis=0)

    assert answer.measured.estimate == pytest.approx(interval.estimate)
    assert (answer.measured.ci_low, answer.measured.ci_high) == pytest.approx(
        (interval.low, interval.high)
    )
    assert answer.measured.p_inversion == inversion_p_value(mission, baseline, resamples=10_000)
    assert answer.p_permutation == sign_flip_p_value(*means, resamples=10_000)
    assert answer.effect.d_z == pytest.approx(paired_effect(*means).d_z)
    assert (answer.measured.items, answer.measured.seeds) == (300, 3)
    assert answer.measured.coverage_class == "few-seeds"
    assert answer.claim.family == 1
    assert answer.measured.p == max(answer.measured.p_inversion, answer.p_permutation)
    assert answer.claim.p_adjusted == answer.measured.p
    assert (answer.claim.family_name, answer.claim.member) == ("", answer.claim.id)


async def test_ratio_has_one_as_its_null(stub: Any) -> None:
    """A ratio is compared with 1, and with another null there is no sign-flip test."""
    ratio = await stub.Compare(compare("c1", statistic=pb.STATISTIC_RATIO))
    other = await stub.Compare(compare("c2", null_value=0.04))

    assert ratio.measured.estimate == pytest.approx(1.1, abs=0.01)
    assert ratio.measured.p_inversion < 0.05
    assert ratio.HasField("p_permutation")
    assert not other.HasField("p_permutation")


async def test_equal_sides_are_equal_by_definition(stub: Any) -> None:
    """Two sides with the same scores differ by exactly nothing, and show no gain: p is 1."""
    tied = scores()
    tied.baseline.CopyFrom(tied.mission)
    answer = await stub.Compare(compare("c1", tied))

    assert (answer.measured.ci_low, answer.measured.ci_high) == (0, 0)
    assert not answer.effect.HasField("d_z")
    assert (answer.measured.p_inversion, answer.p_permutation) == (1, 1)
    assert answer.measured.coverage_class == "equal"


async def test_gate_passes_and_fails_with_reasons(stub: Any) -> None:
    """A gate of the fleet's own is judged by its id, and a fail says what is missing."""
    passed = await stub.Gate(gate("g1"))
    few = await stub.Gate(gate("g2", scores("exact_match", seeds=2), scores("f1", seeds=2)))
    worse = await stub.Gate(gate("g3", scores("exact_match", -0.05), scores("f1", 0.05)))

    assert (passed.status, passed.gate_id) == (pb.GATE_STATUS_PASS, "A.em_f1")
    assert not passed.reasons
    assert few.status == worse.status == pb.GATE_STATUS_FAIL
    assert few.reasons[:2] == ["exact_match: 2 seeds of 3", "f1: 2 seeds of 3"]
    assert worse.measured.metric == "exact_match"
    assert "does not reach 0.015" in worse.reasons[0]


async def test_clusters_are_the_unit_of_a_comparison_and_of_a_gate(stub: Any) -> None:
    """Fewer units give a wider interval, and a gate refuses another unit and too few clusters."""
    given = scores(gain=0.01)
    for place in range(len(given.mission.values)):
        # Every second book of 30 items gains, the others lose.
        given.mission.values[place] += 0.03 if place // 30 % 2 else -0.03
    by_item = await stub.Compare(compare("c1", given))
    by_book = await stub.Compare(compare("c2", clustered(given, "book", 30)))
    without = await stub.Gate(gate("g1", unit=""))
    other = await stub.Gate(gate("g2", unit="book"))
    both = [clustered(scores(name), size=30) for name in ("exact_match", "f1")]
    few = await stub.Gate(gate("g3", *both, unit=""))

    assert (by_item.measured.unit, by_item.measured.units) == ("item", 300)
    assert (by_book.measured.unit, by_book.measured.units) == ("book", 10)
    assert by_book.measured.ci_low < 2 * by_item.measured.ci_low - 0.01
    assert "f1: the report's unit is item; this gate's is passage" in without.reasons
    assert "f1: the report's unit is book; this gate's is passage" in other.reasons
    assert "f1: 10 clusters of 20, the unit is passage" in few.reasons


async def test_correction_takes_given_values_the_family_or_both(stub: Any) -> None:
    """Given p-values stand alone unless the family is asked for; nothing is recorded."""
    recorded = await stub.Compare(compare("c1"))
    given = [pb.NamedP(name="a", p=0.01), pb.NamedP(name="b", p=0.04)]
    alone = await stub.Correct(pb.CorrectRequest(given=given))
    both = await stub.Correct(pb.CorrectRequest(given=given, with_family=True))
    dependent = await stub.Correct(
        pb.CorrectRequest(given=given, correction=pb.CORRECTION_BENJAMINI_YEKUTIELI, alpha=0.02)
    )
    listed = await stub.ListClaims(pb.ListClaimsRequest())

    assert [(c.name, c.p_adjusted, c.rejected) for c in alone.corrected] == [
        ("a", 0.02, True),
        ("b", 0.04, True),
    ]
    assert [c.name for c in both.corrected] == ["a", "b", recorded.claim.id]
    assert [(c.p_adjusted, c.rejected) for c in dependent.corrected] == [
        (pytest.approx(0.03), False),
        (pytest.approx(0.06), False),
    ]
    assert len(listed.claims) == 1


async def test_same_claim_is_recorded_once(stub: Any) -> None:
    """A repeated question gets the recorded answer; many at once still record one."""
    answers = await asyncio.gather(*(stub.Gate(gate("g1")) for _ in range(5)))
    listed = await stub.ListClaims(pb.ListClaimsRequest())

    assert {answer.claim.id for answer in answers} == {listed.claims[0].ref.id}
    assert all(answer == answers[0] for answer in answers)
    assert len(listed.claims) == 1


async def test_many_claims_at_once_are_all_in_the_family(stub: Any) -> None:
    """Claims that are recorded at the same time each see a family of their own size."""
    asked = (stub.Compare(compare(f"c{index}", weak_scores(index))) for index in range(10))
    answers = await asyncio.gather(*asked)

    assert sorted(answer.claim.family for answer in answers) == list(range(1, 11))


async def test_used_key_with_other_content_is_refused(stub: Any) -> None:
    """History is not rewritten: other scores, question or data need another key."""
    await stub.Compare(compare("c1"))
    other = compare("c1")
    other.head.lineage.data_digest = "d2"
    errors = [
        await refused(stub.Compare(compare("c1", scores(gain=0.1)))),
        await refused(stub.Compare(compare("c1", null_value=0.01))),
        await refused(stub.Compare(other)),
        await refused(stub.Gate(gate("c1"))),
    ]

    assert {error.code for error in errors} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert all("'c1'" in error.message for error in errors)
    assert len((await stub.ListClaims(pb.ListClaimsRequest())).claims) == 1


async def test_claims_are_listed_in_pages_with_their_lineage(stub: Any) -> None:
    """Each record says what it was made from; pages follow one another without gap."""
    for index in range(3):
        await stub.Compare(compare(f"c{index}", weak_scores(index)))
    first = await stub.ListClaims(pb.ListClaimsRequest(limit=2))
    second = await stub.ListClaims(pb.ListClaimsRequest(limit=2, after=first.claims[-1].ref.id))
    claim = first.claims[0]

    assert [c.claim for c in (*first.claims, *second.claims)] == ["c0", "c1", "c2"]
    assert (first.has_more, second.has_more) == (True, False)
    assert (claim.lineage.command, claim.lineage.data_digest) == ("make synthetic", "d1")
    assert len(claim.content_digest) == 64
    assert claim.ref.recorded_unix_ms == int(claim.ref.id.partition("-")[0])
    assert (await refused(stub.ListClaims(pb.ListClaimsRequest(after="x")))).field == "after"


async def test_health_answers_while_it_computes(tmp_path: Path, redis_server: RedisServer) -> None:
    """A comparison of many scores does not keep the event loop."""
    async with validation(tmp_path, redis_server, resamples=10_000) as (stub, running):
        work = asyncio.ensure_future(stub.Compare(compare("c1", scores(seeds=1, items=10_000))))
        answered = 0
        async with open_channel(running.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not work.done():
                await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
                answered += 1
            names = await _listed(channel)
        await work

    assert answered > 10
    assert SERVICE in names


async def _listed(channel: aio.Channel) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    return {service.name for service in answers[0].list_services_response.service}


async def test_lost_redis_is_told_and_nothing_is_lost(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """While Redis is away nothing is answered and health says so; afterwards all is there."""
    async with validation(tmp_path, redis_server) as (stub, running):
        first = await stub.Compare(compare("c1"))
        redis_server.kill()
        error = await refused(stub.Compare(compare("c2")))
        async with open_channel(running.address) as channel:
            await _until_not_serving(channel)
            redis_server.start()
            await wait_ready(channel, SERVICE, 30)
        again = await stub.Compare(compare("c1"))
        second = await stub.Compare(compare("c2", weak_scores(2)))

    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert again == first
    assert second.claim.family == 2


async def _until_not_serving(channel: aio.Channel) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await wait_ready(channel, SERVICE, 0.1)
            except UnavailableError:
                return


async def test_killed_service_forgets_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    """After kill -9 between calls the claims, their ids and the family are what they were."""
    with process(tmp_path, redis_server) as running:
        stub = await ready(running)
        before = [await stub.Gate(gate("g1")), await stub.Compare(compare("c1"))]
        running.kill()
        running.start()
        stub = await ready(running)
        again = [await stub.Gate(gate("g1")), await stub.Compare(compare("c1"))]
        third = await stub.Compare(compare("c2", scores(items=60)))
        listed = await stub.ListClaims(pb.ListClaimsRequest())

    assert [one.claim.id for one in again] == [one.claim.id for one in before]
    assert [one.measured for one in again] == [one.measured for one in before]
    assert third.claim.family == 2
    assert [one.claim for one in listed.claims] == ["g1", "c1", "c2"]


async def test_kill_in_the_middle_leaves_a_claim_whole_or_absent(
    tmp_path: Path,
    redis_server: RedisServer,
) -> None:
    """Whatever a kill -9 hits, the same key afterwards gives one whole record."""
    with process(tmp_path, redis_server) as running:
        for round_ in range(2):
            stub = await ready(running)
            asked = asyncio.ensure_future(
                stub.Compare(compare(f"c{round_}", scores(items=500 + round_)))
            )
            await asyncio.sleep(0.03 * round_)
            running.kill()
            await asyncio.gather(asked, return_exceptions=True)
            running.start()
        stub = await ready(running)
        answers = [
            await stub.Compare(compare(f"c{round_}", scores(items=500 + round_)))
            for round_ in range(2)
        ]
        listed = await stub.ListClaims(pb.ListClaimsRequest())

    assert sorted(one.claim for one in listed.claims) == ["c0", "c1"]
    assert {one.ref.id for one in listed.claims} == {one.claim.id for one in answers}
    assert all(one.ref.family == 2 for one in listed.claims)
