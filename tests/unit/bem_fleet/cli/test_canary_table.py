"""Canary status as text."""

from typing import Any

from bem_fleet.cli.canary_table import (
    format_canary,
    format_history,
    from_message,
    from_resource,
)
from bemfleet.fleet.v1 import fleet_pb2 as pb

RESOURCE: dict[str, Any] = {
    "metadata": {"name": "router"},
    "status": {
        "canary": {
            "phase": "Canary",
            "image": "new:2",
            "reason": "step 1",
            "step": 1,
            "weight": 10,
            "stableWeight": 90,
            "mirror": 5,
            "gate": {
                "verdict": "continue",
                "pairs": 40,
                "reasons": "errors is not shown yet; latency is not shown yet",
                "delta": "errors +0.0000",
                "p": "0.4",
            },
            "history": [
                {"time": "t", "id": "a", "phase": "Canary", "step": 1, "pairs": 0, "reason": "r"}
            ],
        }
    },
}


def test_message_and_resource_give_the_same_table() -> None:
    """Both ``fleetctl`` and ``kubectl bem`` print the same eight lines for the same canary."""
    canary = pb.Canary(
        phase="Canary", reason="step 1", step=1, weight=10, mirror=5, verdict="continue", pairs=40
    )
    setattr(canary, CANDIDATE, "new:2")
    message = pb.Mission(name="router", canary=canary)
    table = format_canary("router", from_message(message))

    assert table == format_canary("router", from_resource(RESOURCE))
    assert len(table.splitlines()) == 8
    assert "90 / 10 %" in table
    assert "continue after 40 pairs" in table


CANDIDATE = next(
    one for one in ("candidate", "tries") if one in pb.Canary.DESCRIPTOR.fields_by_name
)


def test_mission_without_a_canary() -> None:
    """One line says so."""
    assert format_canary("x", from_resource({"metadata": {"name": "x"}})) == "x: no canary yet"
    assert from_message(pb.Mission(name="x")) is None


def test_history() -> None:
    """The way to the present phase."""
    assert format_history(RESOURCE).startswith("t  a  Canary")
