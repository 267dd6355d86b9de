"""Open Inference Protocol v2: text in and out as BYTES tensors, for clients of that protocol."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from bem.engine import OutputDelta
from bem.errors import AdapterNotFoundError, BemError, InvalidRequestError
from bem_fleet.services.router.model_host import LazyModelHost
from bem_fleet.services.router.servicer import deadline_of, safety_strength_of
from bemfleet.router.v1 import router_pb2
from fleet.errors import FleetError
from fleet.version import VERSION
from grpc import aio
from inference import open_inference_pb2 as pb
from inference import open_inference_pb2_grpc as rpc

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
INPUT, OUTPUT = "text_input", "text_output"
MAX_BATCH = 64
SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "seed"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty"),
    }
)


class OpenInferenceServicer(rpc.GRPCInferenceServiceServicer):
    """Serves the base model and every adapter as a model of the protocol.

    Args:
        host: Model host, which may still be loading.
    """

    def __init__(self, host: LazyModelHost) -> None:
        self._host = host

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ServerLiveResponse:
        """Return that the process is alive."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ServerReadyResponse:
        """Return whether the model is loaded."""
        del request, context
        return pb.ServerReadyResponse(ready=self._host.loaded is not None)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ModelReadyResponse:
        """Return whether the named model can answer."""
        del context
        try:
            self._host.get().find_adapter(_required(request.name))
        except (AdapterNotFoundError, FleetError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ServerMetadataResponse:
        """Return name and version of the server."""
        del request, context
        return pb.ServerMetadataResponse(name="bem-fleet-router", version=VERSION)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ModelMetadataResponse:
        """Describe the tensors of the named model."""
        del context
        host = self._host.get()
        adapter = host.find_adapter(_required(request.name))
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[host.model_version(adapter.version if adapter else "")],
            platform="bem",
            inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1])],
            outputs=[tensor(name=OUTPUT, datatype="BYTES", shape=[-1])],
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ModelInferResponse:
        """Complete each text of the input tensor; the output has the same order."""
        host = self._host.get()
        texts, raw = _texts(request)
        deadline, strength = deadline_of(context), safety_strength_of(context)

        async def complete(text: str) -> OutputDelta:
            parsed = host.parse(_generate_request(request, text), deadline, strength)
            return await host.complete(parsed)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(complete(text)) for text in texts]
        except ExceptionGroup as failures:
            # A call has one status: that of the first text that failed.
            raise failures.exceptions[0] from failures
        outputs = [task.result() for task in tasks]
        # Texts that a reload separates have different versions; all of them are named, in order.
        versions = dict.fromkeys(host.model_version(one.adapter_version) for one in outputs)
        return _response(request, outputs, ",".join(versions), raw=raw)

    async def ModelStreamInfer(
        self,
        request_iterator: AsyncIterator[pb.ModelInferRequest],
        context: aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer each request of the stream in one message; an error ends only its own request."""
        async for request in request_iterator:
            try:
                response = await self.ModelInfer(request, context)
            except (BemError, FleetError) as err:
                yield pb.ModelStreamInferResponse(error_message=str(err))
            else:
                yield pb.ModelStreamInferResponse(infer_response=response)


def _required(name: str) -> str:
    if not name:
        raise InvalidRequestError("name", "is empty; name a model")
    return name


def _texts(request: pb.ModelInferRequest) -> tuple[list[str], bool]:
    """Return the texts of the one input tensor, and whether they are raw contents."""
    _required(request.model_name)
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise InvalidRequestError("inputs", f"must be the one tensor {INPUT!r}")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidRequestError(
            "inputs[0].datatype", f"{tensor.datatype[:20]!r} is not supported; use BYTES"
        )
    raw = bool(request.raw_input_contents)
    parts = (
        list(_split_raw(request.raw_input_contents[0]))
        if raw
        else list(tensor.contents.bytes_contents)
    )
    count = 1
    for size in tensor.shape:
        count *= size
    if count != len(parts) or not 1 <= count <= MAX_BATCH:
        raise InvalidRequestError(
            "inputs[0].shape",
            f"{list(tensor.shape)} does not fit {len(parts)} texts; 1 to {MAX_BATCH} are allowed",
        )
    try:
        return [part.decode() for part in parts], raw
    except UnicodeDecodeError as err:
        raise InvalidRequestError("inputs[0]", f"is not UTF-8: {err.reason}") from err


def _split_raw(raw: bytes) -> Iterable[bytes]:
    """Split raw BYTES contents: each part follows its length, four bytes, little-endian."""
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise InvalidRequestError("raw_input_contents", "ends within a length")
        (size,) = struct.unpack_from("<I", raw, at)
        if at + 4 + size > len(raw):
            raise InvalidRequestError("raw_input_contents", f"ends within a text of {size} bytes")
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size


def _generate_request(request: pb.ModelInferRequest, text: str) -> router_pb2.GenerateRequest:
    """Translate one text and the request's parameters to the router's own request."""
    translated = router_pb2.GenerateRequest(model=request.model_name, prompt=text)
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        try:
            if name in ("max_tokens", "adapter_scale"):
                setattr(translated, name, value)
            elif name in SAMPLING:
                setattr(translated.sampling, name, value)
            elif name == "stop":
                translated.stop.append(parameter.string_param)
            else:
                raise InvalidRequestError(f"parameters[{name[:40]!r}]", "is unknown; remove it")
        except (TypeError, ValueError) as err:
            raise InvalidRequestError(
                f"parameters[{name!r}]", f"has the wrong type: {err}"
            ) from err
    return translated


def _response(
    request: pb.ModelInferRequest, outputs: Sequence[OutputDelta], model_version: str, *, raw: bool
) -> pb.ModelInferResponse:
    texts = [output.text.encode() for output in outputs]
    response = pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=model_version,
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=OUTPUT, datatype="BYTES", shape=[len(texts)]
            )
        ],
    )
    if raw:
        response.raw_output_contents.append(
            b"".join(struct.pack("<I", len(text)) + text for text in texts)
        )
    else:
        response.outputs[0].contents.bytes_contents.extend(texts)
    return response
