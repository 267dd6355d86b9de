"""Evaluation pipeline: from the sides and items of a comparison to report files."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bem.errors import EvaluationError
from numpy.typing import NDArray

from bem_fleet.evaluation.execution import ResponseCache, TimedResponse, collect_responses
from bem_fleet.evaluation.plots import draw_report
from bem_fleet.evaluation.report_rendering import render_json, render_markdown
from bem_fleet.evaluation.score_comparison import (
    MetricScores,
    compare_categories,
    metric_differences,
    paired_runs,
    score_side,
)
from bem_fleet.evaluation.systems import ComparisonSide, Decoding, EvaluationItem
from bem_fleet.scores.cache import ScoreCache
from bem_fleet.stats.fdr import benjamini_hochberg

Report = dict[str, Any]
_REPORTED_PACKAGES = ("bem-fleet", "numpy", "scipy", "statsmodels", "sacrebleu")


@dataclass(frozen=True)
class Comparison:
    """Specification of a comparison.

    Attributes:
        id: Name of the report.
        mission: Side under test.
        baselines: Sides to compare with; the first is the main baseline of the report.
        items: Items for all sides; keys are unique.
        data_name: Name of the dataset and its split.
        data_digest: SHA-256 of the dataset's source.
        command: Command that writes this report.
        decoding: Decoding settings for all sides.
        resamples: Number of bootstrap resamples, at least 100.
        seed: Random seed of the bootstrap.
        confidence_note: Caveats for the reader, for example the number of training seeds.
    """

    id: str
    mission: ComparisonSide
    baselines: tuple[ComparisonSide, ...]
    items: tuple[EvaluationItem, ...]
    data_name: str
    data_digest: str
    command: str
    decoding: Decoding = field(default_factory=Decoding)
    resamples: int = 10_000
    seed: int = 0
    confidence_note: str = ""


class StageTimer:
    """Timer of pipeline stages.

    Attributes:
        seconds: Wall time by stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to stage ``name``."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def evaluate(
    comparison: Comparison, *, cache: Path | None = None, stages: StageTimer | None = None
) -> Report:
    """Run a comparison and return its report.

    Args:
        comparison: Specification of the comparison.
        cache: Folder of cached responses and scores; None disables the cache.
        stages: Timer that receives the seconds of each stage.

    Returns:
        The report: ``id``, ``mission``, ``baseline``, ``metrics`` with the scores per item, costs
        and provenance; ``others`` has the same for each further baseline.

    Raises:
        EvaluationError: There is nothing to compare, a key is repeated, or a system does not
            respond.
        InvalidScoresError: An item has no gold answer.
    """
    stages = stages or StageTimer()
    with stages.time("prepare"):
        sides = _validate_comparison(comparison)
        responses_cache = ResponseCache(cache / "answers.jsonl" if cache else None)
        scores_cache = ScoreCache(cache / "scores.jsonl" if cache else None)
    with stages.time("execute"):
        responses = {
            side.name: collect_responses(
                side, comparison.items, comparison.decoding, responses_cache
            )
            for side in sides
        }
    with stages.time("metrics"):
        scored = {
            side.name: score_side(side, comparison.items, responses[side.name], scores_cache)
            for side in sides
        }
    with stages.time("statistics"):
        pairs = [
            _compare_with_baseline(comparison, base, scored, responses)
            for base in comparison.baselines
        ]
        _add_adjusted_p_values(pairs)
    head, *others = pairs
    return {
        **head,
        "others": others,
        "stages_s": {name: round(value, 3) for name, value in stages.seconds.items()},
        "versions": {name: version(name) for name in _REPORTED_PACKAGES},
    }


