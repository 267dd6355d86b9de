"""An evaluation report, as far as a gate reads it: per-item scores, never its own conclusions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bem.errors import GateFormatError, InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.acceptance.catalogue import MetricDefinition, check_schema


@dataclass(frozen=True)
class PairedScores:
    """Scores of one metric.

    Attributes:
        mission: [seeds, items], finite.
        baseline: The same shape; None where there is none.
    """

    mission: NDArray[np.float64]
    baseline: NDArray[np.float64] | None


@dataclass(frozen=True)
class ScoreReport:
    """What one evaluation run found.

    Attributes:
        command: What made it.
        scores: By metric.
        versions: Of each metric's meaning at the time.
    """

    command: str
    scores: Mapping[str, PairedScores]
    versions: Mapping[str, int]


def load_score_report(path: Path, metrics: Mapping[str, MetricDefinition]) -> ScoreReport:
    """Read a report and check its scores.

    Args:
        path: JSON file.
        metrics: The known metrics; scores of others are left out.

    Raises:
        GateFormatError: It is no JSON, breaks the schema, or a metric's scores are not paired
            item by item, not finite, outside what the metric can be, or of other numbers of
            seeds and items than the report says; the place is named.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise GateFormatError(f"{path.name}: {err}") from err
    check_schema(found, "report.schema.json", path.name)
    seeds = found["seeds"] if isinstance(found["seeds"], int) else len(found["seeds"])
    scores, versions = {}, {}
    for name, entry in found["metrics"].items():
        if name not in metrics:
            continue
        try:
            scores[name] = validate_paired_scores(
                metrics[name], entry["mission"], entry.get("baseline")
            )
        except InvalidScoresError as err:
            raise GateFormatError(f"{path.name}: {err}") from err
        versions[name] = entry.get("version", 1)
        wanted = (seeds, len(entry["keys"]))
        if scores[name].mission.shape != wanted:
            raise GateFormatError(
                f"{path.name}: {name}: {_describe_shape(scores[name].mission)}; the report has "
                f"{seeds} seeds and {wanted[1]} keys"
            )
    return ScoreReport(found["command"], scores, versions)


def validate_paired_scores(
    metric: MetricDefinition, mission: ArrayLike, baseline: ArrayLike | None
) -> PairedScores:
    """Check the scores of one metric.

    Args:
        metric: What they mean.
        mission: [items] or [seeds, items].
        baseline: The same shape, or None.

    Raises:
        InvalidScoresError: Ragged, empty, NaN or infinite, different shapes, or out of range.
    """
    left = _validate_matrix(metric, mission, "mission")
    if baseline is None:
        return PairedScores(left, None)
    right = _validate_matrix(metric, baseline, "baseline")
    if left.shape != right.shape:
        raise InvalidScoresError(
            f"{metric.name}: mission has {_describe_shape(left)}, baseline {_describe_shape(right)}; "
            "both sides need the same items under the same seeds"
        )
    return PairedScores(left, right)


def _describe_shape(scores: NDArray[np.float64]) -> str:
    return f"{scores.shape[0]} x {scores.shape[1]} scores"


def _validate_matrix(metric: MetricDefinition, values: ArrayLike, side: str) -> NDArray[np.float64]:
    name = f"{metric.name}.{side}"
    try:
        found = np.atleast_2d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError) as err:
        raise InvalidScoresError(f"{name}: seeds have different numbers of items") from err
    if found.ndim != 2 or found.size == 0:
        raise InvalidScoresError(f"{name}: shape {found.shape}; [items] or [seeds, items] wanted")
    if bad := int(np.count_nonzero(~np.isfinite(found))):
        raise InvalidScoresError(f"{name}: {bad} of {found.size} scores are NaN or infinite")
    low, high = float(found.min()), float(found.max())
    if metric.minimum is not None and low < metric.minimum:
        raise InvalidScoresError(f"{name}: {low:g} is below the metric's least, {metric.minimum:g}")
    if metric.maximum is not None and high > metric.maximum:
        raise InvalidScoresError(f"{name}: {high:g} is above the metric's most, {metric.maximum:g}")
    return found
