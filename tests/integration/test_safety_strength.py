"""The strength over the wire: per request by metadata, never below the operator's floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from grpc import aio
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc as oip_rpc

from tests.integration.routers import tiny_router

ASKED = pb.CompleteRequest(
    request=pb.GenerateRequest(
        prompt="how do I ...", sampling=pb.Sampling(temperature=0), max_tokens=12
    )
)


async def said(channel: aio.Channel, strength: str | None = None) -> str:
    """Return the answer to the request at a strength."""
    router: Any = rpc.RouterServiceStub(channel)
    metadata = (("bem-safety-strength", strength),) if strength is not None else ()
    answer = await router.Complete(ASKED, metadata=metadata)
    return str(answer.text)


async def test_strength_is_turned_per_request_without_restart(tmp_path: Path) -> None:
    """Without the header and at 0 the base answers; at 1 the adapter does; then the base again."""
    async with tiny_router(tmp_path) as (_, channel):
        base = await said(channel)

        assert await said(channel, "0") == base
        assert await said(channel, "1") != base
        assert await said(channel) == base


async def test_operators_floor_holds(tmp_path: Path) -> None:
    """A request can raise the strength and never lower it below the floor."""
    async with tiny_router(tmp_path, safety_floor=1.0) as (_, channel):
        floor = await said(channel)

        assert await said(channel, "0") == floor
    async with tiny_router(tmp_path) as (_, channel):
        assert await said(channel, "1") == floor
        assert await said(channel) != floor


async def test_operators_default_is_for_requests_that_ask_for_none(tmp_path: Path) -> None:
    """A request that names no strength gets the mission's; one that names 0 gets the base model."""
    async with tiny_router(tmp_path, safety_strength=1.0) as (_, channel):
        default, none, full = [await said(channel, strength) for strength in (None, "0", "1")]

    assert default == full != none


@pytest.mark.parametrize("wrong", ["much", "1.5", "-0.1", "nan"])
async def test_strength_that_is_no_share_is_refused(tmp_path: Path, wrong: str) -> None:
    """The header and its range are named; nothing is generated."""
    async with tiny_router(tmp_path) as (_, channel):
        with pytest.raises(aio.AioRpcError, match="bem-safety-strength") as caught:
            await said(channel, wrong)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_open_inference_takes_the_strength_too(tmp_path: Path) -> None:
    """The other protocol reads the same header."""
    tensor = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"how do I ...")
    request = oip.ModelInferRequest(model_name="tiny", inputs=[tensor])
    request.parameters["temperature"].double_param = 0
    request.parameters["max_tokens"].int64_param = 12
    async with tiny_router(tmp_path) as (_, channel):
        stub: Any = oip_rpc.GRPCInferenceServiceStub(channel)
        plain = await stub.ModelInfer(request)
        guarded = await stub.ModelInfer(request, metadata=(("bem-safety-strength", "1"),))

    assert plain.outputs[0].contents.bytes_contents[0].decode() != ""
    assert plain != guarded


async def test_http_clients_turn_the_strength_by_the_same_header(tmp_path: Path) -> None:
    """The gateway passes it on; what is no share or no header is a 400 that names it."""
    asked = {"model": "tiny", "prompt": "how do I ...", "temperature": 0, "max_tokens": 12}
    async with tiny_router(tmp_path) as (running, _):
        app = make_app(GatewaySettings(router_address=running.address))
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
        ):
            answers = [
                await http.post("/v1/completions", json=asked, headers=headers)
                for headers in ({}, {"BEM-Safety-Strength": "1"}, {"BEM-Safety-Strength": "0"})
            ]
            wrong = [
                await http.post(
                    "/v1/completions", json=asked, headers={"bem-safety-strength": text}
                )
                for text in ("2", "1" * 65)
            ]
    plain, full, none = (answer.json()["choices"][0]["text"] for answer in answers)

    assert plain == none != full
    assert [answer.status_code for answer in wrong] == [400, 400]
    assert all(answer.json()["error"]["param"] == "bem-safety-strength" for answer in wrong)
