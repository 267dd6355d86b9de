"""Command of the study on the tiny model."""

import json
from pathlib import Path

import pytest
from bem.errors import BemError
from bem_fleet.studies.online.__main__ import CEILING, main

from tests.support.online_bank import write_online_bank

SIZES = ("--corrections", "2", "--probes", "1", "--others", "1", "--look", "2", "--batch", "2")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_chosen_methods_are_scored_on_the_same_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report has the development families, and no opening of a held-out set."""
    write_online_bank(tmp_path / "bank")
    where = ("--bank", str(tmp_path / "bank"), "--out", str(tmp_path / "out"))
    chosen = ("--methods", "base", "codes-no-ewc", "ceiling")
    main([*where, "--backbone", "tiny", *SIZES, "--steps", "1", "--epochs", "1", *chosen])
    report = json.loads((tmp_path / "out" / "online.json").read_text())
    table = (tmp_path / "out" / "online.md").read_text()

    assert list(report["methods"]) == ["base model", "learned codes, no EWC", CEILING]
    base = report["methods"]["base model"]
    assert (base["neighbours_kept"], base["unrelated_kept"]) == (1.0, 1.0)
    assert len(report["families"]) == 6
    assert report["held_out"] == {}
    assert table.count("\n| ") == 5
    assert "learned codes, no EWC" in capsys.readouterr().out


def test_bank_of_another_model_is_refused(tmp_path: Path) -> None:
    """A study of codes that fit nothing would score noise."""
    with pytest.raises(BemError):
        main(["--bank", str(tmp_path), "--out", str(tmp_path / "out"), "--backbone", "tiny"])
