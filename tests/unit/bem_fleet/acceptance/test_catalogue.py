"""The gates as data: complete, and checked when they are read."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from bem.errors import GateFormatError
from bem_fleet.acceptance.catalogue import CENTRAL_GATES, GateRule, load_catalogue
from bem_fleet.stats.clustered_share import assumed_effective_items

MISSIONS = {
    "A": "em_f1 latency plan_length kv_hit flip_rate",
    "B": "time_to_fix aggregate no_forgetting rollbacks poison latency",
    "C": "violations em_f1_drop latency knob orthogonality false_positives",
    "D": "rrs ldc ood quality compute",
    "E": "recall_8k recall_16k recall_32k recall_64k recall_128k recall_256k recall_512k "
    "perplexity latency scaling",
    "fleet": "pairwise all_five",
}
DESIGNED = [f"{letter}.{name}" for letter, names in MISSIONS.items() for name in names.split()]


def test_every_designed_gate_is_there() -> None:
    """The file holds the design's gates, no more and no fewer, and each phase has some."""
    catalogue = load_catalogue()

    assert sorted(catalogue.gates) == sorted(DESIGNED)
    assert all(catalogue.of_phase(phase) for phase in (1, 2, 3, 4))
    assert len(catalogue.of_phase(None)) == len(DESIGNED)


def test_targets_are_the_designs() -> None:
    """The figures that the design gives are the figures that are judged."""
    gates = load_catalogue().gates
    found = {name: (gates[name].rule.direction, gates[name].rule.target) for name in gates}

    assert found["A.em_f1"] == ("higher", 0.015)
    assert found["A.latency"] == ("lower", 1.15)
    assert found["B.time_to_fix"] == ("lower", 1000)
    assert found["C.violations"] == ("lower", 0.7)
    assert found["C.em_f1_drop"] == ("higher", -0.01)
    assert found["D.compute"] == ("lower", 2.0)
    assert found["E.perplexity"] == ("lower", 1.2)


def test_a_perfect_share_can_pass_with_the_fewest_items() -> None:
    """Where everything must hold, the fewest items suffice for the exact interval."""
    for gate in load_catalogue().gates.values():
        judged = gate.rule
        if judged.statistic == "share" and judged.target == 1:
            items = float(judged.min_items)
            if judged.unit != "item":
                items = assumed_effective_items(items, judged.min_clusters)
            assert 0.025 ** (1 / items) > judged.margin, judged.id


def test_gates_on_losses_have_a_suite_and_a_power_calculation() -> None:
    """A margin on answers below 0 needs a baseline that answers, and items that can show a loss."""
    for gate in load_catalogue().gates.values():
        judged = gate.rule
        if judged.statistic != "difference" or judged.margin != -0.01 or judged.id == "A.kv_hit":
            continue
        assert judged.min_baseline == 0.3, judged.id
        assert judged.power is not None
        assert judged.min_items >= judged.power.required_items(judged.margin) > 1000
        assert judged.unit != "item"


def test_fewer_items_than_the_power_calculation_gives_are_refused(tmp_path: Path) -> None:
    """The number of items is no matter of taste."""
    power = {"expected": 0.0, "deviation": 0.17, "power": 0.8, "design_effect": 1.3}
    change = {"margin": -0.01, "target": -0.01, "min_items": 500, "power": power}
    with pytest.raises(GateFormatError, match="min_items is 500; its power calculation gives 2953"):
        load_catalogue(_changed(tmp_path, change))


def _changed(tmp_path: Path, change: dict[str, Any]) -> Path:
    found = yaml.safe_load(CENTRAL_GATES.read_text())
    found["gates"][0].update(change)
    path = tmp_path / "gates.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, r"gates\[0\].*colour"),
        ({"phase": 5}, r"gates\[0\].phase"),
        ({"direction": "up"}, r"gates\[0\].direction"),
        ({"metrics": ["charm"]}, "A.em_f1: no metric 'charm'"),
        ({"id": "A.latency"}, "A.latency is declared twice"),
        ({"target": -0.5}, "target -0.5 is short of its margin"),
        ({"baseline": None}, r"gates\[0\].baseline"),
        ({"statistic": "share", "baseline": None}, r"gates\[0\]"),
        ({"at_most": 3}, r"gates\[0\]"),
        ({"min_items": 1}, r"gates\[0\].min_items"),
        ({"report": "../elsewhere.json"}, r"gates\[0\].report"),
        ({"mission": "chess"}, "A.em_f1: mission 'chess' is not declared for prefix 'A'"),
        ({"mission": "online"}, "A.em_f1: mission 'online' is not declared for prefix 'A'"),
        ({"id": "Z.em_f1"}, "Z.em_f1: mission 'router' is not declared for prefix 'Z'"),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """A file that breaks a rule is refused with the place of the fault."""
    with pytest.raises(GateFormatError, match=named):
        load_catalogue(_changed(tmp_path, change))


