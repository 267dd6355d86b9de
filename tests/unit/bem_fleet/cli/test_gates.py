"""``fleetctl gates``: the command as people and phases use it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.evidence import read_evidence_keys
from bem_fleet.acceptance.gate_table import GATE_TABLE, evaluate_gates, find_differences
from bem_fleet.checkout import ROOT
from bem_fleet.cli import main
from bem_fleet.operator_key import VARIABLE

from tests.support.synthetic_reports import OPERATOR_KEY, paired_scores, write_report

QUALITY = "results/router_quality.json"


@pytest.fixture(autouse=True)
def _operator_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operator's key be that of the tests."""
    (tmp_path / "operator.key").write_bytes(OPERATOR_KEY)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "operator.key"))


def test_stored_lines_are_what_the_scores_give() -> None:
    """Every line of results/gates.json follows from the stored per-item scores."""
    rows = evaluate_gates(load_catalogue(), ROOT, read_evidence_keys())

    assert find_differences(json.loads((ROOT / GATE_TABLE).read_text()), rows) == []


def test_no_gate_passes_by_a_report_that_cannot_be_verified() -> None:
    """Without the key that signed them, the committed reports count as unverified."""
    measured = [
        row.result for row in evaluate_gates(load_catalogue(), ROOT, ()) if row.result.evidence
    ]

    assert {line.status for line in measured} <= {"unverified", "fail"}
    assert {line.evidence for line in measured} <= {"unknown_key", "changed_code"}


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
    assert "phase 2 does not pass: 0 pass, 0 fail, 0 unverified, 1 not measured" in printed
    assert len(stored) == len(load_catalogue().gates)


@pytest.mark.parametrize("phase", [1, 2, 3, 4])
def test_each_phase_has_a_report(tmp_path: Path, phase: int) -> None:
    """The page has the verdict, and a line with claim, figures and report of each gate."""
    page = tmp_path / "phase.md"
    code = main(["gates", "--phase", str(phase), "--root", str(tmp_path), "--report", str(page)])
    gates = load_catalogue().of_phase(phase)
    lines = page.read_text().splitlines()

    assert code == 1
    assert lines[2].startswith(f"Phase {phase} does not pass: 0 pass")
    assert [line.split(" | ")[0].strip("| ") for line in lines[6:]] == [
        gate.rule.id for gate in gates
    ]
    assert all(gate.claim in line for gate, line in zip(gates, lines[6:], strict=True))


def test_phase_whose_gates_all_pass_ends_with_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured and passed in both output forms."""
    gate = load_catalogue().gates["fleet.all_five"]
    items = gate.rule.min_items
    metrics = {name: paired_scores(0.01, items=items) for name in gate.rule.metrics}
    write_report(tmp_path, gate.report, metrics, unit=gate.rule.unit)
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


def _edited(root: Path) -> None:
    path = root / QUALITY
    report = json.loads(path.read_text())
    report["metrics"]["f1"]["mission"][0][:60] = [0.99] * 60
    path.write_text(json.dumps(report))


def _fabricated(root: Path) -> None:
    path = root / QUALITY
    report = json.loads(path.read_text())
    del report["evidence"]
    path.write_text(json.dumps(report))


def _renamed(root: Path) -> None:
    (root / QUALITY).write_bytes((root / "results/router_cache.json").read_bytes())


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (_edited, "it was edited after it was signed"),
        (_fabricated, "it has no signature"),
        (_renamed, "it is the report of study router_cache, not of router_quality"),
    ],
)
def test_check_refuses_what_was_not_measured(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    forge: Callable[[Path], None],
    reason: str,
) -> None:
    """Edited items, a report that was typed in, and another study's report, each by its reason."""
    scores = {"exact_match": paired_scores(0.05), "f1": paired_scores(0.04)}
    write_report(tmp_path, QUALITY, scores)
    hits = {name: paired_scores(0.05) for name in ("kv_hit_ratio", "exact_match", "f1")}
    write_report(tmp_path, "results/router_cache.json", hits)
    main(["gates", "--root", str(tmp_path)])
    honest = main(["gates", "--check", "--root", str(tmp_path)])
    capsys.readouterr()
    forge(tmp_path)
    forged = main(["gates", "--check", "--root", str(tmp_path)])
    errors = capsys.readouterr().err
    main(["gates", "--json", "--root", str(tmp_path)])
    line = json.loads(capsys.readouterr().out)[0]

    assert (honest, forged) == (1, 2)
    assert f"{QUALITY} is refused: {reason}" in errors
    assert (line["status"], line["figure"], line["evidence"]) == ("not_measured", None, "refused")


def test_key_of_another_operator_verifies_by_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rotation the former key is named; without it the check cannot tell."""
    write_report(tmp_path, QUALITY, {"exact_match": paired_scores(0.05), "f1": paired_scores(0.04)})
    main(["gates", "--root", str(tmp_path)])
    former = tmp_path / "operator.key"
    (tmp_path / "new.key").write_text("bem_new")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "new.key"))
    capsys.readouterr()
    without = main(["gates", "--check", "--root", str(tmp_path)])
    told = capsys.readouterr().err
    named = main(["gates", "--check", "--root", str(tmp_path), "--key-file", str(former)])

    assert (without, named) == (2, 1)
    assert "--key-file" in told
    assert "gates.json" not in told
