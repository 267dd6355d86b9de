"""Rendered reports."""

import json

import pytest
from bem_fleet.evaluation.pipeline import Report, evaluate
from bem_fleet.evaluation.report_rendering import render_json, render_markdown
from bem_fleet.evaluation.systems import SystemRun

from tests.support.oracle_comparison import Oracle, comparison


@pytest.fixture(scope="module")
def report() -> Report:
    """A small report."""
    return evaluate(comparison(SystemRun(Oracle(5)), count=20))


def test_json_keeps_every_value_and_arrays_on_one_line(report: Report) -> None:
    """Parsing gives the report back; the scores of a metric are one line of the text."""
    text = render_json(report)
    lines = text.splitlines()

    assert json.loads(text) == json.loads(json.dumps(report))
    scores = [line for line in lines if line.strip().startswith('"mission": [')]
    assert len(scores) == len(report["metrics"])
    assert all(line.rstrip(",").endswith("]") for line in scores)


def test_markdown_has_a_row_for_each_metric_and_side(report: Report) -> None:
    """Tables hold each metric with its difference, each side with its costs, and the command."""
    text = render_markdown(report, "picture.png")

    for name, metric in report["metrics"].items():
        assert f"| {name} | " in text
        assert f"{metric['estimate']:+.3f}" in text
    assert "| mission | strict | 0 |" in text
    assert "| baseline | lenient | 0 |" in text
    assert "picture.png" in text
    assert report["command"] in text