def write_report(report: Report, stem: Path) -> list[Path]:
    """Write ``<stem>.json``, ``.md`` and ``.png``, and return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in (".json", ".md", ".png")]
    paths[0].write_text(render_json(report), encoding="utf-8")
    paths[1].write_text(render_markdown(report, paths[2].name), encoding="utf-8")
    draw_report(report, paths[2])
    return paths


def _validate_comparison(comparison: Comparison) -> list[ComparisonSide]:
    sides = [comparison.mission, *comparison.baselines]
    keys = {item.key for item in comparison.items}
    names = {side.name for side in sides}
    if not comparison.items or not comparison.baselines:
        raise EvaluationError("comparison: at least one item and one baseline are needed")
    if len(keys) != len(comparison.items):
        raise EvaluationError(f"items: {len(comparison.items) - len(keys)} keys are repeated")
    if len(names) != len(sides):
        raise EvaluationError(f"sides: names must be unique: {[side.name for side in sides]}")
    return sides


def _compare_with_baseline(
    comparison: Comparison,
    baseline: ComparisonSide,
    scored: dict[str, MetricScores],
    responses: dict[str, list[list[TimedResponse]]],
) -> Report:
    """Return the report of the mission against one baseline."""
    mission = comparison.mission
    mission_scores, baseline_scores = scored[mission.name], scored[baseline.name]
    keys = [item.key for item in comparison.items]
    sides = {"mission": mission, "baseline": baseline}
    return {
        "id": comparison.id,
        **{role: _describe_side(side) for role, side in sides.items()},
        "metrics": _metric_entries(comparison, mission_scores, baseline_scores),
        "n_items": len(keys),
        "seeds": [run.seed for run in mission.runs],
        "data": {"name": comparison.data_name, "digest": comparison.data_digest},
        "items_digest": hashlib.sha256(json.dumps(keys).encode()).hexdigest(),
        "decoding": asdict(comparison.decoding),
        "command": comparison.command,
        "note": comparison.confidence_note,
        "wall_s": {role: _wall_seconds(responses[side.name]) for role, side in sides.items()},
        "tokens": {role: _count_tokens(responses[side.name]) for role, side in sides.items()},
        "refused": {role: _count_refused(responses[side.name]) for role, side in sides.items()},
        "categories": compare_categories(
            comparison.items, mission_scores, baseline_scores, **_bootstrap(comparison)
        ),
        "replies": {
            role: [[one.response.text for one in run] for run in responses[side.name]]
            for role, side in sides.items()
        },
    }


def _metric_entries(
    comparison: Comparison, mission: MetricScores, baseline: MetricScores
) -> dict[str, dict[str, Any]]:
    """Return each metric's difference with its interval, and the scores that it was made from."""
    differences = metric_differences(mission, baseline, **_bootstrap(comparison))
    return {
        name: {
            **asdict(difference),
            "mission": _to_lists(mission[name]),
            "baseline": _to_lists(paired_runs(mission[name], baseline[name])),
            "keys": [item.key for item in comparison.items],
        }
        for name, difference in differences.items()
    }


def _bootstrap(comparison: Comparison) -> dict[str, int]:
    return {"resamples": comparison.resamples, "seed": comparison.seed}


def _add_adjusted_p_values(pairs: Sequence[Report]) -> None:
    """Add to each metric its p-value adjusted over all metrics and baselines of the report."""
    family = {
        f"{place} {name}": metric["p"]
        for place, pair in enumerate(pairs)
        for name, metric in pair["metrics"].items()
    }
    for claim, corrected in benjamini_hochberg(family).items():
        place, name = claim.split(" ", 1)
        pairs[int(place)]["metrics"][name]["p_adjusted"] = round(corrected.p_adjusted, 6)


def _describe_side(side: ComparisonSide) -> dict[str, object]:
    return {
        "name": side.name,
        "digest": side.digest,
        "system": ",".join(dict.fromkeys(run.system.name for run in side.runs)),
        "scoring_mode": side.scoring_mode,
        "shots": len(side.shots),
    }


def _to_lists(scores: NDArray[Any]) -> list[Any]:
    lists: list[Any] = (scores[0] if len(scores) == 1 else scores).tolist()
    return lists


def _wall_seconds(runs: Sequence[Sequence[TimedResponse]]) -> float:
    return round(sum(one.seconds for run in runs for one in run), 3)


def _count_refused(runs: Sequence[Sequence[TimedResponse]]) -> int:
    return sum(bool(one.response.refused) for run in runs for one in run)


def _count_tokens(runs: Sequence[Sequence[TimedResponse]]) -> dict[str, int]:
    flat = [one.response for run in runs for one in run]
    return {
        "prompt": sum(response.prompt_tokens for response in flat),
        "completion": sum(response.completion_tokens for response in flat),
    }
