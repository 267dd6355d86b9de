"""Service of the memory mission with the tiny model, over a real socket."""

from pathlib import Path

from bem.memory import MemoryModules
from bem.memory.artifact import MemoryCard, save_modules
from bem_fleet.services.memory.build import build
from bem_fleet.services.memory.servicer import STATUS
from bem_fleet.services.memory.settings import MemorySettings
from bemfleet.memory.v1 import memory_pb2 as pb
from bemfleet.memory.v1 import memory_pb2_grpc as rpc
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.server import start
from fleet.testing import RedisServer

from tests.unit.bem.memory.sessions import backbone
from tests.unit.services.memory.hosts import parts

_READY_S = 60


async def test_service_and_contract_answer(tmp_path: Path, redis_server: RedisServer) -> None:
    """The mission's own service and the mission contract answer on one socket."""
    settings = MemorySettings(
        address=f"unix:{tmp_path}/m.sock",
        backbone="tiny",
        adapter_folder=tmp_path,
        modules=tmp_path / "memory",
        redis_url=redis_server.url,
        context_tokens=512,
        evidence_tokens=64,
        rank=4,
    )
    head = pb.IngestHead(session="s", document="d")
    document = pb.IngestRequest(text="Ada has 17 keys."), pb.IngestRequest(end=True)
    messages = pb.IngestRequest(head=head), *document
    running = await start(settings, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, _READY_S)
            own = rpc.MemoryServiceStub(channel)
            progress = [one async for one in own.Ingest(parts(*messages))]
            asked = pb.QueryRequest(session="s", question="Ada 17 keys?", max_tokens=4)
            answers = [one async for one in own.Query(asked)]
            contract = mission_pb2_grpc.MissionServiceStub(channel)
            description = await contract.Describe(mission_pb2.DescribeRequest())
    finally:
        await running.stop()

    assert [one.acknowledged for one in progress] == [16, 16]
    assert answers[0].span.text == "Ada has 17 keys."
    assert answers[-1].outcome.model_version == backbone().model_version("")
    assert description.name == "memory"
    assert "memory modules: untrained ones are served" in description.warnings[-1]
    models = {one.name.rpartition("/")[2]: one.model_field for one in description.methods}
    assert (models["Query"], models["Ingest"]) == ("model", "")


async def test_trained_modules_are_served_without_a_warning(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Modules of the base model are loaded, and a session of other modules is refused."""
    card = MemoryCard(
        base_name="tiny",
        base_digest=backbone().digest,
        layers=[0],
        kinds=["o_proj"],
        rank=1,
        scale=1.0,
        feature_layer=0,
        command="test",
        data_digest="0" * 64,
        seed=0,
        states=["embeddings"],
        width=32,
    )
    save_modules(tmp_path / "memory", card, MemoryModules(32, seed=5))
    settings = MemorySettings(
        address=f"unix:{tmp_path}/m.sock",
        backbone="tiny",
        adapter_folder=tmp_path,
        modules=tmp_path / "memory",
        redis_url=redis_server.url,
        rank=4,
    )
    running = await start(settings, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, _READY_S)
            contract = mission_pb2_grpc.MissionServiceStub(channel)
            description = await contract.Describe(mission_pb2.DescribeRequest())
    finally:
        await running.stop()

    assert not [one for one in description.warnings if "memory modules" in one]
