"""Missions that cannot be read: what is kept of them, and what their status says."""

import pytest
from bem_fleet.services.orchestrator.cluster_view import _read_mission
from bem_fleet.services.orchestrator.unreadable import UnreadableMission, unreadable_patch

from tests.unit.services.orchestrator.missions import raw_mission


@pytest.mark.parametrize(
    "canary",
    [
        {"id": "x", "phase": "Sideways"},
        {"id": "x", "phase": "Canary", "weight": "half"},
        {"id": "x", "phase": "Canary", "gate": {"evidence": [3]}},
        {"id": "x"},
        "running",
    ],
)
def test_a_status_of_another_form_is_unreadable(canary: object) -> None:
    """It is kept with its reason, in place of an error that ends the informer."""
    found = _read_mission(raw_mission(status={"canary": canary}, workload="fleet-router"))

    assert isinstance(found, UnreadableMission)
    assert (found.key, found.workload) == ("bem/router", "fleet-router")
    assert found.reason


def test_the_condition_is_written_once_and_beside_others() -> None:
    """Other conditions stay, and a Mission that has the condition is not written again."""
    ready = {"type": "Ready", "status": "True"}
    raw = raw_mission(status={"canary": {"id": "x", "phase": "?"}, "conditions": [ready]})
    found = _read_mission(raw)
    assert isinstance(found, UnreadableMission)
    patch = unreadable_patch(found)
    assert patch is not None
    conditions = patch["status"]["conditions"]
    raw["status"]["conditions"] = conditions

    assert [one["type"] for one in conditions] == ["Ready", "Readable"]
    assert "kubectl patch mission router" in conditions[1]["message"]
    assert unreadable_patch(found) is None
