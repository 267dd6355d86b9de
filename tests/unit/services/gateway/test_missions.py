"""Mission clients without a mission behind them."""

import grpc
import pytest
from bem_fleet.services.gateway.canary_observations import CanaryObserver
from bem_fleet.services.gateway.missions import MissionClient, connect_missions, mission_statuses
from bem_fleet.services.gateway.route_table import RouteTable


async def connected() -> dict[str, MissionClient]:
    """Return clients of two missions that are away."""
    observer = CanaryObserver("redis://127.0.0.1:1/0")
    table = RouteTable(None, 1024, observer.set_active_canaries)
    return connect_missions({"a": "unix:/no-a.sock", "b": "unix:/no-b.sock"}, 1024, table, observer)


async def test_missions_that_are_away_are_reported() -> None:
    """The status needs no answer of the mission; a method lookup fails with its gRPC error."""
    missions = await connected()
    statuses = await mission_statuses(missions)
    with pytest.raises(grpc.RpcError):
        await missions["a"].method("Ask")
    for mission in missions.values():
        await mission.close()

    assert statuses == {"a": "unavailable", "b": "unavailable"}
