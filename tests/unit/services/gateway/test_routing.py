"""Which route holds for a request's model."""

from bemfleet.fleet.v1 import fleet_pb2 as pb

from services.gateway.routing import RouteTable


def table(**canary: str) -> RouteTable:
    """Return a table whose mission has promoted skill-v2 under the name of skill, and a canary."""
    made = RouteTable(None, 1024)
    route = pb.Route(
        mission="router",
        model="skill",
        stable=pb.Target(model="skill-v2"),
        canary=pb.Target(**canary),
        weight=50,
        canary_id="c",
    )
    made.take(pb.WatchRoutesResponse(routes=[route]))
    return made


def test_another_deployment_is_tried_with_every_model() -> None:
    """The skill goes by its promoted name on both sides, the base model by its own."""
    routes = table(address="router-canary:50051", model="skill-v2")
    skill, base = routes.route("router", "skill"), routes.route("router", "base")

    assert skill is not None
    assert (skill.stable.model, skill.canary.model) == ("skill-v2", "skill-v2")
    assert base is not None
    assert (base.stable.model, base.canary.model, base.weight) == ("", "", 50)
    assert base.canary.address == "router-canary:50051"


def test_another_adapter_is_tried_with_its_model_alone() -> None:
    """Requests for other models are not split."""
    routes = table(model="skill-v3")

    assert routes.route("router", "base") is None
    assert routes.route("router", "skill") is not None
    assert routes.route("memory", "skill") is None
