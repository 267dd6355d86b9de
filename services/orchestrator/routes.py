"""Where requests go: one route a mission, read from its status, the same on every replica."""

from collections.abc import Callable, Iterable

from bem_fleet.services.orchestrator.canary.machine import State
from bem_fleet.services.orchestrator.canary.record import read_state
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.workloads import canary_name
from bemfleet.fleet.v1 import fleet_pb2 as pb

Address = Callable[[Mission, str], str]
"""Returns where a Service of a mission is reached."""


def canary_id(mission: Mission, state: State | None = None) -> str:
    """Return the name of a canary's observations: mission and digest of what is tried."""
    known = state or read_state(mission.status)
    return f"{mission.key}/{known.id}"


def route_of(mission: Mission, address: Address) -> pb.Route:
    """Return how a mission's requests are split now."""
    state = read_state(mission.status)
    status = mission.status.get("canary") or {}
    alias = str(status.get("stableModel", ""))
    if alias == mission.model:
        alias = ""
    route = pb.Route(mission=mission.name, model=mission.model, stable=pb.Target(model=alias))
    # An adapter's split concerns one model; an image's all that the mission is asked.
    tried_image, tried_model = status.get("image", ""), status.get("model", "")
    if state.phase.is_live and (state.weight or state.mirror):
        if tried_image:
            where = address(mission, canary_name(mission))
            route.canary.CopyFrom(pb.Target(address=where, model=alias))
            route.model = "" if not alias else mission.model
        else:
            route.canary.CopyFrom(pb.Target(model=tried_model))
        route.weight, route.mirror = state.weight, state.mirror
        route.canary_id = canary_id(mission, state)
    return route


def routes_of(missions: Iterable[Mission], address: Address) -> pb.WatchRoutesResponse:
    """Return the routes of all missions, by name."""
    live = sorted((one for one in missions if not one.deleted), key=lambda one: one.key)
    return pb.WatchRoutesResponse(routes=[route_of(one, address) for one in live])
