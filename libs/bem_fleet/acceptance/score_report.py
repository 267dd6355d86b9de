"""Reader of evaluation reports: validated per-item scores for gates, without the conclusions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bem.errors import GateFormatError, InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.acceptance.catalogue import MetricDefinition, check_schema
from bem_fleet.stats.samples import validate_scores

ITEM = "item"
"""Unit of resampling of items without clusters."""


@dataclass(frozen=True)
class PairedScores:
    """Paired scores of one metric.

    Attributes:
        mission: Finite scores of the mission, [seeds, items].
        baseline: Scores of the baseline in the same shape; None without a baseline.
        clusters: Cluster of each item, [items]; None where each item is a unit of its own.
        unit: Name of the unit of resampling: ``item``, or what a cluster is (``family``).
    """

    mission: NDArray[np.float64]
    baseline: NDArray[np.float64] | None
    clusters: tuple[str, ...] | None = None
    unit: str = ITEM


@dataclass(frozen=True)
class ScoreReport:
    """Scores of an evaluation report.

    Attributes:
        command: Command that wrote the report.
        scores: Paired scores by metric.
        versions: Version of each metric's meaning at the time of the report.
    """

    command: str
    scores: Mapping[str, PairedScores]
    versions: Mapping[str, int]


def load_score_report(path: Path, metrics: Mapping[str, MetricDefinition]) -> ScoreReport:
    """Read a report and validate its scores.

    Args:
        path: JSON file.
        metrics: Known metrics; scores of other metrics are ignored.

    Raises:
        GateFormatError: The file is not JSON or breaks the schema, or scores are not paired, not
            finite, out of the metric's range, or of other numbers of seeds and items than the
            report states. The text names the place.
    """
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise GateFormatError(f"{path.name}: {err}") from err
    check_schema(document, "report.schema.json", path.name)
    seeds = document["seeds"] if isinstance(document["seeds"], int) else len(document["seeds"])
    scores, versions = {}, {}
    for name, entry in document["metrics"].items():
        if name not in metrics:
            continue
        try:
            scores[name] = validate_paired_scores(
                metrics[name], entry["mission"], entry.get("baseline")
            )
        except InvalidScoresError as err:
            raise GateFormatError(f"{path.name}: {err}") from err
        versions[name] = entry.get("version", 1)
        scores[name] = _with_clusters(scores[name], document, entry, f"{path.name}: {name}")
        expected = (seeds, len(entry["keys"]))
        if scores[name].mission.shape != expected:
            raise GateFormatError(
                f"{path.name}: {name}: {_describe_shape(scores[name].mission)}; the report has "
                f"{seeds} seeds and {expected[1]} keys"
            )
    return ScoreReport(document["command"], scores, versions)


def _with_clusters(
    scores: PairedScores, document: Mapping[str, Any], entry: Mapping[str, Any], label: str
) -> PairedScores:
    """Return the scores with the clusters and the unit that the report names.

    Raises:
        GateFormatError: There is a unit without clusters, clusters without a unit, or another
            number of clusters than of keys.
    """
    clusters, unit = entry.get("clusters"), document.get("unit", ITEM)
    if clusters is None:
        if unit != ITEM:
            raise GateFormatError(
                f"{label}: clusters: missing; the report's unit is {unit!r}, so that every item "
                "names its own"
            )
        return scores
    if unit == ITEM:
        raise GateFormatError(f"{label}: unit: missing; name what a cluster is, such as 'family'")
    if len(clusters) != len(entry["keys"]):
        raise GateFormatError(
            f"{label}: clusters: {len(clusters)} for {len(entry['keys'])} keys; one for each item"
        )
    return replace(scores, clusters=tuple(clusters), unit=unit)


def validate_paired_scores(
    metric: MetricDefinition, mission: ArrayLike, baseline: ArrayLike | None
) -> PairedScores:
    """Validate the scores of one metric.

    Args:
        metric: Definition of the metric.
        mission: Scores of the mission, [items] or [seeds, items].
        baseline: Scores of the baseline in the same shape; None without a baseline.

    Raises:
        InvalidScoresError: Scores are ragged, empty, NaN, infinite or out of range, or the shapes
            differ.
    """
    left = _validate_matrix(metric, mission, "mission")
    if baseline is None:
        return PairedScores(left, None)
    right = _validate_matrix(metric, baseline, "baseline")
    if left.shape != right.shape:
        raise InvalidScoresError(
            f"{metric.name}: mission has {_describe_shape(left)}, "
            f"baseline {_describe_shape(right)}; both sides need the same items and seeds"
        )
    return PairedScores(left, right)


def _describe_shape(scores: NDArray[np.float64]) -> str:
    return f"{scores.shape[0]} x {scores.shape[1]} scores"


def _validate_matrix(metric: MetricDefinition, values: ArrayLike, side: str) -> NDArray[np.float64]:
    name = f"{metric.name}.{side}"
    try:
        axes = 2 if np.ndim(values) == 2 else 1
    except ValueError as err:  # ragged
        raise InvalidScoresError(f"{name}: seeds have different numbers of items") from err
    matrix = np.atleast_2d(validate_scores(values, name, ndim=axes))
    low, high = float(matrix.min()), float(matrix.max())
    if low < metric.minimum:
        raise InvalidScoresError(f"{name}: {low:g} is below the metric's least, {metric.minimum:g}")
    if high > metric.maximum:
        raise InvalidScoresError(f"{name}: {high:g} is above the metric's most, {metric.maximum:g}")
    return matrix
