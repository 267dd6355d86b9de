"""Score upload: scores of one message or of a stream of chunks, checked against limits first."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from bem.errors import InvalidScoresError
from bem_fleet.acceptance.catalogue import MetricDefinition
from bem_fleet.acceptance.score_report import ITEM, PairedScores, validate_paired_scores
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError
from numpy.typing import NDArray

MAX_METRICS = 16
MAX_SEEDS = 1000
MAX_UNIT_LENGTH = 64


def read_scores(
    entries: Sequence[pb.MetricScores], metrics: Mapping[str, MetricDefinition], limit: int
) -> dict[str, PairedScores]:
    """Read the scores of one message.

    Args:
        entries: Scores, one entry per metric.
        metrics: Known metrics by name.
        limit: Maximum number of scores over all entries.

    Raises:
        InvalidArgumentError: An unknown or repeated metric, too many scores, incomplete rows,
            sides that do not pair, NaN, scores outside the metric's range, or clusters that are
            not those of the items.
    """
    _check_names([entry.metric for entry in entries], metrics)
    total = sum(len(entry.mission.values) + len(entry.baseline.values) for entry in entries)
    _check_total(total, limit)
    return {
        entry.metric: pair_scores(
            metrics[entry.metric],
            _read_matrix(entry.metric, "mission", entry.mission),
            _read_matrix(entry.metric, "baseline", entry.baseline)
            if entry.HasField("baseline")
            else None,
            entry.clusters if entry.HasField("clusters") else None,
        )
        for entry in entries
    }


def pair_scores(
    metric: MetricDefinition,
    mission: NDArray[np.float64],
    baseline: NDArray[np.float64] | None,
    clusters: pb.ItemClusters | None = None,
) -> PairedScores:
    """Return both sides of one metric, [seeds, items], with the clusters of the items.

    Args:
        metric: Definition of the metric.
        mission: Scores of the mission, [seeds, items].
        baseline: Scores of the baseline in the same shape; None without a baseline.
        clusters: Clusters of the items; None where each item is a unit of its own.

    Raises:
        InvalidArgumentError: The sides do not pair, a score is invalid, or the clusters are not
            those of the items.
    """
    if mission.shape[1] < 2:
        raise InvalidArgumentError(
            "scores", f"{metric.name}: {mission.shape[1]} items; at least 2 are needed"
        )
    try:
        scores = validate_paired_scores(metric, mission, baseline)
    except InvalidScoresError as err:
        raise InvalidArgumentError("scores", str(err)) from err
    return scores if clusters is None else _with_clusters(metric.name, scores, clusters)


def _with_clusters(name: str, scores: PairedScores, clusters: pb.ItemClusters) -> PairedScores:
    items = scores.mission.shape[1]
    if not 1 <= len(clusters.unit) <= MAX_UNIT_LENGTH or clusters.unit == ITEM:
        raise InvalidArgumentError(
            "clusters.unit",
            f"{name}: {clusters.unit[:MAX_UNIT_LENGTH]!r} is no cluster; 1 to {MAX_UNIT_LENGTH} "
            "characters that say what one is, such as 'family'",
        )
    if len(clusters.numbers) != items:
        raise InvalidArgumentError(
            "clusters.numbers",
            f"{name}: {len(clusters.numbers)} numbers for {items} items; send one for each item",
        )
    if min(clusters.numbers) < 0:
        raise InvalidArgumentError(
            "clusters.numbers", f"{name}: {min(clusters.numbers)}; a number is 0 or more"
        )
    return replace(scores, clusters=tuple(map(str, clusters.numbers)), unit=clusters.unit)


class ScoreUpload:
    """Scores of a stream: shapes first, then chunks in any order of metrics and sides.

    Memory is allocated by the shapes, so the limit is checked before any of it is.

    Args:
        shapes: Shapes of the scores that follow.
        metrics: Known metrics by name.
        limit: Maximum number of scores over all shapes.

    Raises:
        InvalidArgumentError: A shape is invalid, or the shapes exceed the limit.
    """

    def __init__(
        self, shapes: Sequence[pb.ScoreShape], metrics: Mapping[str, MetricDefinition], limit: int
    ) -> None:
        _check_names([shape.metric for shape in shapes], metrics)
        for shape in shapes:
            if shape.items < 2:
                raise InvalidArgumentError(
                    "shape.items", f"{shape.metric}: {shape.items}; at least 2 are needed"
                )
            _check_seeds(f"{shape.metric}: shape.seeds", shape.seeds)
        _check_total(sum(_score_count(shape) * (1 + shape.has_baseline) for shape in shapes), limit)
        self._metrics = metrics
        self._shapes = {shape.metric: shape for shape in shapes}
        self._sides: dict[tuple[str, int], NDArray[np.float64]] = {}
        self._filled: dict[tuple[str, int], int] = {}
        for shape in shapes:
            for side in (pb.SIDE_MISSION, pb.SIDE_BASELINE)[: 1 + shape.has_baseline]:
                self._sides[shape.metric, side] = np.empty(_score_count(shape))
                self._filled[shape.metric, side] = 0

    async def read(self, chunks: AsyncIterator[pb.ScoreChunk]) -> dict[str, PairedScores]:
        """Read all chunks and return the scores.

        Raises:
            InvalidArgumentError: A chunk was not announced, there are more or fewer scores than
                announced, or a score is invalid.
        """
        async for chunk in chunks:
            self._append(chunk)
        for (metric, side), filled in self._filled.items():
            wanted = len(self._sides[metric, side])
            if filled < wanted:
                raise InvalidArgumentError(
                    "chunk", f"{metric}.{_side_name(side)} ended after {filled} of {wanted} scores"
                )
        return {
            name: pair_scores(
                self._metrics[name],
                self._matrix(shape, pb.SIDE_MISSION),
                self._matrix(shape, pb.SIDE_BASELINE) if shape.has_baseline else None,
                shape.clusters if shape.HasField("clusters") else None,
            )
            for name, shape in self._shapes.items()
        }

    def _append(self, chunk: pb.ScoreChunk) -> None:
        key = (chunk.metric, chunk.side)
        if key not in self._sides:
            raise InvalidArgumentError(
                "chunk", f"{chunk.metric[:64]!r}.{_side_name(chunk.side)} was not announced"
            )
        begin, end = self._filled[key], self._filled[key] + len(chunk.values)
        if end > len(self._sides[key]):
            raise InvalidArgumentError(
                "chunk",
                f"{chunk.metric}.{_side_name(chunk.side)} has more than the "
                f"{len(self._sides[key])} scores that were announced",
            )
        self._sides[key][begin:end] = chunk.values
        self._filled[key] = end

    def _matrix(self, shape: pb.ScoreShape, side: int) -> NDArray[np.float64]:
        return self._sides[shape.metric, side].reshape(max(1, shape.seeds), shape.items)


def _side_name(side: int) -> str:
    names: dict[int, str] = {pb.SIDE_MISSION: "mission", pb.SIDE_BASELINE: "baseline"}
    return names.get(side, f"side {side}")


def _score_count(shape: pb.ScoreShape) -> int:
    return max(1, shape.seeds) * shape.items


def _read_matrix(metric: str, side: str, matrix: pb.ScoreMatrix) -> NDArray[np.float64]:
    name = f"{metric}.{side}"
    _check_seeds(f"{name}.seeds", matrix.seeds)
    seeds = max(1, matrix.seeds)
    if not matrix.values or len(matrix.values) % seeds:
        raise InvalidArgumentError(
            "scores",
            f"{name} has {len(matrix.values)} scores; {seeds} seeds need a multiple of {seeds}",
        )
    return np.array(matrix.values, dtype=np.float64).reshape(seeds, -1)


def _check_seeds(name: str, seeds: int) -> None:
    if not 0 <= seeds <= MAX_SEEDS:
        raise InvalidArgumentError("scores", f"{name} is {seeds}; 0 to {MAX_SEEDS} are allowed")


def _check_total(total: int, limit: int) -> None:
    if total > limit:
        raise InvalidArgumentError(
            "scores", f"{total} scores; one call may have {limit}; split the comparison"
        )


def _check_names(names: Iterable[str], metrics: Mapping[str, MetricDefinition]) -> None:
    seen: set[str] = set()
    for name in names:
        if name not in metrics:
            raise InvalidArgumentError(
                "metric", f"{name[:64]!r} is unknown; known: {', '.join(sorted(metrics))}"
            )
        if name in seen:
            raise InvalidArgumentError("metric", f"{name} is repeated; send each metric once")
        seen.add(name)
    if not 1 <= len(seen) <= MAX_METRICS:
        raise InvalidArgumentError("scores", f"{len(seen)} metrics; 1 to {MAX_METRICS} are allowed")
