"""Validation over the wire: what is refused, and how streams are cut."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import details_of
from fleet.testing import RedisServer
from grpc import aio

from tests.integration.validations import (
    chunks,
    clustered,
    compare,
    gate,
    refused,
    scores,
    validation,
)

MAX_SCORES = 20_000


@pytest.fixture
async def stub(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Any]:
    """A running service with a small limit."""
    async with validation(tmp_path, redis_server, max_scores=MAX_SCORES) as (made, _):
        yield made


def _nan(request: pb.CompareRequest) -> None:
    request.scores.mission.values[7] = math.nan


def _short(request: pb.CompareRequest) -> None:
    del request.scores.baseline.values[300:]
    request.scores.baseline.seeds = 1


def _ragged(request: pb.CompareRequest) -> None:
    del request.scores.baseline.values[-1]


def _range(request: pb.CompareRequest) -> None:
    request.scores.mission.values[0] = 7


def _metric(request: pb.CompareRequest) -> None:
    request.scores.metric = "charm"


def _size(request: pb.CompareRequest) -> None:
    request.scores.mission.values.extend([0.5] * MAX_SCORES)


def _single(request: pb.CompareRequest) -> None:
    request.scores.mission.CopyFrom(pb.ScoreMatrix(values=[0.1]))


def _no_baseline(request: pb.CompareRequest) -> None:
    request.scores.ClearField("baseline")


def _no_key(request: pb.CompareRequest) -> None:
    request.head.claim = ""


def _no_digest(request: pb.CompareRequest) -> None:
    request.head.lineage.mission_digest = ""


def _infinite(request: pb.CompareRequest) -> None:
    request.head.null_value = math.inf


def _share(request: pb.CompareRequest) -> None:
    request.head.statistic = pb.STATISTIC_SHARE


@pytest.mark.parametrize(
    ("spoil", "field", "text"),
    [
        (_nan, "scores", "f1.mission: 1 of 900 scores are NaN"),
        (_short, "scores", "mission has 3 x 300 scores, baseline 1 x 300"),
        (_ragged, "scores", "f1.baseline has 899 scores"),
        (_range, "scores", "7 is above the metric's most, 1"),
        (_metric, "metric", "'charm' is unknown; known: "),
        (_size, "scores", "one call may have 20000"),
        (_single, "scores", "1 items; at least 2"),
        (_no_baseline, "baseline", "baseline scores are missing"),
        (_no_key, "claim", "0 characters; 1 to 256"),
        (_no_digest, "lineage.mission_digest", "1 to 128"),
        (_infinite, "null_value", "inf"),
        (_share, "statistic", "difference or a ratio"),
    ],
)
async def test_wrong_question_is_named(
    stub: Any, spoil: Callable[[pb.CompareRequest], None], field: str, text: str
) -> None:
    """A question that breaks a limit is INVALID_ARGUMENT with field and limit, and not recorded."""
    request = compare("c1")
    spoil(request)
    error = await refused(stub.Compare(request))

    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert text in error.message
    assert not (await stub.ListClaims(pb.ListClaimsRequest())).claims


async def test_ratio_over_nothing_is_the_callers_error(stub: Any) -> None:
    """A statistic that is not defined on the scores is INVALID_ARGUMENT."""
    given = scores()
    given.baseline.values[:] = [0.0] * 900
    error = await refused(stub.Compare(compare("c1", given, statistic=pb.STATISTIC_RATIO)))

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "above 0" in error.message


async def test_wrong_gate_is_named(stub: Any) -> None:
    """Unknown gates, borrowed ids, missing and foreign metrics are refused by name."""
    borrowed = gate("g1")
    borrowed.head.spec.CopyFrom(pb.GateSpec(id="A.em_f1", metrics=["f1"], min_items=2))
    errors = [
        await refused(stub.Gate(gate("g1", gate_id="Z.luck"))),
        await refused(stub.Gate(borrowed)),
        await refused(stub.Gate(gate("g1", scores("f1")))),
        await refused(stub.Gate(gate("g1", *map(scores, ("f1", "exact_match", "bleu"))))),
        await refused(stub.Gate(gate("g1", scores("f1"), scores("f1")))),
    ]

    assert [error.field for error in errors] == ["gate_id", "spec.id", "scores", "scores", "metric"]
    assert "A.em_f1" in errors[0].message
    assert "missing: exact_match" in errors[2].message
    assert "no metric bleu" in errors[3].message


def streamed(given: pb.MetricScores, claim: str, size: int = 256) -> Any:
    """Return a streamed comparison."""
    head = compare(claim).head
    shape = pb.ScoreShape(metric=given.metric, seeds=3, items=300, has_baseline=True)
    begin = pb.CompareStreamHead(compare=head, shape=shape)
    yield pb.CompareStreamRequest(head=begin)
    for chunk in chunks(given, size):
        yield pb.CompareStreamRequest(chunk=chunk)


@pytest.mark.parametrize("size", [7, 256, 5000])
async def test_streamed_comparison_equals_the_whole_one(stub: Any, size: int) -> None:
    """However the scores are cut, the answer and the record are those of one message."""
    whole = await stub.Compare(compare("c1"))
    answer = await stub.CompareStream(streamed(scores(), "c1", size))

    assert answer.result == whole


async def test_streamed_gate_equals_the_whole_one(stub: Any) -> None:
    """Chunks of two metrics may be mixed."""
    both = [clustered(scores("exact_match")), clustered(scores("f1"))]
    shapes = [
        pb.ScoreShape(
            metric=one.metric, seeds=3, items=300, has_baseline=True, clusters=one.clusters
        )
        for one in both
    ]
    begin = pb.GateStreamHead(gate=gate("g1").head, shapes=shapes)
    parts = [pb.GateStreamRequest(head=begin)]
    for pair in zip(chunks(both[0], 100), chunks(both[1], 100), strict=True):
        parts += [pb.GateStreamRequest(chunk=chunk) for chunk in pair]
    whole = await stub.Gate(gate("g1"))

    assert (await stub.GateStream(iter(parts))).result == whole


async def test_wrong_stream_is_named(stub: Any) -> None:
    """A stream that does not keep to its head ends with an error that says where."""
    good = list(streamed(scores(), "c1", 300))
    large = pb.CompareStreamRequest()
    large.CopyFrom(good[0])
    large.head.shape.items = 2**31 - 1
    other = pb.CompareStreamRequest(
        chunk=pb.ScoreChunk(metric="f1", side=pb.SIDE_UNSPECIFIED, values=[1.0])
    )
    cases: list[list[pb.CompareStreamRequest]] = [
        [],
        good[1:],
        [large],
        good[:-1],
        [*good, good[1]],
        [good[0], other],
        [good[0], good[0]],
    ]
    errors = [await refused(stub.CompareStream(iter(case))) for case in cases]

    assert [error.field for error in errors] == ["head", "head", "scores", *["chunk"] * 4]
    assert "one call may have 20000" in errors[2].message
    assert "f1.baseline ended after 600 of 900" in errors[3].message
    assert "more than the 900" in errors[4].message
    assert not (await stub.ListClaims(pb.ListClaimsRequest())).claims


async def test_slow_upload_and_full_desk_are_told(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """An upload that dawdles ends at its limit; meanwhile others hear when to come back."""
    limits = {"max_queued": 0, "workers": 1, "upload_timeout_s": 1.0}
    async with validation(tmp_path, redis_server, **limits) as (stub, _):
        entered, over = asyncio.Event(), asyncio.Event()

        async def dawdle() -> AsyncIterator[pb.CompareStreamRequest]:
            yield next(iter(streamed(scores(), "c1")))
            entered.set()
            await over.wait()

        slow = asyncio.ensure_future(refused(stub.CompareStream(dawdle())))
        await entered.wait()
        full = await _until_refused(stub)
        late = await slow
        over.set()
        after = await stub.Compare(compare("c3"))

    assert full.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert full.retry_after_s == 2
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "1 s" in late.message
    assert after.claim.family >= 1


async def _until_refused(stub: Any) -> Any:
    """Ask until the place is taken: the head may still be on its way."""
    while True:
        try:
            await stub.Compare(compare("c2", scores(items=50)))
        except aio.AioRpcError as err:
            return details_of(err)
