"""Reports of the compatibility study: gate metrics, and the matrix of interference.

The baseline of a pair on a set is the mission that is better alone on that set, chosen on
development items; with equal scores it is the set's own mission. Interference of one mission with
another is the F1 on the other's set with both active, less that of the other alone.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bem.errors import EvaluationError
from numpy.typing import NDArray

from bem_fleet.acceptance.gate_evaluation import compare_metric
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.scores.metrics import score_functions
from bem_fleet.studies.compatibility.arms import (
    ALL_FIVE,
    PAIRS,
    Arm,
    Cell,
    choice_cells,
    fleet_cells,
    pair_cells,
)
from bem_fleet.studies.compatibility.mission_items import MISSIONS, MissionItem
from bem_fleet.studies.compatibility.request_path import Reply

Report = dict[str, Any]
Replies = Callable[[Cell, str, frozenset[str] | None], Sequence[Sequence[Reply]]]
"""Returns the replies to a cell's items of a split that keys name, ``[seeds][items]``."""

UNIT = "passage"
_DIGITS = 6


def f1_scores(items: Sequence[MissionItem], replies: Sequence[Reply]) -> list[float]:
    """Return the F1 of each reply, in the reading of its set."""
    return [
        round(score_functions(item.scoring_mode)["f1"](reply.text, item.golds), _DIGITS)
        for item, reply in zip(items, replies, strict=True)
    ]


class CompatibilityScores:
    """Scores of all cells of one split.

    Args:
        replies: Returns the replies to a cell's items that count.
        split: ``dev`` or ``held_out``.
        keys: Keys of the items that count; None for all.
    """

    def __init__(self, replies: Replies, split: str, keys: frozenset[str] | None = None) -> None:
        self._replies, self._split, self._keys = replies, split, keys

    def items(self, mission: str, count: int) -> list[MissionItem]:
        """Return the items of a set that count."""
        return Cell(ALL_FIVE, mission, count).items(self._split, self._keys)

    def scores(self, arm: Arm, mission: str, count: int) -> NDArray[np.float64]:
        """Return the F1 of an arm on a set, ``[seeds, items]``."""
        items = self.items(mission, count)
        return np.array([f1_scores(items, one) for one in self._of(arm, mission, count)])

    def outcomes(self, arm: Arm, mission: str, count: int) -> Report:
        """Return how many replies each source gave, and how many are empty, over all seeds."""
        replies = [one for row in self._of(arm, mission, count) for one in row]
        return {
            "sources": dict(Counter(one.source for one in replies)),
            "empty_replies": sum(not one.text for one in replies),
        }

    def _of(self, arm: Arm, mission: str, count: int) -> Sequence[Sequence[Reply]]:
        return self._replies(Cell(arm, mission, count), self._split, self._keys)


def better_alone(chosen_on: CompatibilityScores, count: int) -> dict[str, dict[str, str]]:
    """Return the better mission of each pair on each of its sets, ``{pair: {set: mission}}``.

    Args:
        chosen_on: Scores on development items.
        count: Development items of a set.
    """
    means = {
        (cell.arm.missions[0], cell.mission): float(
            chosen_on.scores(cell.arm, cell.mission, count).mean()
        )
        for cell in choice_cells(count)
    }

    def best(pair: tuple[str, str], own: str) -> str:
        return max(pair, key=lambda one: (means[one, own], one == own))

    return {pair_name(pair): {own: best(pair, own) for own in pair} for pair in PAIRS}


def pair_name(pair: Sequence[str]) -> str:
    """Return the name of the gate's metric of a pair."""
    return f"{pair[0]}_with_{pair[1]}"


