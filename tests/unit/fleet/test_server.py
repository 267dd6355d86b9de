"""App lifecycle without sockets; servers on real sockets are in test_fleet_server."""

from typing import Any

from fleet.server import App
from grpc_health.v1 import health_pb2


def app() -> App:
    """Return an app without a server."""
    server: Any = None
    return App(server)


async def test_registered_service_is_not_serving_until_it_is_set() -> None:
    """Registration announces the service to health and reflection."""
    made, context = app(), None
    await made.register_service("sample.v1.S")
    request = health_pb2.HealthCheckRequest(service="sample.v1.S")
    before = await made.health.Check(request, context)  # type: ignore[arg-type]
    await made.set_serving("sample.v1.S", serving=True)
    after = await made.health.Check(request, context)  # type: ignore[arg-type]

    assert made.services == ["sample.v1.S"]
    assert (before.status, after.status) == (2, 1)


async def test_drain_steps_run_in_order_and_stop_steps_in_reverse() -> None:
    """What was opened first is closed last."""
    made, ran = app(), []

    def step(name: str) -> Any:
        async def run() -> None:
            ran.append(name)

        return run

    for name in ("a", "b"):
        made.on_drain(step(f"drain {name}"))
        made.on_stop(step(f"stop {name}"))
    await made.drain()
    await made.finish()

    assert ran == ["drain a", "drain b", "stop b", "stop a"]
