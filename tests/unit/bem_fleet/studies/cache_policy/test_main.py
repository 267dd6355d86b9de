"""Tests of the command of the study of cache policies, on the tiny model."""

import json
from pathlib import Path

import pytest
from bem_fleet.studies.cache_policy.__main__ import main

pytestmark = pytest.mark.slow


def test_every_policy_and_share_has_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row is the whole cache; without an artifact there is no learned policy."""
    report = tmp_path / "report.json"
    options = ("--limit", "2", "--shares", "0.5", "--answer-tokens", "3", "--policy", str(tmp_path))
    assert main(["--backbone", "tiny", *options, "--report", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]

    assert [one["system"] for one in rows] == ["full", "streaming_llm", "h2o", "snapkv", "keydiff"]
    assert [round(one["bytes_share"], 2) for one in rows] == [1.0, 0.5, 0.5, 0.5, 0.5]
    assert "snapkv" in capsys.readouterr().out
