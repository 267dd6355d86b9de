"""Stored results of a checkout: acceptance gates with their verdicts, and training curves.

Gates are the catalogue's (``bem_fleet/acceptance/gates.yaml``), verdicts what ``make gates`` wrote
to ``results/gates.json``, curves the trainer's ``results/<mission>_training/<run>/curve.jsonl``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bem_fleet
import yaml
from pydantic import BaseModel, ConfigDict

CURVE_POINTS = 200
"""Points of a curve that are sent; a longer one is thinned evenly."""

_CATALOGUE = Path(bem_fleet.__path__[0]) / "acceptance" / "gates.yaml"
_VERDICT_FIELDS = (
    *("figure", "ci_low", "ci_high", "p_adjusted", "n_items", "seeds", "status", "evidence"),
)
_MAX_CURVE_BYTES = 64 * 1024 * 1024
_STEP = "step"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


class GateVerdict(_Stored):
    """An acceptance gate, and its verdict where there is one.

    Attributes:
        id: Id, such as ``A.em_f1``.
        mission: Name of the mission.
        phase: Deployment phase, 1 to 4.
        claim: The claim in words.
        baseline: What it is compared with; None without a baseline.
        statistic: ``difference``, ``ratio``, ``mean`` or ``share``.
        direction: Whether ``higher`` or ``lower`` values are better.
        target: Value that the estimate must reach.
        margin: Value that the interval must exclude.
        figure: Estimate; None without a measurement, as all that follow.
        ci_low: Lower end of the 95 % interval.
        ci_high: Upper end.
        p_adjusted: P-value adjusted over the family of all gates.
        n_items: Number of items.
        seeds: Number of training seeds.
        status: ``pass``, ``fail``, ``unverified`` or ``not_measured``.
        evidence: What the report is worth as evidence.
    """

    id: str
    mission: str
    phase: int
    claim: str
    baseline: str | None = None
    statistic: str
    direction: str
    target: float
    margin: float
    figure: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_adjusted: float | None = None
    n_items: int = 0
    seeds: int = 0
    status: str = "not_measured"
    evidence: str | None = None


class TrainingCurve(_Stored):
    """Curve of one training run.

    Attributes:
        mission: Name of the mission.
        run: Name of the run, such as ``seed-0``.
        steps: Optimiser steps.
        series: Values at the steps by name; a nested field is ``field.name``, a gap None.
    """

    mission: str
    run: str
    steps: list[float]
    series: dict[str, list[float | None]]


class PairEffect(_Stored):
    """What another active mission does to a mission's answers, as the compatibility study measures.

    Attributes:
        mission: Mission whose items were answered.
        other: Mission that was active beside it.
        difference: F1 with both active, less that of the mission alone.
        ci_low: Lower bound of the 95 % interval; None where nothing varies.
        ci_high: Upper bound of the 95 % interval; None where nothing varies.
        items: Number of items.
    """

    mission: str
    other: str
    difference: float
    ci_low: float | None = None
    ci_high: float | None = None
    items: int


class StoredResults(_Stored):
    """All stored results.

    Attributes:
        gates: Gates in the catalogue's order.
        curves: Training curves, sorted by mission and run.
        pairs: Measured pairs of missions; empty if they are not measured.
        reason: Reason why there are no verdicts or curves; empty if there are.
    """

    gates: list[GateVerdict]
    curves: list[TrainingCurve] = []
    pairs: list[PairEffect] = []
    reason: str = ""


def read_results(folder: Path | None) -> StoredResults:
    """Return the gates, with what is stored of them in a folder of results.

    Args:
        folder: Folder of ``gates.json`` and the training runs; None for none.
    """
    catalogue = yaml.safe_load(_CATALOGUE.read_text())["gates"]
    if folder is None:
        return StoredResults(
            gates=_gates(catalogue, {}), reason="BEM_GATEWAY_RESULTS_FOLDER names no folder"
        )
    try:
        verdicts = {one["id"]: one for one in json.loads((folder / "gates.json").read_text())}
        gates, reason = _gates(catalogue, verdicts), ""
    except (OSError, ValueError, LookupError, TypeError) as err:
        gates, reason = _gates(catalogue, {}), f"gates.json: {err}; write it with `make gates`"
    files = sorted(folder.glob("*_training/*/curve.jsonl"))
    curves = [curve for file in files if (curve := _curve(file)) is not None]
    return StoredResults(gates=gates, curves=curves, pairs=_pairs(folder), reason=reason)


def _pairs(folder: Path) -> list[PairEffect]:
    """Return the measured pairs; none without a table of them that can be read."""
    try:
        stored = json.loads((folder / "fleet_compatibility.json").read_text())
        return [PairEffect.model_validate(one) for one in stored["pairs"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _gates(catalogue: list[dict[str, Any]], verdicts: Mapping[str, Any]) -> list[GateVerdict]:
    made = []
    for gate in catalogue:
        verdict = verdicts.get(gate["id"], {})
        stored = {name: verdict[name] for name in _VERDICT_FIELDS if name in verdict}
        made.append(GateVerdict.model_validate({**gate, **stored}))
    return made


def _curve(file: Path) -> TrainingCurve | None:
    """Return a curve; None if its file is too large or holds no curve."""
    if file.stat().st_size > _MAX_CURVE_BYTES:
        return None
    rows = list(_rows(file))
    if not rows:
        return None
    kept = [rows[round(at)] for at in _places(len(rows))]
    names = sorted({name for row in kept for name in row} - {_STEP})
    return TrainingCurve(
        mission=file.parents[1].name.removesuffix("_training"),
        run=file.parent.name,
        steps=[row.get(_STEP, float(at)) for at, row in enumerate(kept)],
        series={name: [row.get(name) for row in kept] for name in names},
    )


def _rows(file: Path) -> Iterator[dict[str, float]]:
    """Yield the numbers of each line; a line that a crash cut off is left out."""
    for line in file.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield dict(_numbers(row))


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", one) for inner, one in _numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _places(rows: int) -> list[float]:
    """Return the places of the rows that are kept, first and last among them."""
    kept = min(rows, CURVE_POINTS)
    return [at * (rows - 1) / max(1, kept - 1) for at in range(kept)]