def pairwise_report(
    measured: CompatibilityScores, better: Mapping[str, Mapping[str, str]], count: int
) -> Report:
    """Return metrics and matrix of all pairs.

    Args:
        measured: Scores on the measured items.
        better: As ``better_alone`` returns it.
        count: Items of a set; a pair has those of two sets.
    """
    metrics, matrix = {}, {}
    for pair in PAIRS:
        name, both = pair_name(pair), Arm(tuple(pair))
        sides: dict[str, list[NDArray[np.float64]]] = {"mission": [], "baseline": []}
        items: list[MissionItem] = []
        directed = {}
        for own in pair:
            together = measured.scores(both, own, count)
            sides["mission"].append(together)
            alone = Arm((better[name][own],))
            sides["baseline"].append(measured.scores(alone, own, count))
            items += measured.items(own, count)
            (other,) = (one for one in pair if one != own)
            directed[f"{other} on {own}"] = {
                **_difference(
                    together, measured.scores(Arm((own,)), own, count), measured.items(own, count)
                ),
                **measured.outcomes(both, own, count),
            }
        if items:
            mission, baseline = (np.concatenate(sides[one], axis=1) for one in sides)
            metrics[name] = _metric(mission, baseline, items)
            matrix[name] = {
                "f1": _difference(mission, baseline, items),
                "interference": directed,
                "better_alone": dict(better[name]),
            }
    return {"metrics": metrics, "matrix": matrix, "data": _data(measured, pair_cells(count))}


def pair_effects(report: Report) -> Report:
    """Return the interference of all pairs without scores, as the dashboard page reads it.

    Args:
        report: Report of all pairs.
    """
    fields = ("difference", "ci_low", "ci_high", "items")
    pairs = []
    for row in report["matrix"].values():
        for name, effect in row["interference"].items():
            other, _, own = name.partition(" on ")
            if effect["items"]:
                pairs.append({
                    "mission": own,
                    "other": other,
                    **{one: effect[one] for one in fields},
                })  # fmt: skip
    return {"split": report["split"], "seeds": report["seeds"], "pairs": pairs}


def fleet_report(measured: CompatibilityScores, count: int) -> Report:
    """Return metrics of all five missions together, each on its own set.

    Args:
        measured: Scores on the measured items.
        count: Items of a set.
    """
    metrics, matrix = {}, {}
    for mission in MISSIONS:
        items = measured.items(mission, count)
        if not items:
            continue
        together = measured.scores(ALL_FIVE, mission, count)
        alone = measured.scores(Arm((mission,)), mission, count)
        metrics[f"{mission}_in_fleet"] = _metric(together, alone, items)
        matrix[mission] = {
            **_difference(together, alone, items),
            **measured.outcomes(ALL_FIVE, mission, count),
        }
    return {"metrics": metrics, "matrix": matrix, "data": _data(measured, fleet_cells(count))}


def _metric(
    mission: NDArray[np.float64], baseline: NDArray[np.float64], items: Sequence[MissionItem]
) -> Report:
    return {
        "mission": mission.tolist(),
        "baseline": baseline.tolist(),
        "keys": [one.key for one in items],
        "clusters": [one.cluster for one in items],
    }


def _difference(
    mission: NDArray[np.float64], baseline: NDArray[np.float64], items: Sequence[MissionItem]
) -> Report:
    """Return the difference of two arms with its interval; none where too few items vary."""
    if not items:
        return {"items": 0}
    clusters = tuple(one.cluster for one in items)
    scores = PairedScores(mission, baseline, clusters, UNIT)
    found = compare_metric("f1", scores, "difference", 0.0)
    return {
        "together": round(float(mission.mean()), _DIGITS),
        "alone": round(float(baseline.mean()), _DIGITS),
        "difference": round(found.figure, _DIGITS),
        "ci_low": _finite(found.low),
        "ci_high": _finite(found.high),
        "items": len(items),
        "clusters": len(set(clusters)),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, _DIGITS)


def _data(measured: CompatibilityScores, cells: Any) -> dict[str, str]:
    counts = {cell.mission: cell.count for cell in cells}
    rows = [
        [one.key, one.prompt, *one.golds]
        for mission, count in counts.items()
        for one in measured.items(mission, count)
    ]
    if not rows:
        raise EvaluationError("items: none of the given keys is in the study's data; name others")
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return {"name": "sets of the five missions", "digest": digest}
