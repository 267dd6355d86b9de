"""All gates at once, from synthetic reports."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from bem.errors import GateFormatError
from bem_fleet.acceptance.catalogue import Catalogue, load_catalogue
from bem_fleet.acceptance.gate_evaluation import measure_gate, weakest_measurement
from bem_fleet.acceptance.gate_table import (
    GateTableRow,
    count_statuses,
    evaluate_gates,
    find_differences,
    phase_passes,
    refused,
    unverifiable,
    write_results,
)
from bem_fleet.acceptance.score_report import load_score_report

from tests.support.synthetic_reports import KEY, paired_scores, write_report

CATALOGUE = load_catalogue()
QUALITY = "results/router_quality.json"
LATENCY = "results/router_latency.json"


def rows_of(root: Path, catalogue: Catalogue = CATALOGUE) -> dict[str, GateTableRow]:
    """Return all rows by gate."""
    return {row.result.id: row for row in evaluate_gates(catalogue, root, [KEY])}


def latency(ratio: float) -> dict[str, Any]:
    """Return paired rounds with a known ratio of latencies."""
    made = paired_scores(0.0, seeds=1, items=60)
    baseline = [100 * value for value in made["baseline"][0]]
    mission = [100 * ratio * value for value in made["mission"][0]]
    return {"latency_p50_ms": {"mission": mission, "baseline": baseline, "keys": made["keys"]}}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A repository with a router that is better and too slow."""
    both = {"exact_match": paired_scores(0.05), "f1": paired_scores(0.04)}
    write_report(tmp_path, QUALITY, both, unit="passage")
    write_report(tmp_path, LATENCY, latency(1.3))
    return tmp_path


def test_nothing_measured_is_nothing_passed(tmp_path: Path) -> None:
    """Without reports every gate is not measured, says which report lacks, and no phase passes."""
    rows = list(rows_of(tmp_path).values())

    assert count_statuses(rows) == {
        "pass": 0,
        "fail": 0,
        "unverified": 0,
        "not_measured": len(CATALOGUE.gates),
    }
    assert all("does not exist" in row.reasons[0] for row in rows)
    assert not phase_passes(rows)
    assert not phase_passes([])


def test_measured_gates_pass_and_fail_by_their_scores(measured: Path) -> None:
    """A gain passes with the report's command, a slow path fails, the rest stays unmeasured."""
    rows = rows_of(measured)
    gain, slow = rows["A.em_f1"].result, rows["A.latency"].result

    assert (gain.status, slow.status) == ("pass", "fail")
    assert (gain.n_items, gain.seeds, gain.command) == (400, 3, "make synthetic")
    assert gain.figure == pytest.approx(0.04)
    assert slow.figure == pytest.approx(1.3, abs=0.01)
    assert count_statuses(list(rows.values())) == {
        "pass": 1,
        "fail": 1,
        "unverified": 0,
        "not_measured": 32,
    }


def test_phase_passes_only_when_all_its_gates_do(tmp_path: Path) -> None:
    """One gate of a phase that is not measured keeps the phase shut."""
    gate = CATALOGUE.gates["fleet.all_five"]
    metrics = {name: paired_scores(0.0, items=gate.rule.min_items) for name in gate.rule.metrics}
    write_report(tmp_path, gate.report, metrics, unit="passage")
    rows = list(rows_of(tmp_path).values())

    assert phase_passes([row for row in rows if row.gate.phase == 3])
    assert not phase_passes([row for row in rows if row.gate.phase in (2, 3)])


def test_p_is_adjusted_over_all_gates_of_the_file(measured: Path) -> None:
    """The family is the file's: a failed report that is left out makes no other gate easier."""
    rule = CATALOGUE.gates["A.em_f1"].rule
    scores = load_score_report(measured / QUALITY, CATALOGUE.metrics).scores
    p = weakest_measurement(rule, measure_gate(rule, scores)).p
    both = rows_of(measured)["A.em_f1"].result.p_adjusted
    (measured / LATENCY).unlink()
    alone = rows_of(measured)["A.em_f1"].result.p_adjusted

    assert both == alone == pytest.approx(len(CATALOGUE.gates) * p, abs=1e-6)


def test_report_without_the_metric_does_not_measure(tmp_path: Path) -> None:
    """A report that lacks one of the gate's metrics leaves the gate unmeasured."""
    write_report(tmp_path, QUALITY, {"f1": paired_scores(0.05)})
    row = rows_of(tmp_path)["A.em_f1"]

    assert row.result.status == "not_measured"
    assert row.reasons == (f"{QUALITY} has no metric exact_match",)


def test_report_older_than_the_metric_does_not_measure(measured: Path) -> None:
    """When a metric's meaning changes, reports of its older meaning measure it no longer."""
    metrics = {**CATALOGUE.metrics, "f1": replace(CATALOGUE.metrics["f1"], version=2)}
    row = rows_of(measured, replace(CATALOGUE, metrics=metrics))["A.em_f1"]

    assert row.result.status == "not_measured"
    assert "older than the metric: f1 is version 1 of 2" in row.reasons[0]


