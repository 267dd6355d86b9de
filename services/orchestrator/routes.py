"""Traffic routes: one route per mission, derived from its status and equal on every replica."""

from collections.abc import Callable, Iterable

from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.workloads import canary_name
from bemfleet.fleet.v1 import fleet_pb2 as pb

AddressResolver = Callable[[Mission, str], str]
"""Returns the address of a Service of a mission."""


def canary_id(mission: Mission) -> str:
    """Return the id of a canary's observations: the mission, what it tries, and the run.

    A canary that is tried again has none of its earlier evidence.
    """
    state = mission.canary_status.state
    run = f"-{state.run}" if state.run else ""
    return f"{mission.key}/{state.id}{run}"


def mission_route(mission: Mission, address: AddressResolver) -> pb.Route:
    """Return how a mission's requests are split now."""
    canary = mission.canary_status
    stable_model = canary.stable_model if canary.stable_model != mission.model else ""
    stable = pb.Target(model=stable_model)
    route = pb.Route(mission=mission.name, model=mission.model, stable=stable)
    state = canary.state
    if state.phase.is_live and (state.weight or state.mirror):
        if canary.image:
            # A pod canary serves every model, so the split applies to all requests; after an
            # adapter's promotion only to the model that the promoted adapter answers for.
            where = address(mission, canary_name(mission))
            route.canary.CopyFrom(pb.Target(address=where, model=stable_model))
            route.model = mission.model if stable_model else ""
        else:
            route.canary.CopyFrom(pb.Target(model=canary.model))
        route.weight, route.mirror = state.weight, state.mirror
        route.canary_id = canary_id(mission)
    return route


def all_routes(missions: Iterable[Mission], address: AddressResolver) -> pb.WatchRoutesResponse:
    """Return the routes of all missions that are not being deleted, sorted by name."""
    active = sorted((m for m in missions if not m.deleted), key=lambda mission: mission.key)
    return pb.WatchRoutesResponse(routes=[mission_route(m, address) for m in active])