def _write_mission_gates(services: Path, **changes: Any) -> None:
    central = yaml.safe_load(CENTRAL_GATES.read_text())
    gate = {**central["gates"][0], "id": "F.hit_rate", "mission": "retrieval", "metrics": ["hit"]}
    document = {
        "missions": {"F": "retrieval"},
        "metrics": {"hit": {"description": "1 if found, else 0", "minimum": 0, "maximum": 1}},
        "gates": [gate],
        **changes,
    }
    folder = services / "retrieval"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gates.yaml").write_text(yaml.safe_dump(document))


def test_gates_of_a_mission_folder_are_merged_with_the_central_ones(tmp_path: Path) -> None:
    """A mission's own file adds its mission, metrics and gates, and may use central metrics."""
    _write_mission_gates(tmp_path)

    catalogue = load_catalogue(services=tmp_path)

    assert sorted(catalogue.gates) == sorted([*DESIGNED, "F.hit_rate"])
    assert catalogue.missions["F"] == catalogue.gates["F.hit_rate"].mission == "retrieval"
    assert "hit" in catalogue.metrics


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"missions": {"A": "retrieval"}}, "retrieval/gates.yaml: mission A: retrieval"),
        ({"missions": {"F": "router"}}, "mission F: router is declared twice"),
        (
            {"metrics": {"f1": {"description": "another", "minimum": 0, "maximum": 1}}},
            "metric f1 is declared in another file",
        ),
        ({"metrics": {}}, "F.hit_rate: no metric 'hit'"),
    ],
)
def test_mission_file_that_clashes_with_the_central_one_is_named(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """A mission, metric or gate that two files declare is refused with the second file's name."""
    _write_mission_gates(tmp_path, **changes)

    with pytest.raises(GateFormatError, match=named):
        load_catalogue(services=tmp_path)


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ({"minimum": 0}, "'maximum' is a required property"),
        ({"maximum": 1}, "'minimum' is a required property"),
        ({"minimum": 1, "maximum": 1}, "maximum is 1; it must be above the minimum, 1"),
        ({"minimum": 0, "maximum": 1e308}, "1e\\+308 is greater than"),
    ],
)
def test_metric_has_a_range(tmp_path: Path, bounds: dict[str, float], named: str) -> None:
    """Scores without a bound could be too large for every sum and every reader."""
    _write_mission_gates(tmp_path, metrics={"hit": {"description": "1 if found", **bounds}})

    with pytest.raises(GateFormatError, match=named):
        load_catalogue(services=tmp_path)


def test_other_file_of_gates_stands_alone(tmp_path: Path) -> None:
    """Files of missions are merged with the central file only, unless a folder is named."""
    _write_mission_gates(tmp_path / "services")
    alone = tmp_path / "services" / "retrieval" / "gates.yaml"

    assert list(load_catalogue(alone).gates) == ["F.hit_rate"]


def test_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    """What cannot be read is an error with the file's name."""
    (tmp_path / "broken.yaml").write_text("gates: [")
    for name in ("broken.yaml", "absent.yaml"):
        with pytest.raises(GateFormatError, match=name):
            load_catalogue(tmp_path / name)


def test_target_must_not_fall_short_of_the_margin() -> None:
    """A gate whose interval alone would decide is refused in both directions."""
    fields: dict[str, Any] = {"metrics": ("f1",), "statistic": "difference", "min_items": 2}
    with pytest.raises(GateFormatError, match="short of its margin"):
        GateRule(id="x", direction="lower", target=1.2, margin=1.1, min_seeds=1, **fields)
