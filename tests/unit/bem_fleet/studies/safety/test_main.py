"""Tests of the safety study command."""

import json
from pathlib import Path

import pytest
from bem.testing import tiny_backbone
from bem_fleet.studies.safety import __main__ as command

from tests.support.safety_study import trained_adapter


def test_parts_are_written_as_reports_and_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each requested part becomes a JSON report; the scores are left out of the output."""
    folder = trained_adapter(tmp_path / "adapter").folder
    commands: list[str] = []
    pages: list[Path] = []

    def violations(_: object, trained: list[object], **arguments: object) -> dict[str, object]:
        assert len(trained) == 1
        commands.append(str(arguments["command"]))
        return {"id": "safety_violations", "metrics": {}}

    monkeypatch.setattr(command, "load_backbone", lambda **_: tiny_backbone())
    monkeypatch.setattr(command, "violations", violations)
    monkeypatch.setattr(command, "write_markdown", pages.append)
    arguments = ["--adapters", str(folder), "--parts", "violations", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    command.main()
    report = json.loads((tmp_path / "safety_violations.json").read_text())

    evidence = report.pop("evidence")
    assert report == {"id": "safety_violations", "metrics": {}}
    assert {"safety, seed 0", "passage-qa"} == set(evidence["artifacts"])
    assert evidence["signature"]
    assert json.loads(capsys.readouterr().out) == {"id": "safety_violations"}
    assert commands[0].startswith("python -m bem_fleet.studies.safety --adapters")
    assert pages == [tmp_path]


def test_help_names_the_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts of the study are listed."""
    monkeypatch.setattr("sys.argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        command.main()

    assert "orthogonality,violations,quality,strength,fleet,ablations" in capsys.readouterr().out
