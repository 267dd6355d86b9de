"""A report's scores are checked before anything is made of them."""

from pathlib import Path
from typing import Any

import pytest
from bem.errors import GateFormatError
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.score_report import load_score_report

from tests.support.synthetic_reports import write_report

METRICS = load_catalogue().metrics
GOOD = {"mission": [1.0, 0.0], "baseline": [0.0, 0.0], "keys": ["a", "b"]}


def test_one_seed_is_a_row(tmp_path: Path) -> None:
    """Scores without seeds count as one seed; metrics that no gate knows are left out."""
    write_report(tmp_path, "r.json", {"f1": GOOD, "charm": {**GOOD, "mission": [9.0, 9.0]}})
    report = load_score_report(tmp_path / "r.json", METRICS)

    assert set(report.scores) == {"f1"}
    assert report.scores["f1"].mission.shape == (1, 2)
    assert report.command == "make synthetic"


def test_unit_and_clusters_are_read_together(tmp_path: Path) -> None:
    """A report names what its clusters are, and every item's."""
    path = tmp_path / "r.json"
    clustered = {"f1": {**GOOD, "clusters": ["x", "y"]}}
    write_report(tmp_path, "r.json", {"f1": GOOD})
    plain = load_score_report(path, METRICS).scores["f1"]
    write_report(tmp_path, "r.json", clustered, held_out={"benign": 2}, unit="item")
    with pytest.raises(GateFormatError, match="unit: missing; name what a cluster is"):
        load_score_report(path, METRICS)
    write_report(tmp_path, "r.json", {"f1": GOOD}, unit="family")
    named = load_score_report(path, METRICS).scores["f1"]

    assert (plain.unit, plain.clusters) == ("item", None)
    assert (named.unit, named.clusters) == ("family", ("family-0", "family-1"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clusters": ["x"]}, "unit: missing"),
        ({"mission": [1.0]}, "1 x 1 scores, baseline 1 x 2"),
        ({"mission": [[1.0, 0.0], [1.0]]}, "f1.mission: seeds have different numbers"),
        ({"mission": [1.0, float("nan")]}, "f1.mission: 1 of 2 scores are NaN"),
        ({"mission": [1.0, 7.0]}, "7 is above the metric's most, 1"),
        ({"baseline": [0.0, -1.0]}, "-1 is below the metric's least, 0"),
        ({"keys": ["a"]}, "1 x 2 scores; the report has 1 seeds and 1 keys"),
        ({"keys": ["a", "a"]}, "keys"),
        ({"mission": []}, "metrics.f1.mission"),
        ({"mission": ["x", "y"]}, "metrics.f1.mission"),
    ],
)
def test_wrong_scores_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """Scores that are no paired, finite, possible scores are refused with their place."""
    write_report(tmp_path, "r.json", {"f1": {**GOOD, **change}}, seeds=1)
    with pytest.raises(GateFormatError, match=f"r.json: .*{named}"):
        load_score_report(tmp_path / "r.json", METRICS)


@pytest.mark.parametrize(
    ("seeds", "named"), [(3, "3 seeds"), ([1, 2], "2 seeds"), ([1, 1], "seeds")]
)
def test_rows_that_are_no_seeds_are_named(tmp_path: Path, seeds: Any, named: str) -> None:
    """Rows and seeds must agree, and one seed may not count twice."""
    write_report(tmp_path, "r.json", {"f1": GOOD}, seeds=seeds)
    with pytest.raises(GateFormatError, match=named):
        load_score_report(tmp_path / "r.json", METRICS)


def test_report_without_lineage_is_refused(tmp_path: Path) -> None:
    """A report says what it is of, and which command made it."""
    write_report(tmp_path, "r.json", {"f1": GOOD}, command="")
    with pytest.raises(GateFormatError, match=r"\$.command"):
        load_score_report(tmp_path / "r.json", METRICS)
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(GateFormatError, match=r"r\.json"):
        load_score_report(tmp_path / "r.json", METRICS)
