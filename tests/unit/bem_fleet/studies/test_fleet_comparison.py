"""The comparison through a running fleet."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from bem_fleet.data.held_out import HeldOutClosedError, final_evaluation
from bem_fleet.studies import fleet_comparison
from bem_fleet.studies.fleet_comparison import ADDRESS, adapter_comparison, build_parser
from bem_fleet.studies.grpc_system import RouterModels

from tests.support.oracle_comparison import Oracle


def test_adapter_stands_against_two_baselines_on_held_out_items(tmp_path: Path) -> None:
    """The adapter is scored strictly, the base leniently, zero-shot and with two examples."""
    models = cast("RouterModels", SimpleNamespace(system=lambda name="": Oracle(2, name or "base")))
    with final_evaluation("make evaluate", tmp_path / "register.json") as opening:
        found = adapter_comparison(models, limit=5, command="make evaluate")

    assert opening.counts == {"passage-qa": 1}
    assert (found.mission.scoring_mode, len(found.items)) == ("strict", 5)
    assert [side.scoring_mode for side in found.baselines] == ["lenient", "lenient"]
    assert [len(side.shots) for side in found.baselines] == [2, 0]


def test_comparison_outside_a_final_evaluation_is_refused() -> None:
    """Held-out items are counted before they are asked."""
    models = cast("RouterModels", SimpleNamespace(system=lambda name="": Oracle(2, name)))
    with pytest.raises(HeldOutClosedError, match="passage-qa"):
        adapter_comparison(models, limit=1, command="make evaluate")


def test_address_is_an_argument_with_the_local_fleet_as_default() -> None:
    """Without arguments the study asks the fleet of ``make up``."""
    assert build_parser().parse_args([]).address == ADDRESS == "127.0.0.1:50051"
    assert build_parser().parse_args(["--address", "host:1"]).address == "host:1"


def test_fleet_that_does_not_respond_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command ends with status 1 and names the address."""
    arguments = ["study", "--address", "127.0.0.1:1", "--cache", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)

    assert fleet_comparison.main() == 1
    assert "127.0.0.1:1: UNAVAILABLE" in capsys.readouterr().err
