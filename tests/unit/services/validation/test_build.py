"""Wiring of the validation service, with a Redis that comes and goes."""

from pathlib import Path

from bem_fleet.services.validation.build import build
from bem_fleet.services.validation.servicer import SERVICE, STATUS
from bem_fleet.services.validation.settings import ValidationSettings
from fleet.clients import open_channel
from fleet.server import start
from fleet.testing import RedisServer
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def test_health_follows_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """A claim that cannot be recorded is no answer: without Redis the service is not ready."""
    settings = ValidationSettings(
        address=f"unix:{tmp_path}/v.sock", redis_url=redis_server.url, drain_s=0
    )
    running = await start(settings, build, STATUS)
    states = []
    try:
        async with open_channel(running.address) as channel:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=60)
            async for answer in watch:
                states.append(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
                if states[-1] == "SERVING" and "NOT_SERVING" in states[1:]:
                    break
                if states[-1] == "SERVING":
                    redis_server.kill()
                elif "SERVING" in states:
                    redis_server.start()
    finally:
        await running.stop()

    assert states[-3:] == ["SERVING", "NOT_SERVING", "SERVING"]
