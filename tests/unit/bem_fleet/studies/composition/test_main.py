"""Tests of the composition study's command: options, Markdown and plot."""

import math
from pathlib import Path
from typing import Any

from bem_fleet.studies.composition.__main__ import build_parser, draw, markdown

DIFFERENCE: dict[str, Any] = {"estimate": -0.01, "ci_low": -0.02, "ci_high": 0.005}
ROW = {"mean_log_probability": -1.5, "scaled_share": 0.5, "difference": DIFFERENCE}
REPORT: dict[str, Any] = {
    "data": {"name": "passage-qa, dev", "items": 3},
    "pairs": [
        {
            "first": "a",
            "second": "b",
            "interference": DIFFERENCE,
            "interference_without_projection": DIFFERENCE | {"ci_low": None, "ci_high": None},
            "overlap": {"mean": 0.1, "largest": 0.25},
            "tau": [ROW | {"tau": 4.0}, ROW | {"tau": None}],
        }
    ],
}


def test_the_last_radius_bounds_nothing(tmp_path: Path) -> None:
    """Without options the committed adapter is measured at several radii and at none."""
    parsed = build_parser().parse_args(["--out", str(tmp_path), "--limit", "3"])

    assert parsed.taus[-1] == math.inf
    assert (parsed.limit, parsed.out) == (3, tmp_path)


def test_markdown_has_a_row_for_each_pair_and_radius() -> None:
    """Intervals are in brackets; one that does not exist is left out."""
    text = markdown(REPORT)

    assert "| a + b | -0.0100 [-0.0200, +0.0050] | -0.0100 | 0.250 |" in text
    assert "| a + b | 4.0 | -1.5000 | -0.0100 [-0.0200, +0.0050] | 50% |" in text
    assert "| a + b | none |" in text


def test_equal_plots_are_equal_files(tmp_path: Path) -> None:
    """The plot of a report is a PNG with the same bytes each time."""
    for name in ("one.png", "two.png"):
        draw(REPORT, tmp_path / name)

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
