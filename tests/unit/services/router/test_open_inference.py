"""Tests of the Open Inference translation."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from bem.engine import OutputDelta
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.open_inference import MAX_BATCH, OpenInferenceServicer
from inference import open_inference_pb2 as pb

from tests.unit.services.router.fake_engine import DELTAS, FakeEngine
from tests.unit.services.router.test_servicer import Context


def servicer_of(*deltas: OutputDelta) -> Any:
    """A servicer whose engine gives these deltas."""
    lazy = LazyModelHost()
    lazy.loaded = ModelHost(tiny_backbone(), FakeEngine(deltas or DELTAS), Path())
    return OpenInferenceServicer(lazy)


def infer(*texts: bytes) -> pb.ModelInferRequest:
    """A request with raw contents."""
    request = pb.ModelInferRequest(model_name="tiny", id="7")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[len(texts)])
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(t)) + t for t in texts))
    return request


async def test_the_version_is_that_of_the_outputs() -> None:
    """All texts were served by one version, which the response names once."""
    response = await servicer_of().ModelInfer(infer(b"one", b"two"), Context())

    assert response.model_version.partition("+")[2] == "b" * 12
    assert response.raw_output_contents[0] == 2 * (struct.pack("<I", 5) + b"hello")
    assert (response.id, list(response.outputs[0].shape)) == ("7", [2])


async def test_versions_that_a_reload_separates_are_all_named() -> None:
    """Outputs of different versions name each version once, in order."""
    servicer = servicer_of()
    host = servicer._host.loaded
    versions = iter(("a" * 64, "b" * 64))

    async def complete(_: object) -> OutputDelta:
        return OutputDelta("x", 1, "stop", adapter_version=next(versions))

    host.complete = complete
    response = await servicer.ModelInfer(infer(b"one", b"two"), Context())

    base = host.model_version("")
    assert response.model_version == f"{base}+{'a' * 12},{base}+{'b' * 12}"


@pytest.mark.parametrize("texts", [(), (b"x",) * (MAX_BATCH + 1)])
async def test_a_batch_has_a_limit(texts: tuple[bytes, ...]) -> None:
    """Empty and too large batches are refused with the limit."""
    with pytest.raises(InvalidRequestError, match=f"1 to {MAX_BATCH} are allowed"):
        await servicer_of().ModelInfer(infer(*texts), Context())


async def test_readiness_follows_the_model() -> None:
    """A loading server is alive and not ready; an unknown model never is."""
    loading: Any = OpenInferenceServicer(LazyModelHost())
    assert (await loading.ServerLive(pb.ServerLiveRequest(), Context())).live
    assert not (await loading.ServerReady(pb.ServerReadyRequest(), Context())).ready
    ready = servicer_of()
    for name, expected in (("tiny", True), ("gpt", False), ("", False)):
        request = pb.ModelReadyRequest(name=name)
        if name:
            assert (await ready.ModelReady(request, Context())).ready is expected
