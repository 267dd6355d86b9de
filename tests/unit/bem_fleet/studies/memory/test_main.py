"""Command of the memory study on the tiny model."""

import json
from pathlib import Path

import pytest
from bem_fleet.data.memory_tasks import TASKS
from bem_fleet.studies.memory.__main__ import main

pytestmark = pytest.mark.slow


def test_cells_are_printed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every task and system has a cell; the whole index finds single facts, a small window none."""
    report = tmp_path / "report.json"
    sizes = ("--lengths", "2000", "--seeds", "0", "--items", "4", "--budget", "131072")
    code = main(["evaluate", "--backbone", "tiny", *sizes, "--report", str(report)])
    cells = json.loads(report.read_text())["cells"]
    recall = {(one["system"], one["task"]): one["recall"] for one in cells}

    assert code == 0
    assert {task for _, task in recall} == set(TASKS)
    assert recall["bm25_unlimited", "single"] == 1
    assert recall["window_same_bytes", "multi_key"] < 1
    assert all(len(one["scores"]) == 4 for one in cells)
    assert "bm25_unlimited" in capsys.readouterr().out
