"""Score upload: one message, or a stream of chunks in any order."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from bem_fleet.acceptance.catalogue import CENTRAL_GATES, load_catalogue
from bem_fleet.services.validation.score_upload import ScoreUpload, read_scores
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError
from hypothesis import given, settings
from hypothesis import strategies as st

METRICS = load_catalogue(CENTRAL_GATES).metrics


def entry(values: list[float], seeds: int = 1, metric: str = "f1") -> pb.MetricScores:
    """Return scores whose baseline equals the mission's."""
    side = pb.ScoreMatrix(seeds=seeds, values=values)
    return pb.MetricScores(metric=metric, mission=side, baseline=side)


async def stream(chunks: list[pb.ScoreChunk]) -> AsyncIterator[pb.ScoreChunk]:
    """Yield chunks."""
    for chunk in chunks:
        yield chunk


def test_rows_are_seeds() -> None:
    """Values come row by row."""
    scores = read_scores([entry([0.1, 0.2, 0.3, 0.4], seeds=2)], METRICS, 100)["f1"]

    assert scores.mission.tolist() == [[0.1, 0.2], [0.3, 0.4]]


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([], "0 metrics"),
        ([entry([0.5, 0.5], metric="charm")], "'charm' is unknown"),
        ([entry([0.5, 0.5]), entry([0.5, 0.5])], "f1 is repeated"),
        ([entry([0.5])], "1 items; at least 2"),
        ([entry([0.5, 0.5, 0.5], seeds=2)], "a multiple of 2"),
        ([entry([0.5, 0.5], seeds=1001)], "0 to 1000"),
        ([entry([0.5] * 60)], "one call may have 100"),
        ([entry([0.5, float("nan")])], "NaN"),
        ([entry([0.5, 7.0])], "above"),
    ],
)
def test_wrong_scores_are_named(entries: list[pb.MetricScores], text: str) -> None:
    """Unknown metrics, incomplete rows, too many or impossible scores."""
    with pytest.raises(InvalidArgumentError, match=text):
        read_scores(entries, METRICS, 100)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=20), st.randoms())
@settings(max_examples=30, deadline=None)
async def test_chunks_of_any_size_make_the_same_scores(sizes: list[int], order: Any) -> None:
    """The sides may come in any order; within a side the chunks are appended."""
    values = np.linspace(0, 1, 2 * 12).reshape(2, 12)
    chunks = []
    for side, row in ((pb.SIDE_MISSION, values[0]), (pb.SIDE_BASELINE, values[1])):
        begin, cut = 0, iter(sizes * 24)
        own = []
        while begin < len(row):
            end = begin + next(cut)
            own.append(pb.ScoreChunk(metric="f1", side=side, values=row[begin:end]))
            begin = end
        chunks.append(own)
    merged = []
    while any(chunks):
        merged.append(order.choice([own for own in chunks if own]).pop(0))
    shape = pb.ScoreShape(metric="f1", seeds=3, items=4, has_baseline=True)
    scores = (await ScoreUpload([shape], METRICS, 100).read(stream(merged)))["f1"]

    assert scores.mission.tolist() == values[0].reshape(3, 4).tolist()
    assert scores.baseline is not None
    assert scores.baseline.tolist() == values[1].reshape(3, 4).tolist()


async def test_clusters_come_with_the_scores_and_with_a_stream() -> None:
    """One message and a stream give the same clusters and unit; without them an item is one."""
    clusters = pb.ItemClusters(unit="family", numbers=[4, 0, 4])
    given = entry([0.1, 0.2, 0.3])
    plain = read_scores([given], METRICS, 100)["f1"]
    given.clusters.CopyFrom(clusters)
    at_once = read_scores([given], METRICS, 100)["f1"]
    shape = pb.ScoreShape(metric="f1", items=3, clusters=clusters)
    chunk = pb.ScoreChunk(metric="f1", side=pb.SIDE_MISSION, values=[0.1, 0.2, 0.3])
    streamed = (await ScoreUpload([shape], METRICS, 100).read(stream([chunk])))["f1"]

    assert (plain.unit, plain.clusters) == ("item", None)
    assert (at_once.unit, at_once.clusters) == ("family", ("4", "0", "4"))
    assert (streamed.unit, streamed.clusters) == (at_once.unit, at_once.clusters)


@pytest.mark.parametrize(
    ("clusters", "field", "text"),
    [
        (pb.ItemClusters(unit="family", numbers=[0]), "clusters.numbers", "1 numbers for 2"),
        (pb.ItemClusters(unit="family"), "clusters.numbers", "0 numbers for 2"),
        (pb.ItemClusters(unit="family", numbers=[0, -1]), "clusters.numbers", "0 or more"),
        (pb.ItemClusters(numbers=[0, 1]), "clusters.unit", "1 to 64 characters"),
        (pb.ItemClusters(unit="item", numbers=[0, 1]), "clusters.unit", "no cluster"),
        (pb.ItemClusters(unit="u" * 65, numbers=[0, 1]), "clusters.unit", "1 to 64 characters"),
    ],
)
def test_wrong_clusters_are_named(clusters: pb.ItemClusters, field: str, text: str) -> None:
    """Every item has one cluster, and the unit says what it is."""
    given = entry([0.5, 0.6])
    given.clusters.CopyFrom(clusters)
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        read_scores([given], METRICS, 100)

    assert caught.value.field == field


async def test_a_stream_keeps_to_its_shapes() -> None:
    """Too few, too many, and unannounced chunks are refused; a limit before anything is read."""
    shape = pb.ScoreShape(metric="f1", items=3)

    def chunk(count: int, side: Any = pb.SIDE_MISSION) -> pb.ScoreChunk:
        return pb.ScoreChunk(metric="f1", side=side, values=[0.5] * count)

    for chunks, text in (
        ([chunk(2)], "ended after 2 of 3"),
        ([chunk(4)], "more than the 3"),
        ([chunk(1, pb.SIDE_BASELINE)], "was not announced"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            await ScoreUpload([shape], METRICS, 100).read(stream(chunks))
    with pytest.raises(InvalidArgumentError, match="one call may have 2"):
        ScoreUpload([shape], METRICS, 2)
