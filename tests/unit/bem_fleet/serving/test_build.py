"""Assembly of a mission with the tiny model, over a real socket."""

from pathlib import Path

import grpc
import pytest
from bem_fleet.serving import STATUS, EngineSettings, HostHolder, build_mission
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.server import App, start


async def test_contract_is_ready_once_the_model_is_loaded(tmp_path: Path) -> None:
    """The hook sees the host before readiness; probes answer, and errors have their codes."""
    service = pb.DESCRIPTOR.services_by_name["MissionService"]
    loaded: list[str] = []

    async def build(settings: EngineSettings, app: App) -> None:
        await build_mission(
            app,
            settings,
            name="x",
            service=service,
            holder=HostHolder(),
            on_loaded=lambda host: loaded.append(host.base_model.name),
        )

    settings = EngineSettings(
        address=f"unix:{tmp_path}/m.sock", backbone="tiny", adapter_folder=tmp_path, rank=4
    )
    running = await start(settings, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, 60)
            stub = rpc.MissionServiceStub(channel)
            found = await stub.ListAdapters(pb.ListAdaptersRequest())
            answer = await stub.Probe(pb.ProbeRequest(prompt="hello", max_tokens=4))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.LoadAdapter(pb.LoadAdapterRequest(name="alpha"))
    finally:
        await running.stop()

    assert loaded == [one.name for one in found.adapters] == ["tiny"]
    assert answer.model_version
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
