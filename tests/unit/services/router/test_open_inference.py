"""Servicer of the Open Inference Protocol."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bem.engine import OutputDelta
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.services.router.infer_requests import MAX_BATCH
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.open_inference import OpenInferenceServicer
from fleet import bytes_tensors
from fleet.errors import NotFoundError
from fleet.text_roles import FINAL_RESPONSE
from inference import open_inference_pb2 as pb

from tests.unit.services.router.fake_engine import DELTAS, FakeEngine
from tests.unit.services.router.test_servicer import Context

VERSION = "b" * 12


def servicer_of(*deltas: OutputDelta) -> Any:
    """A servicer whose engine gives these deltas."""
    lazy = LazyModelHost()
    lazy.loaded = ModelHost(tiny_backbone(), FakeEngine(deltas or DELTAS), Path())
    return OpenInferenceServicer(lazy)


def infer(*texts: bytes, **flags: bool) -> pb.ModelInferRequest:
    """A request with raw contents."""
    request = pb.ModelInferRequest(model_name="tiny", id="7")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[len(texts)])
    request.raw_input_contents.append(bytes_tensors.pack(texts))
    for name, flag in flags.items():
        request.parameters[name].bool_param = flag
    return request


async def stream(servicer: Any, *requests: pb.ModelInferRequest) -> list[Any]:
    """Send the requests over one stream; returns its responses."""

    async def sent() -> AsyncIterator[pb.ModelInferRequest]:
        for request in requests:
            yield request

    return [one async for one in servicer.ModelStreamInfer(sent(), Context())]


def summary(response: Any) -> tuple[str, bytes, bool]:
    """Return id, first text and final flag of a stream's response."""
    inner = response.infer_response
    contents = b"".join(inner.raw_output_contents)
    return inner.id, contents[4:], inner.parameters[FINAL_RESPONSE].bool_param


async def test_the_version_is_that_of_the_outputs() -> None:
    """All texts were served by one version, which the response names once."""
    response = await servicer_of().ModelInfer(infer(b"one", b"two"), Context())

    assert response.model_version.partition("+")[2] == VERSION
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
    """A loading server is alive and not ready; an unknown model or version never is."""
    loading: Any = OpenInferenceServicer(LazyModelHost())
    assert (await loading.ServerLive(pb.ServerLiveRequest(), Context())).live
    assert not (await loading.ServerReady(pb.ServerReadyRequest(), Context())).ready
    assert not (await loading.ModelReady(pb.ModelReadyRequest(name="tiny"), Context())).ready
    ready = servicer_of()
    served = ready._host.loaded.model_version("")
    cases = {("tiny", ""): True, ("tiny", served): True, ("tiny", "1"): False, ("gpt", ""): False}
    for (name, version), expected in cases.items():
        request = pb.ModelReadyRequest(name=name, version=version)
        assert (await ready.ModelReady(request, Context())).ready is expected
    with pytest.raises(InvalidRequestError):
        await ready.ModelReady(pb.ModelReadyRequest(), Context())


async def test_metadata_and_configuration_describe_one_served_version() -> None:
    """Unknown models and versions are refused; the configuration announces pieces."""
    servicer = servicer_of()
    metadata = await servicer.ModelMetadata(pb.ModelMetadataRequest(name="tiny"), Context())
    config = (await servicer.ModelConfig(pb.ModelConfigRequest(name="tiny"), Context())).config
    for method, message in (
        (servicer.ModelMetadata, pb.ModelMetadataRequest),
        (servicer.ModelConfig, pb.ModelConfigRequest),
    ):
        with pytest.raises(AdapterNotFoundError):
            await method(message(name="gpt"), Context())
        with pytest.raises(NotFoundError, match="model_version"):
            await method(message(name="tiny", version="2"), Context())

    assert list(metadata.versions) == [servicer._host.loaded.model_version("")]
    assert (list(metadata.inputs[0].shape), metadata.outputs[0].name) == ([-1], "text_output")
    assert config.model_transaction_policy.decoupled
    assert (config.input[0].data_type, list(config.input[0].dims)) == (pb.TYPE_STRING, [-1])


async def test_unknown_version_is_refused_and_the_served_one_answers() -> None:
    """A version is a digest that metadata names; another one is never answered in its place."""
    servicer = servicer_of(OutputDelta("x", 1, "stop"))
    request = infer(b"one")
    request.model_version = "1"
    with pytest.raises(NotFoundError, match="model_version: '1' of model 'tiny'"):
        await servicer.ModelInfer(request, Context())
    request.model_version = servicer._host.loaded.model_version("")
    response = await servicer.ModelInfer(request, Context())

    assert response.model_version == request.model_version


async def test_version_that_a_reload_replaced_is_refused() -> None:
    """A request for one version is not answered by the version that replaced it while it waited."""
    servicer = servicer_of()  # its outputs come from an adapter's version
    request = infer(b"one")
    request.model_version = servicer._host.loaded.model_version("")
    with pytest.raises(NotFoundError):
        await servicer.ModelInfer(request, Context())
    (failed,) = await stream(servicer, request)

    assert "model_version" in failed.error_message


async def test_stream_sends_pieces_and_marks_the_last() -> None:
    """Every delta is one message with id, version and the text that it adds."""
    responses = await stream(servicer_of(), infer(b"one"))

    assert [summary(one) for one in responses] == [("7", b"he", False), ("7", b"llo", True)]
    assert {one.infer_response.model_version.partition("+")[2] for one in responses} == {VERSION}
    assert [list(one.infer_response.outputs[0].shape) for one in responses] == [[1], [1]]


@pytest.mark.parametrize(
    "flag", ["triton_enable_empty_final_response", "enable_empty_final_response"]
)
async def test_empty_final_response_comes_when_it_is_requested(flag: str) -> None:
    """The last response then has the flag and no output, and no piece before it has the flag."""
    responses = await stream(servicer_of(), infer(b"one", **{flag: True}))

    assert [summary(one)[2] for one in responses] == [False, False, True]
    assert not responses[-1].infer_response.outputs
    assert responses[-1].infer_response.id == "7"


async def test_several_texts_of_a_stream_come_in_one_message() -> None:
    """Pieces of several texts would alternate in the text that the sidecar judges."""
    (response,) = await stream(servicer_of(), infer(b"one", b"two"))

    assert list(response.infer_response.outputs[0].shape) == [2]
    assert response.infer_response.parameters[FINAL_RESPONSE].bool_param


async def test_error_of_a_stream_names_its_request_and_ends_only_that() -> None:
    """The message carries id and model of the request that failed, and is final."""
    unknown = infer(b"x")
    unknown.model_name, unknown.id = "gpt", "8"
    failed, *answered = await stream(servicer_of(), unknown, infer(b"one"))

    assert "'gpt' is not loaded" in failed.error_message
    assert (failed.infer_response.id, failed.infer_response.model_name) == ("8", "gpt")
    assert failed.infer_response.parameters[FINAL_RESPONSE].bool_param
    assert [summary(one)[0] for one in answered] == ["7", "7"]


async def test_typed_contents_are_answered_typed() -> None:
    """A client that sends no raw contents gets none."""
    request = infer(b"one")
    del request.raw_input_contents[:]
    request.inputs[0].contents.bytes_contents.append(b"one")
    response = await servicer_of().ModelInfer(request, Context())

    assert response.outputs[0].contents.bytes_contents == [b"hello"]
    assert not response.raw_output_contents
