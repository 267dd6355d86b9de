"""Synthetic reports: scores with a known gain, signed with a key of the tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from bem_fleet.acceptance.evidence import evidence_key, sign

OPERATOR_KEY = b"bem_key-of-the-tests"
KEY = evidence_key(OPERATOR_KEY)
CODE = {"commit": "0" * 40, "clean": True}


def paired_scores(
    gain: float, *, seeds: int = 3, items: int = 400, spread: float = 0.1, base: float = 0.5
) -> dict[str, Any]:
    """Return paired scores whose mean gain is ``gain`` exactly, [seeds][items]."""
    rng = np.random.default_rng(7)
    baseline = np.clip(base + spread * rng.standard_normal((seeds, items)), 0.4, 0.6)
    noise = spread / 4 * rng.standard_normal((seeds, items))
    mission = baseline + gain + np.clip(noise - noise.mean(), -0.1, 0.1)
    mission += gain - (mission - baseline).mean()
    return {
        "mission": mission.tolist(),
        "baseline": baseline.tolist(),
        "keys": [f"item-{index}" for index in range(items)],
    }


def write_report(
    root: Path, path: str, metrics: dict[str, Any], *, unit: str = "item", **changed: Any
) -> None:
    """Write a signed evaluation report below ``root``; another unit than item has 40 clusters."""
    study = Path(path).stem
    rows = next(iter(metrics.values()))["mission"]
    if unit != "item":
        names = [f"{unit}-{index % 40}" for index in range(len(np.atleast_2d(rows)[0]))]
        metrics = {name: {**entry, "clusters": names} for name, entry in metrics.items()}
        changed = {"unit": unit, **changed}
    report = {
        "id": study,
        "mission": {"name": "mission", "digest": "m1"},
        "baseline": {"name": "baseline", "digest": "b1"},
        "data": {"name": "items", "digest": "d1"},
        "metrics": metrics,
        "command": "make synthetic",
        "seeds": len(rows) if rows and isinstance(rows[0], list) else 1,
        "wall_s": 1.0,
        "tokens": {"mission": 1, "baseline": 1},
        "evidence": {"study": study, "code": CODE, "artifacts": {}, "outputs": {}},
        **changed,
    }
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(_signed(report)))


def _signed(report: dict[str, Any]) -> dict[str, Any]:
    """Return a signed report; one with NaN, which is no JSON, without evidence."""
    try:
        return sign(report, KEY)
    except ValueError:
        return {name: value for name, value in report.items() if name != "evidence"}
