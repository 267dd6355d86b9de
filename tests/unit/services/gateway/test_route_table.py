"""Choice of the route for a request's model."""

from bem_fleet.services.gateway.route_table import RouteTable
from bemfleet.fleet.v1 import fleet_pb2 as pb


def table(**canary: str) -> RouteTable:
    """Return a table with adapter-v2 promoted under the name of adapter, and a canary."""
    made = RouteTable(None, 1024, lambda _: None)
    route = pb.Route(
        mission="router",
        model="adapter",
        stable=pb.Target(model="adapter-v2"),
        canary=pb.Target(**canary),
        weight=50,
        canary_id="c",
    )
    made.apply(pb.WatchRoutesResponse(routes=[route]))
    return made


def test_another_deployment_is_tried_with_every_model() -> None:
    """The adapter goes by its promoted name on both sides, the base model by its own."""
    routes = table(address="router-canary:50051", model="adapter-v2")
    adapter, base = routes.route("router", "adapter"), routes.route("router", "base")

    assert adapter is not None
    assert (adapter.stable.model, adapter.canary.model) == ("adapter-v2", "adapter-v2")
    assert base is not None
    assert (base.stable.model, base.canary.model, base.weight) == ("", "", 50)
    assert base.canary.address == "router-canary:50051"


def test_another_adapter_is_tried_with_its_model_alone() -> None:
    """Requests for other models are not split."""
    routes = table(model="adapter-v3")

    assert routes.route("router", "base") is None
    assert routes.route("router", "adapter") is not None
    assert routes.route("memory", "adapter") is None
