"""Reports of the compatibility study, from replies that are made up."""

from collections.abc import Sequence

import numpy as np
import pytest
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.gate_evaluation import measure_gate
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.studies.compatibility.arms import Arm, Cell
from bem_fleet.studies.compatibility.compatibility_report import (
    CompatibilityScores,
    better_alone,
    f1_scores,
    fleet_report,
    pairwise_report,
)
from bem_fleet.studies.compatibility.mission_items import MissionItem
from bem_fleet.studies.compatibility.request_path import Reply

COUNT = 6


def items_of(cell: Cell, split: str, keys: frozenset[str] | None = None) -> list[MissionItem]:
    """Return made-up items."""
    found = [
        MissionItem(
            f"{cell.mission} {n}", cell.mission, "", "?", ("right",), f"{cell.mission}: {n}"
        )
        for n in range(cell.count)
    ]
    assert split
    return [one for one in found if keys is None or one.key in keys]


def replies_of(cell: Cell, split: str, keys: frozenset[str] | None) -> Sequence[Sequence[Reply]]:
    """A mission is right on its set, the router everywhere; memory beside one breaks half."""
    missions = cell.arm.missions
    rows = []
    for _ in range(2):
        row = []
        for number, _item in enumerate(items_of(cell, split, keys)):
            right = cell.mission in missions or "router" in missions
            broken = "memory" in missions and len(missions) > 1 and number % 2
            row.append(Reply("right" if right and not broken else "", "base"))
        rows.append(row)
    return rows


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "items", items_of)


def scores(keys: frozenset[str] | None = None) -> CompatibilityScores:
    """Return the scores of the made-up replies."""
    return CompatibilityScores(replies_of, "dev", keys)


def test_the_sets_own_mission_is_the_baseline_unless_another_is_better() -> None:
    """With equal scores, as on sets that the router answers as well, it is the set's own."""
    better = better_alone(scores(), COUNT)

    assert better["router_with_online"] == {"router": "router", "online": "online"}
    assert len(better) == 10


@pytest.mark.slow
def test_a_pair_is_compared_on_both_sets_and_interference_has_a_direction() -> None:
    """Memory beside the router breaks half of both sets; the router beside safety breaks none."""
    found = pairwise_report(scores(), better_alone(scores(), COUNT), COUNT)

    matrix, metrics = found["matrix"], found["metrics"]
    assert matrix["router_with_memory"]["f1"]["difference"] == -0.5
    assert matrix["router_with_memory"]["interference"]["memory on router"]["difference"] == -0.5
    assert matrix["router_with_safety"]["f1"]["difference"] == 0
    assert matrix["router_with_memory"]["interference"]["memory on router"]["empty_replies"] == 6
    assert len(metrics) == 10
    entry = metrics["sep_with_memory"]
    assert np.array(entry["mission"]).shape == np.array(entry["baseline"]).shape == (2, 12)
    assert len(set(entry["keys"])) == len(entry["clusters"]) == 12


@pytest.mark.slow
def test_the_gate_reads_what_the_report_has() -> None:
    """Both gates find a metric of every name, with the unit that they ask for."""
    gates = load_catalogue().gates
    better = better_alone(scores(), COUNT)
    for gate, report in (
        ("fleet.pairwise", pairwise_report(scores(), better, COUNT)),
        ("fleet.all_five", fleet_report(scores(), COUNT)),
    ):
        paired = {
            name: PairedScores(
                np.array(one["mission"]),
                np.array(one["baseline"]),
                tuple(one["clusters"]),
                "passage",
            )
            for name, one in report["metrics"].items()
        }
        rule = gates[gate].rule
        assert [one.metric for one in measure_gate(rule, paired, resamples=100)] == list(
            rule.metrics
        )


@pytest.mark.slow
def test_a_rerun_reports_the_given_items_alone() -> None:
    """Pairs without any of them are left out."""
    keys = frozenset(["router 1", "memory 2"])
    better = better_alone(scores(), COUNT)
    found = pairwise_report(scores(keys), better, COUNT)

    assert found["metrics"]["router_with_memory"]["keys"] == ["router 1", "memory 2"]
    assert "online_with_safety" not in found["metrics"]
    assert set(fleet_report(scores(keys), COUNT)["metrics"]) == {
        "router_in_fleet",
        "memory_in_fleet",
    }


def test_a_reply_is_read_as_its_set_is() -> None:
    """Strict replies are JSON; free text counts by its words."""
    free = MissionItem("a", "router", "", "?", ("red car",), "c")
    strict = MissionItem("b", "sep", "", "?", ("red car",), "c", scoring_mode="strict")
    texts = [Reply("red", "base"), Reply("red", "base")]

    assert f1_scores([free, strict], texts) == [pytest.approx(2 / 3, abs=1e-6), 0.0]
    assert Arm(("router",)).name == "router"
