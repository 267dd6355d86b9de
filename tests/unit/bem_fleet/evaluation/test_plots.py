"""Plots of a report."""

from pathlib import Path

from bem_fleet.evaluation.pipeline import evaluate
from bem_fleet.evaluation.plots import draw_report
from bem_fleet.evaluation.systems import SystemRun

from tests.support.oracle_comparison import Oracle, comparison


def test_same_report_gives_the_same_picture(tmp_path: Path) -> None:
    """Two drawings of one report are equal PNG files, with and without categories."""
    report = evaluate(comparison(SystemRun(Oracle(5)), count=20))
    for name, drawn in (("with", report), ("without", {**report, "categories": {}})):
        first, second = tmp_path / f"{name}-1.png", tmp_path / f"{name}-2.png"
        draw_report(drawn, first)
        draw_report(drawn, second)

        assert first.read_bytes().startswith(b"\x89PNG")
        assert first.read_bytes() == second.read_bytes()
