"""Conditions about a canary's commands and a promotion."""

from typing import Any

import pytest
from bem_fleet.services.orchestrator.canary.machine import CanaryPhase, CanaryState
from bem_fleet.services.orchestrator.canary_conditions import add_canary_conditions
from bem_fleet.services.orchestrator.mission import Mission, read_mission
from bem_fleet.services.orchestrator.mission_status import ConditionBuilder

from tests.unit.services.orchestrator.missions import deployment, raw_mission


def commanded(phase: str, **annotations: str) -> Mission:
    """Return a mission with a canary in a phase, and annotations of the group."""
    canary = {"id": "x", "phase": phase, "image": "new:2"}
    raw = raw_mission(status={"canary": canary if phase else {}})
    names = {f"fleet.bem.dev/{key}": value for key, value in annotations.items()}
    raw["metadata"]["annotations"] = names
    return read_mission(raw)


def conditions(
    mission: Mission, state: CanaryState | None = None, image: str = "new:2"
) -> dict[str, dict[str, Any]]:
    """Return the conditions of a pass by type."""
    builder = ConditionBuilder(mission)
    after = state or mission.canary_status.state
    add_canary_conditions(builder, mission, after, deployment(image=image))
    return {one["type"]: one for one in builder.conditions}


@pytest.mark.parametrize(
    ("mission", "reason", "words"),
    [
        (commanded("Canary", canary="abrt"), "UnknownCommand", "'abrt'; set one of pause"),
        (commanded("Canary", canery="abort"), "UnknownAnnotation", "fleet.bem.dev/canery"),
        (commanded("Promoted", canary="abort"), "NoCanaryInProgress", "to go back start a canary"),
        (commanded("", canary="pause"), "NoCanaryInProgress", "there was none yet"),
        (commanded("Canary", canary="abort"), "Accepted", "abort"),
    ],
)
def test_a_command_leaves_a_trace(mission: Mission, reason: str, words: str) -> None:
    """A command that nobody follows does not vanish silently."""
    found = conditions(mission)["CanaryCommandAccepted"]

    assert (found["status"], found["reason"]) == (str(reason == "Accepted"), reason)
    assert words in found["message"]


def test_the_trace_stays_until_another_canary_starts() -> None:
    """The annotation is removed at once, so the condition is all that is left of it."""
    mission = commanded("Promoted", canary="abort")
    said = conditions(mission)["CanaryCommandAccepted"]
    raw = {**mission.raw, "status": {**mission.status, "conditions": [said]}}
    raw["metadata"] = {**raw["metadata"], "annotations": {}}
    later = read_mission(raw)

    assert conditions(later)["CanaryCommandAccepted"] == said
    assert "CanaryCommandAccepted" not in conditions(later, CanaryState("y", CanaryPhase.STARTING))


def test_a_promotion_that_was_undone_is_told() -> None:
    """`kubectl rollout undo` and an upgrade change stable behind a canary that is Promoted."""
    mission = commanded("Promoted")

    assert conditions(mission)["PromotionInForce"]["status"] == "True"
    undone = conditions(mission, image="old:1")["PromotionInForce"]
    assert (undone["status"], undone["reason"]) == ("False", "StableChanged")
    assert "new:2 was promoted, and stable runs old:1 since" in undone["message"]
    assert "PromotionInForce" not in conditions(commanded("Canary"))
