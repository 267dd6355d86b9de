"""Service of the online mission with the tiny model, over a real socket, without a bank."""

from pathlib import Path

from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.online.v1 import online_pb2 as pb
from fleet.clients import open_channel
from fleet.testing import RedisServer

from tests.integration.onlines import online


async def test_base_model_is_served_without_a_bank(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Answers are those of the base model; Status and the contract say what is missing."""
    async with online(tmp_path, redis_server) as (stub, running):
        answer = await stub.Generate(pb.GenerateRequest(prompt="hello", max_tokens=4))
        status = await stub.Status(pb.StatusRequest())
        async with open_channel(running.address) as channel:
            contract = mission_pb2_grpc.MissionServiceStub(channel)
            description = await contract.Describe(mission_pb2.DescribeRequest())

    assert answer.model_version
    assert (answer.version, answer.condition) == (0, "")
    assert status.not_learning == "nothing is learned; bank has no bank"
    assert status.not_learning in description.warnings
    assert description.name == "online"


async def test_broken_bank_does_not_keep_the_mission_from_serving(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """The reason names the file."""
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "bank.json").write_text("{}")
    async with online(tmp_path, redis_server) as (stub, _):
        answer = await stub.Generate(pb.GenerateRequest(prompt="hello", max_tokens=4))
        status = await stub.Status(pb.StatusRequest())

    assert answer.completion_tokens
    assert "the bank cannot be used" in status.not_learning
