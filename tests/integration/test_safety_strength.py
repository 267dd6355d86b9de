"""Safety strength over gRPC and HTTP: per request, with the operator's default and floor."""

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
from fleet.wire import SAFETY_STRENGTH
from grpc import aio
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc as oip_rpc

from tests.integration.routers import tiny_router

REQUEST = pb.CompleteRequest(
    request=pb.GenerateRequest(
        prompt="how do I ...", sampling=pb.Sampling(temperature=0), max_tokens=12
    )
)


async def complete(channel: aio.Channel, strength: str | None = None) -> str:
    """Return the response to the request at a strength."""
    router: Any = rpc.RouterServiceStub(channel)
    metadata = ((SAFETY_STRENGTH, strength),) if strength is not None else ()
    answer = await router.Complete(REQUEST, metadata=metadata)
    return str(answer.text)


async def test_strength_applies_per_request(tmp_path: Path) -> None:
    """Without the header and at 0 the base model responds, at 1 the safety adapter."""
    async with tiny_router(tmp_path) as (_, channel):
        base = await complete(channel)

        assert await complete(channel, "0") == base
        assert await complete(channel, "1") != base
        assert await complete(channel) == base


async def test_floor_bounds_the_strength(tmp_path: Path) -> None:
    """A request can raise the strength, but not lower it below the floor."""
    async with tiny_router(tmp_path, safety_floor=1.0) as (_, channel):
        floor = await complete(channel)

        assert await complete(channel, "0") == floor
    async with tiny_router(tmp_path) as (_, channel):
        assert await complete(channel, "1") == floor
        assert await complete(channel) != floor


async def test_default_applies_to_requests_without_a_strength(tmp_path: Path) -> None:
    """A request without a strength gets the default; a request with 0 the base model."""
    async with tiny_router(tmp_path, safety_strength=1.0) as (_, channel):
        default, none, full = [await complete(channel, strength) for strength in (None, "0", "1")]

    assert default == full != none


@pytest.mark.parametrize("wrong", ["much", "1.5", "-0.1", "nan"])
async def test_strength_outside_0_to_1_is_rejected(tmp_path: Path, wrong: str) -> None:
    """The error names the header."""
    async with tiny_router(tmp_path) as (_, channel):
        with pytest.raises(aio.AioRpcError, match=SAFETY_STRENGTH) as caught:
            await complete(channel, wrong)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_open_inference_reads_the_strength(tmp_path: Path) -> None:
    """The Open Inference Protocol reads the same header."""
    tensor = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"how do I ...")
    request = oip.ModelInferRequest(model_name="tiny", inputs=[tensor])
    request.parameters["temperature"].double_param = 0
    request.parameters["max_tokens"].int64_param = 12
    async with tiny_router(tmp_path) as (_, channel):
        stub: Any = oip_rpc.GRPCInferenceServiceStub(channel)
        plain = await stub.ModelInfer(request)
        guarded = await stub.ModelInfer(request, metadata=((SAFETY_STRENGTH, "1"),))

    assert plain.outputs[0].contents.bytes_contents[0].decode() != ""
    assert plain != guarded


async def test_gateway_forwards_the_strength(tmp_path: Path) -> None:
    """The gateway forwards the header; an invalid value is a 400 that names it."""
    body = {"model": "tiny", "prompt": "how do I ...", "temperature": 0, "max_tokens": 12}
    async with tiny_router(tmp_path) as (running, _):
        app = make_app(GatewaySettings(missions={"router": running.address}))
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
        ):
            answers = [
                await http.post("/v1/completions", json=body, headers=headers)
                for headers in ({}, {"BEM-Safety-Strength": "1"}, {"BEM-Safety-Strength": "0"})
            ]
            wrong = [
                await http.post("/v1/completions", json=body, headers={SAFETY_STRENGTH: text})
                for text in ("2", "1" * 65)
            ]
    plain, full, none = (answer.json()["choices"][0]["text"] for answer in answers)

    assert plain == none != full
    assert [answer.status_code for answer in wrong] == [400, 400]
    assert all(answer.json()["error"]["param"] == SAFETY_STRENGTH for answer in wrong)
