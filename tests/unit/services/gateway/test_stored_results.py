"""Stored gates and training curves."""

import json
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.services.gateway import stored_results
from bem_fleet.services.gateway.stored_results import read_results


def verdict(identifier: str, **fields: Any) -> dict[str, Any]:
    """Return a line of ``gates.json``."""
    return {"id": identifier, "mission": "another", "target": -1, "status": "pass", **fields}


def test_gates_are_the_catalogues_with_their_verdicts(tmp_path: Path) -> None:
    """Definition and target come from the catalogue, figures from the table."""
    figures = {"figure": 0.02, "ci_low": 0.01, "ci_high": 0.03, "p_adjusted": 0.001}
    lines = [verdict("A.em_f1", **figures, n_items=300, seeds=3, evidence="verified")]
    (tmp_path / "gates.json").write_text(json.dumps(lines))
    stored = read_results(tmp_path)
    first, second = stored.gates[:2]

    assert stored.reason == ""
    assert (first.id, first.mission, first.target) == ("A.em_f1", "router", 0.015)
    assert (first.figure, first.ci_low, first.status) == (0.02, 0.01, "pass")
    assert (second.figure, second.status, second.direction) == (None, "not_measured", "lower")


@pytest.mark.parametrize("text", [None, "no json", "[1]", '{"a": 1}'])
def test_table_that_cannot_be_read_is_a_reason(tmp_path: Path, text: str | None) -> None:
    """The gates are listed without verdicts, and the reason says what to do."""
    if text is not None:
        (tmp_path / "gates.json").write_text(text)
    stored = read_results(tmp_path)

    assert "make gates" in stored.reason
    assert {one.status for one in stored.gates} == {"not_measured"}


def test_measured_pairs_are_listed(tmp_path: Path) -> None:
    """As the compatibility study writes them; a table that is none counts as not measured."""
    effect = {"mission": "router", "other": "sep", "difference": -0.05, "items": 60}
    table = tmp_path / "fleet_compatibility.json"
    table.write_text(json.dumps({"split": "held_out", "pairs": [effect]}))
    (pair,) = read_results(tmp_path).pairs
    table.write_text('{"pairs": [1]}')

    assert (pair.mission, pair.other, pair.difference, pair.ci_low) == (
        "router",
        "sep",
        -0.05,
        None,
    )
    assert read_results(tmp_path).pairs == []


def test_gateway_without_a_folder_lists_the_gates() -> None:
    """In a cluster there is no folder of results."""
    stored = read_results(None)

    assert len(stored.gates) > 30
    assert "BEM_GATEWAY_RESULTS_FOLDER" in stored.reason


def test_curves_are_thinned_and_flattened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and last rows stay; a row that a crash cut off and an empty file are left out."""
    monkeypatch.setattr(stored_results, "CURVE_POINTS", 3)
    run = tmp_path / "sep_training" / "seed-1"
    run.mkdir(parents=True)
    rows = [{"step": 10 * at, "loss": {"ce": at / 2}, "note": "x", "done": True} for at in range(9)]
    rows[8]["kl"] = 0.5
    lines = [json.dumps(row) for row in rows]
    (run / "curve.jsonl").write_text("\n".join([*lines, '{"step": 90, "lo']))
    empty = tmp_path / "sep_training" / "seed-2"
    empty.mkdir()
    (empty / "curve.jsonl").write_text("")
    (curve,) = read_results(tmp_path).curves

    assert (curve.mission, curve.run) == ("sep", "seed-1")
    assert curve.steps == [0, 40, 80]
    assert curve.series == {"loss.ce": [0, 2, 4], "kl": [None, None, 0.5]}
