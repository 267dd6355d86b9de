"""Arms and cells of the compatibility study."""

from pathlib import Path

import pytest
from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.studies.compatibility.arms import (
    ALL_FIVE,
    EVERY_ARM,
    PAIRS,
    Arm,
    fleet_cells,
    pair_cells,
)
from bem_fleet.studies.compatibility.compatibility_report import pair_name
from bem_fleet.studies.compatibility.mission_items import MISSIONS
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts
from bem_fleet.studies.compatibility.shared_engine import EngineParts

from tests.support.compatibility_seed import write_seed


def test_pairs_are_the_metrics_of_the_gate() -> None:
    """The gates read a metric for each pair and for each mission in the fleet."""
    gates = load_catalogue().gates

    assert gates["fleet.pairwise"].rule.metrics == tuple(pair_name(pair) for pair in PAIRS)
    assert gates["fleet.all_five"].rule.metrics == tuple(f"{one}_in_fleet" for one in MISSIONS)


def test_every_pair_is_asked_both_sets_and_so_is_each_alone() -> None:
    """25 cells alone, 20 of pairs; all five and each alone on five sets."""
    cells, fleet = list(pair_cells(7)), list(fleet_cells(9))

    assert len(cells) == len(set(cells)) == 45
    assert sum(len(one.arm.missions) == 2 for one in cells) == 20
    assert {one.count for one in fleet} == {9}
    assert sum(one.arm == ALL_FIVE for one in fleet) == 5
    assert len(EVERY_ARM) == 16


@pytest.mark.slow
def test_a_mission_that_changes_nothing_is_no_arm_of_its_own(tmp_path: Path) -> None:
    """Online without a bank is the base model; the front needs an engine of its own."""
    seed = write_seed(tmp_path)
    pair = Arm(("online", "sep"))

    assert pair.effective(seed) == Arm(("sep",))
    assert pair.parts(seed) == EngineParts(sep=True)
    assert ALL_FIVE.parts(seed) == EngineParts(sep=True, safety=True)


def test_without_artifacts_all_arms_share_an_engine(tmp_path: Path) -> None:
    """Nothing is in the weights, and no basis is reserved."""
    seed = SeedArtifacts(0, tmp_path)

    assert {one.parts(seed) for one in EVERY_ARM} == {EngineParts()}
    assert Arm(("online", "sep")).effective(seed).name == "no mission"
