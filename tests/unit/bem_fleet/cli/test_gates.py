"""``fleetctl gates``: the command as people and phases use it."""

import json
from pathlib import Path

import pytest
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.gate_table import GATE_TABLE, evaluate_gates, find_differences
from bem_fleet.checkout import ROOT
from bem_fleet.cli import main

from tests.support.synthetic_reports import paired_scores, write_report

QUALITY = "results/router_quality.json"


def test_stored_lines_are_what_the_scores_give() -> None:
    """Every line of results/gates.json follows from the stored per-item scores."""
    lines = [row.result for row in evaluate_gates(load_catalogue(), ROOT)]

    assert find_differences(json.loads((ROOT / GATE_TABLE).read_text()), lines) == []


def test_phase_with_unmeasured_gates_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table shows the phase's gates, all gates are stored, and the exit status is 1."""
    status = main(["gates", "--phase", "2", "--root", str(tmp_path)])
    printed = capsys.readouterr().out
    stored = json.loads((tmp_path / GATE_TABLE).read_text())

    assert status == 1
    assert "fleet.pairwise" in printed
    assert "A.em_f1" not in printed
    assert "phase 2 does not pass: 0 pass, 0 fail, 1 not measured" in printed
    assert len(stored) == len(load_catalogue().gates)


def test_phase_whose_gates_all_pass_ends_with_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured and passed in both output forms."""
    gate = load_catalogue().gates["fleet.all_five"]
    metrics = {name: paired_scores(0.01, items=500) for name in gate.rule.metrics}
    write_report(tmp_path, gate.report, metrics)
    table = main(["gates", "--phase", "3", "--root", str(tmp_path)])
    shown = capsys.readouterr().out
    as_json = main(["gates", "--phase", "3", "--json", "--root", str(tmp_path)])
    (line,) = json.loads(capsys.readouterr().out)

    assert (table, as_json) == (0, 0)
    assert "phase 3 passes" in shown
    assert (line["status"], line["phase"], line["reasons"]) == ("pass", 3, [])
    assert line["ci_low"] > -0.01


def test_check_finds_a_tampered_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--check`` writes nothing and names the field that the scores do not give."""
    main(["gates", "--root", str(tmp_path)])
    honest = main(["gates", "--check", "--root", str(tmp_path)])
    stored = json.loads((tmp_path / GATE_TABLE).read_text())
    stored[0]["status"] = "pass"
    (tmp_path / GATE_TABLE).write_text(json.dumps(stored))
    capsys.readouterr()
    tampered = main(["gates", "--check", "--root", str(tmp_path)])

    assert (honest, tampered) == (1, 2)
    assert "A.em_f1: status is 'pass', the scores give 'not_measured'" in capsys.readouterr().err
    assert json.loads((tmp_path / GATE_TABLE).read_text())[0]["status"] == "pass"


def test_broken_report_and_missing_board_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be judged ends with status 2 and the file's name."""
    missing = main(["gates", "--check", "--root", str(tmp_path)])
    first = capsys.readouterr().err
    write_report(tmp_path, QUALITY, {"f1": {**paired_scores(0.1), "keys": ["one"]}})
    broken = main(["gates", "--root", str(tmp_path)])

    assert (missing, broken) == (2, 2)
    assert "gates.json" in first
    assert (
        "router_quality.json: f1: 3 x 400 scores; the report has 3 seeds and 1 keys"
        in capsys.readouterr().err
    )
