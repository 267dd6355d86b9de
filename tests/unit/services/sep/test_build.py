"""Service of mission sep with the tiny model, over a real socket."""

from pathlib import Path

import grpc
import pytest
from bem_fleet.services.sep.build import build
from bem_fleet.services.sep.settings import SepSettings
from bem_fleet.serving import STATUS
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.sep.v1 import sep_pb2 as pb
from bemfleet.sep.v1 import sep_pb2_grpc as rpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.errors import details_of
from fleet.server import start

from tests.unit.services.sep.test_front_loading import write_front, write_head

_READY_S = 60


async def test_service_and_contract_answer(tmp_path: Path) -> None:
    """Answers, embeddings and sensitivity have the front's version; errors have their codes."""
    front = write_front(tmp_path / "sep")
    write_head(tmp_path / "sep", front)
    settings = SepSettings(
        address=f"unix:{tmp_path}/m.sock",
        backbone="tiny",
        adapter_folder=tmp_path,
        front=tmp_path / "sep",
        rank=4,
    )
    running = await start(settings, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, _READY_S)
            own = rpc.SepServiceStub(channel)
            answer = await own.Generate(pb.GenerateRequest(prompt="hello", max_tokens=4))
            inputs = [pb.EmbedInput(text="hello"), pb.EmbedInput(text="the harbour")]
            embedded = await own.Embed(pb.EmbedRequest(inputs=inputs))
            measured = await own.Sensitivity(
                pb.SensitivityRequest(prompt="where is the harbour", rewrites=2, max_tokens=3)
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await own.Embed(pb.EmbedRequest(inputs=inputs, dimensions=9))
            contract = mission_pb2_grpc.MissionServiceStub(channel)
            description = await contract.Describe(mission_pb2.DescribeRequest())
    finally:
        await running.stop()

    assert answer.model_version.endswith(f"-{front[:12]}")
    assert [len(one.values) for one in embedded.embeddings] == [8, 8]
    assert len(measured.rewrites) == 2
    assert details_of(caught.value).field == "dimensions"
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert description.name == "sep"
    assert [one.model_field for one in description.methods] == ["model", "", "model"]
    assert not description.warnings
