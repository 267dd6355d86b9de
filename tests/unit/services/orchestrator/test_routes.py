"""Traffic routes follow from a mission's status."""

from typing import Any

from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.routes import all_routes, mission_route

from tests.unit.services.orchestrator.missions import mission


def address(given: Mission, service: str) -> str:
    """Return an address that shows its arguments."""
    return f"{service}.{given.namespace}:{given.port}"


def canary(phase: str, **more: Any) -> dict[str, Any]:
    """Return a status with a canary."""
    return {"canary": {"id": "a", "phase": phase, "weight": 10, "mirror": 5, **more}}


def test_a_mission_without_a_canary_goes_to_stable() -> None:
    """There is no canary to reach, whatever was tried before."""
    for status in ({}, canary("RolledBack", weight=0, image="i")):
        assert not mission_route(mission(status=status), address).HasField("canary")


def test_a_pod_canary_is_another_address_for_every_model() -> None:
    """The split applies to all requests of the mission."""
    route = mission_route(mission(status=canary("Canary", image="i"), model="qa"), address)

    assert (route.canary.address, route.canary.model) == ("router-canary.bem:50051", "")
    assert (route.model, route.weight, route.mirror) == ("", 10, 5)
    assert route.canary_id == "bem/router/a"


def test_an_adapter_canary_is_another_model_at_the_same_address() -> None:
    """Only requests for that model are split."""
    route = mission_route(mission(status=canary("Canary", model="qa-v2"), model="qa"), address)

    assert (route.canary.address, route.canary.model, route.model) == ("", "qa-v2", "qa")


def test_a_promoted_adapter_answers_for_the_name() -> None:
    """After its promotion the model's requests go to it, and no canary is left."""
    given = mission(status=canary("Promoted", model="qa-v2", stableModel="qa-v2"), model="qa")
    route = mission_route(given, address)

    assert route.stable.model == "qa-v2"
    assert not route.HasField("canary")


def test_routes_are_sorted_and_without_the_deleted() -> None:
    """The table is the same whatever the order of the cache."""
    gone = mission("gone")
    gone.raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    table = all_routes([mission("b"), gone, mission("a")], address)

    assert [route.mission for route in table.routes] == ["a", "b"]
