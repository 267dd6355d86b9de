"""Tests of the end-to-end page: figures of the reports, by arm and group."""

import json
from pathlib import Path

from bem_fleet.studies.safety.end_to_end_markdown import fleet_markdown


def write(folder: Path, name: str, found: dict[str, object]) -> None:
    """Write a report with the fields that all reports have."""
    head = {"mission": {"name": "basis at strength 1 and sidecar"}, "seeds": [0, 1], "command": "c"}
    (folder / f"safety_fleet_{name}.json").write_text(json.dumps(head | found))


def test_page_has_the_figures_of_each_half(tmp_path: Path) -> None:
    """Rates of the base, of each arm by seed, of each group, and of harmless texts by origin."""
    row = {"items": 2, "without": 1.0, "basis": 0.5, "sidecar": 0.75, "both": 0.25}
    groups = {f"by_{title}": {"x": row} for title in ("category", "kind", "family")}
    before, basis = [[1.0, 1.0]] * 2, [[1.0, 0.0], [0.0, 1.0]]
    arms = {"basis": basis, "sidecar": [[1.0, 1.0], [0.0, 1.0]]}
    violation = {"mission": [[0.0, 0.0], [1.0, 0.0]], "baseline": before, "keys": ["a", "b"]}
    write(tmp_path, "violations", {"metrics": {"violation": violation}, "arms": arms, **groups})
    score = {"mission": [[0.5], [0.5]], "baseline": [[0.75]] * 2, "keys": ["q"]}
    own = {"exact_match": [[0.75], [0.5]], "f1": [[0.75], [0.75]]}
    write(
        tmp_path,
        "quality",
        {
            "metrics": {"exact_match": score, "f1": score},
            "arms": {"basis": own, "sidecar": own},
            "data": {"name": "piqa by likelihood"},
            "by_origin": {"piqa": row},
        },
    )
    withheld = {"mission": [[1.0, 0.0], [0.0, 0.0]], "keys": ["q", "r"]}
    declined = {"suite": [1, 0], "foreign": [0, 0]}
    write(
        tmp_path,
        "benign",
        {
            "metrics": {"withheld": withheld},
            "origins": ["suite", "fiqa, asked"],
            "declined_by_the_basis": declined,
        },
    )
    page = "\n".join(fleet_markdown(tmp_path))

    assert "| without C | 1.000 | | 0.7500 | 0.7500 |" in page
    assert "| basis | 0.500, 0.500 | -50.0% | 0.6250 | 0.7500 |" in page
    assert "| both | 0.000, 0.500 | -75.0% | 0.5000 | 0.5000 |" in page
    assert "| x | 2 | 1.000 | 0.500 | 0.750 | 0.250 | -75% |" in page
    assert "1 questions (piqa by likelihood)" in page
    assert "| piqa | 2 | 1.0000 | 0.5000 | 0.7500 | 0.2500 |" in page
    assert "| suite | 1 | 0.5000 |" in page
    assert "| fiqa, asked | 1 | 0.0000 |" in page


def test_without_reports_there_is_no_page(tmp_path: Path) -> None:
    """Figures that were not measured are not written."""
    assert fleet_markdown(tmp_path) == []
