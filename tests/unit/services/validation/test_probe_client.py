"""Probe client against a real MissionService."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
from bem_fleet.services.validation.probe_client import ProbeClient, ProbeTarget
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet.access.own_key import OwnKey


class Mission(rpc.MissionServiceServicer):
    """A mission that repeats what it is asked, or is slow."""

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:  # noqa: N802
        """Answer with model, prompt and limit, if the service's key is there."""
        assert ("authorization", "Bearer secret") in context.invocation_metadata()
        if request.prompt == "slow":
            await asyncio.sleep(30)
        return pb.ProbeResponse(text=f"{request.model}|{request.prompt}|{request.max_tokens}")


async def test_an_answer_is_of_the_model_and_a_missing_one_is_none(tmp_path: Path) -> None:
    """A server that is away, or too slow, is no error: the caller decides what it means."""
    server = grpc.aio.server()
    rpc.add_MissionServiceServicer_to_server(Mission(), server)  # type: ignore[abstract]
    address = f"unix:{tmp_path}/m.sock"
    server.add_insecure_port(address)
    await server.start()
    (tmp_path / "own.key").write_text("secret\n")
    client = ProbeClient(1.0, OwnKey(tmp_path / "own.key"))
    try:
        there = await client.answer(ProbeTarget(address, "qa"), "what?")
        late = await client.answer(ProbeTarget(address, "qa"), "slow")
        away = await client.answer(ProbeTarget(f"unix:{tmp_path}/absent.sock", ""), "what?")
    finally:
        await client.close()
        await server.stop(0)

    assert there == "qa|what?|64"
    assert (late, away) == (None, None)
