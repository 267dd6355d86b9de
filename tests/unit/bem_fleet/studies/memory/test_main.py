"""Command of the memory study on the tiny model."""

import json
from pathlib import Path

import pytest
from bem_fleet.data.memory_tasks import TASKS
from bem_fleet.recipes.memory.training_sentences import NATURAL_TASK
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
    assert {task for _, task in recall} == {*TASKS, NATURAL_TASK}
    assert recall["bm25_unlimited", "single"] == 1
    assert recall["window_same_bytes", "multi_key"] < 1
    assert all(len(one["scores"]) == 4 for one in cells if one["task"] in TASKS)
    assert {"minilm_same_bytes_two_hops", "fused_unlimited", "truncation_47_mib"} <= {
        system for system, _ in recall
    }
    assert {"h2o_same_bytes", "keydiff_47_mib", "snapkv_same_bytes"} <= {one for one, _ in recall}
    assert "bm25_unlimited" in capsys.readouterr().out


def test_calibration_is_that_of_each_session_and_of_all(tmp_path: Path) -> None:
    """The last cell has the rows of all sessions."""
    report = tmp_path / "report.json"
    sizes = ("--lengths", "1000", "--seeds", "0", "1", "--items", "2")
    main(["calibrate", "--backbone", "tiny", *sizes, "--report", str(report)])
    first, second, both = json.loads(report.read_text())["cells"]

    for name in ("coverage", "confidence"):
        assert both[name]["rows"] == first[name]["rows"] + second[name]["rows"] > 0
        assert 0 <= both[name]["ece"] <= 1


def test_long_haystacks_are_not_read_by_cache_policies(tmp_path: Path) -> None:
    """A forward pass over them is not affordable: their cells are absent."""
    report = tmp_path / "report.json"
    sizes = ("--lengths", "1000", "--seeds", "0", "--items", "1", "--kv-tokens", "999")
    main(["evaluate", "--backbone", "tiny", *sizes, "--report", str(report)])
    systems = {one["system"] for one in json.loads(report.read_text())["cells"]}

    assert "window_same_bytes" in systems
    assert not [one for one in systems if one.startswith(("h2o", "keydiff", "snapkv"))]