def test_degenerate_and_sparse_reports_fail(tmp_path: Path) -> None:
    """Ties and too few seeds are measured, and fail."""
    same = {**paired_scores(0.0), "mission": paired_scores(0.0)["baseline"]}
    write_report(tmp_path, QUALITY, {"exact_match": same, "f1": same}, unit="passage")
    tied = rows_of(tmp_path)["A.em_f1"]
    one_seed = {name: paired_scores(0.1, seeds=1) for name in ("exact_match", "f1")}
    write_report(tmp_path, QUALITY, one_seed, unit="passage")
    sparse = rows_of(tmp_path)["A.em_f1"]

    assert (tied.result.status, tied.result.ci_low, tied.coverage) == ("fail", 0.0, "equal")
    assert (sparse.result.status, sparse.result.seeds) == ("fail", 1)
    assert sparse.reasons == ("exact_match: 1 seeds of 3", "f1: 1 seeds of 3")


def test_broken_report_is_an_error_not_a_gap(measured: Path) -> None:
    """A report that is there but wrong stops the evaluation with its name."""
    broken = paired_scores(0.1)
    del broken["baseline"]
    write_report(measured, QUALITY, {"exact_match": broken, "f1": broken})
    with pytest.raises(GateFormatError, match=r"router_quality.json: gate A.em_f1: .*baseline"):
        rows_of(measured)


def _status(lines: list[dict[str, Any]]) -> None:
    lines[1]["status"] = "pass"


def _figure(lines: list[dict[str, Any]]) -> None:
    lines[0]["figure"] += 0.001


def _unmeasured(lines: list[dict[str, Any]]) -> None:
    lines[5].update(status="pass", figure=1.0, n_items=400)


def _dropped(lines: list[dict[str, Any]]) -> None:
    del lines[1]


def _added(lines: list[dict[str, Any]]) -> None:
    lines[0]["note"] = "looks good"


def _claim(lines: list[dict[str, Any]]) -> None:
    lines[0]["target"] = 0.001


@pytest.mark.parametrize("tamper", [_status, _figure, _unmeasured, _dropped, _added, _claim])
def test_line_written_by_hand_is_found(
    measured: Path, tamper: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Stored lines are compared with what the scores give: any change is named."""
    rows = evaluate_gates(CATALOGUE, measured, [KEY])
    write_results([row.result for row in rows], measured / "gates.json")
    stored = json.loads((measured / "gates.json").read_text())
    untouched = find_differences(stored, rows)
    tamper(stored)

    assert untouched == []
    assert find_differences(stored, rows)


def test_stored_form_is_the_agreed_one(tmp_path: Path) -> None:
    """Each line has the agreed keys in their order."""
    first = "id mission claim target baseline figure ci_low ci_high p_adjusted n_items seeds"
    row = evaluate_gates(CATALOGUE, tmp_path, [])[0]

    assert list(asdict(row.result)) == [*first.split(), "status", "report", "command", "evidence"]
    assert find_differences({}, [row]) == ["the file is not a list of objects"]


def test_report_of_another_machine_is_computed_and_not_verified(measured: Path) -> None:
    """Without the key figures are compared as if it were verified; no gate passes by them here."""
    there = evaluate_gates(CATALOGUE, measured, [KEY])
    write_results([row.result for row in there], measured / "gates.json")
    stored = json.loads((measured / "gates.json").read_text())
    here = evaluate_gates(CATALOGUE, measured, [])
    rows = {row.result.id: row for row in here}
    stored[0]["figure"] += 0.001

    assert rows["A.em_f1"].result.status == "unverified"
    assert rows["A.latency"].result.status == "fail"
    assert len(unverifiable(here)) == 2
    assert f"key {KEY.id}" in unverifiable(here)[0]
    assert not phase_passes([rows["A.em_f1"]])
    assert [one[:16] for one in find_differences(stored, here)] == ["A.em_f1: figure "]


def test_report_that_is_refused_is_no_measurement(measured: Path) -> None:
    """Its gates are not measured, with the reason; those of other reports are unchanged."""
    before = rows_of(measured)
    report = json.loads((measured / QUALITY).read_text())
    report["metrics"]["f1"]["mission"][0][0] += 0.01
    (measured / QUALITY).write_text(json.dumps(report))
    rows = rows_of(measured)
    row = rows["A.em_f1"]

    assert (row.result.status, row.result.figure) == ("not_measured", None)
    assert row.reasons == (f"{QUALITY} is refused: it was edited after it was signed",)
    assert refused([*rows.values()]) == [*row.reasons]
    assert rows["A.latency"].result.figure == before["A.latency"].result.figure
