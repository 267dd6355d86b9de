"""Tests of the Markdown page of the safety basis."""

import json
from pathlib import Path

from bem_fleet.studies.safety.basis_markdown import write_markdown

ROW = {"items": 2, "base": 1.0, "basis": 0.25}
REPORTS = {
    "violations": {
        "metrics": {
            "violation": {
                "mission": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
                "baseline": [[1.0, 1.0, 1.0]] * 2,
                "keys": ["a", "b", "c"],
            }
        },
        "seeds": [0, 1],
        "judges": {"mitigation": {"base": 1.0, "basis": [0.5, 0.0]}},
        **{f"by_{title}": {"x": ROW} for title in ("category", "kind", "family")},
    },
    "quality": {
        "metrics": {"f1": {"mission": [[0.5], [0.25]], "baseline": [[0.75]] * 2, "keys": ["q"]}},
        "harmless_above_threshold": [0.0, 0.02],
        "harmless_refused": {"base": 0.0, "basis": [0.0, 0.01]},
    },
    "strength": {
        "seeds": [0],
        "spearman": [0.99],
        "strengths": [0.0, 1.0],
        "violation_by_strength": [[1.0, 0.5]],
        "expected_violation_by_strength": [[0.9, 0.4]],
        "metrics": {"strength_effectiveness": {"mission": [[1.0, 0.5]]}},
    },
    "orthogonality": {
        "seeds": [0],
        "least": 0.99999,
        "metrics": {"orthogonality": {"keys": ["a"]}},
        "adapters_before_projection": {"passage-qa": 0.5},
        "slices_of_a_free_basis": {"router": 0.25},
    },
}


def test_page_has_the_figures_of_the_reports(tmp_path: Path) -> None:
    """Each report becomes one section with its table; the strength is plotted."""
    for name, report in REPORTS.items():
        (tmp_path / f"safety_{name}.json").write_text(json.dumps(report))
    write_markdown(tmp_path)
    page = (tmp_path / "safety_basis.md").read_text()

    assert "| mitigation | 1.000 | 0.500, 0.000 |" in page
    assert "| x | 2 | 1.000 | 0.250 |" in page
    assert "| f1 | 0.7500 | 0.5000, 0.2500 |" in page
    assert "| 1.0 | 0.500 | 0.400 |" in page
    assert "| passage-qa as committed, before projection | 0.5000000 |" in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Violations",
        "## Quality on harmless questions",
        "## Safety strength",
        "## Orthogonality",
    ]
    assert (tmp_path / "safety_strength.png").stat().st_size > 1000
    assert not (tmp_path / "safety_fleet.md").exists()


def test_without_reports_the_page_has_a_title_only(tmp_path: Path) -> None:
    """Sections of missing reports are left out."""
    write_markdown(tmp_path)

    assert (tmp_path / "safety_basis.md").read_text().startswith("# The safety basis\n")
    assert "##" not in (tmp_path / "safety_basis.md").read_text()
