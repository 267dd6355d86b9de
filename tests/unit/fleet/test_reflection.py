"""Reflection client over a Unix socket."""

from pathlib import Path

import pytest
from bemfleet.mission.v1 import mission_pb2
from bemfleet.safety.v1 import safety_pb2
from fleet.clients import open_channel
from fleet.errors import UnavailableError
from fleet.reflection import ReflectionClient, read_descriptors
from fleet.server import App, RunningServer, start
from fleet.settings import FleetSettings
from grpc import aio
from grpc_reflection.v1alpha import reflection as grpc_reflection

MISSION = mission_pb2.DESCRIPTOR.services_by_name["MissionService"].full_name


async def serve(address: str, *, reflection: bool = True) -> RunningServer:
    """Serve the description of MissionService, without its methods."""

    async def build(_settings: FleetSettings, app: App) -> None:
        await app.register_service(MISSION)

    settings = FleetSettings(address=address, drain_s=0, reflection=reflection)
    return await start(settings, build, {})


async def test_methods_are_found_with_their_options(tmp_path: Path) -> None:
    """Paths lead to descriptors; the pool also has the files that the reader asks for."""
    running = await serve(f"unix:{tmp_path}/s.sock")
    async with open_channel(running.address) as channel:
        client = ReflectionClient(channel, "sample")
        probe = await client.find_method(f"/{MISSION}/Probe")
        unknown = await client.find_method(f"/{MISSION}/Shout")
        read = await read_descriptors(channel, extra=[safety_pb2.DESCRIPTOR])
    await running.stop()

    assert probe is not None
    assert probe.input_type.full_name == "bemfleet.mission.v1.ProbeRequest"
    assert unknown is None
    assert read.pool.FindServiceByName("bemfleet.safety.v1.SafetyService")


async def test_cache_survives_a_server_that_is_away(tmp_path: Path) -> None:
    """Known methods need no server; after invalidation its absence is an UnavailableError."""
    running = await serve(f"unix:{tmp_path}/s.sock")
    async with open_channel(running.address) as channel:
        client = ReflectionClient(channel, "mission sample")
        await client.descriptors()
        await running.stop()
        cached = await client.find_method(f"/{MISSION}/Probe")
        client.invalidate()
        with pytest.raises(UnavailableError, match="mission sample"):
            await client.find_method(f"/{MISSION}/Probe")

    assert cached is not None


async def test_server_without_reflection_is_named(tmp_path: Path) -> None:
    """The error says which setting to leave on."""
    running = await serve(f"unix:{tmp_path}/s.sock", reflection=False)
    async with open_channel(running.address) as channel:
        with pytest.raises(UnavailableError, match="reflection"):
            await ReflectionClient(channel, "sample").descriptors()
    await running.stop()


async def test_service_without_a_description_is_unavailable(tmp_path: Path) -> None:
    """A sidecar whose mission is not reachable yet lists itself only; that is no internal error."""
    server = aio.server()
    grpc_reflection.enable_server_reflection(["bemfleet.none.v1.NoService"], server)
    server.add_insecure_port(f"unix:{tmp_path}/s.sock")
    await server.start()
    async with open_channel(f"unix:{tmp_path}/s.sock") as channel:
        with pytest.raises(UnavailableError, match="cannot describe yet"):
            await ReflectionClient(channel, "mission x").find_method("/a.B/C")
    await server.stop(0)
