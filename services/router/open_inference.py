"""Open Inference Protocol v2: text in and out as BYTES tensors, for clients of that protocol.

``ModelInfer`` answers a batch in one message. ``ModelStreamInfer`` answers the requests of a stream
in their order, each with one text in pieces: every message adds text to the one before, and the
last one has the parameter ``triton_final_response``, as Triton's decoupled models do.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from bem.engine import GenerationRequest
from bem.errors import AdapterNotFoundError, BemError, InvalidRequestError
from bem_fleet.services.router.infer_requests import (
    INPUT,
    MAX_MODEL_VERSION_CHARS,
    OUTPUT,
    InferRequest,
    in_callers_terms,
    parse_infer_request,
)
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.servicer import deadline_of, safety_strength_of
from fleet import bytes_tensors
from fleet.errors import FleetError, NotFoundError
from fleet.text_roles import FINAL_RESPONSE
from fleet.version import VERSION
from grpc import aio
from inference import open_inference_pb2 as pb
from inference import open_inference_pb2_grpc as rpc

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
PLATFORM = "bem"
_EXTENSIONS = ("model_configuration", "parameters")


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
        """Return whether the named model can answer in the named version."""
        del context
        try:
            _served_version(self._host.get(), _required(request.name), request.version)
        except (AdapterNotFoundError, FleetError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ServerMetadataResponse:
        """Return name, version and extensions of the server."""
        del request, context
        return pb.ServerMetadataResponse(
            name="bem-fleet-router", version=VERSION, extensions=_EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ModelMetadataResponse:
        """Describe the tensors of the named model."""
        del context
        version = _served_version(self._host.get(), _required(request.name), request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[version],
            platform=PLATFORM,
            inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1])],
            outputs=[tensor(name=OUTPUT, datatype="BYTES", shape=[-1])],
        )

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ModelConfigResponse:
        """Describe the named model as Triton's clients read it."""
        del context
        _served_version(self._host.get(), _required(request.name), request.version)
        return pb.ModelConfigResponse(
            config=pb.ModelConfig(
                name=request.name,
                platform=PLATFORM,
                backend=PLATFORM,
                input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_STRING, dims=[-1])],
                output=[pb.ModelOutput(name=OUTPUT, data_type=pb.TYPE_STRING, dims=[-1])],
                model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
            )
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ModelInferResponse:
        """Complete each text of the input tensor; the output has the same order."""
        host = self._host.get()
        infer, generations = _parse(host, request, context)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(host.complete(one)) for one in generations]
        except ExceptionGroup as failures:
            # A call has one status: that of the first text that failed.
            raise failures.exceptions[0] from failures
        outputs = [task.result() for task in tasks]
        # Texts that a reload separates have different versions; all of them are named, in order.
        versions = dict.fromkeys(host.model_version(one.adapter_version) for one in outputs)
        for version in versions:
            _check_version(infer.model, infer.version, version)
        return _response(infer, [one.text for one in outputs], ",".join(versions))

    async def ModelStreamInfer(
        self,
        request_iterator: AsyncIterator[pb.ModelInferRequest],
        context: aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer the requests of the stream in order; an error ends only its own request."""
        async for request in request_iterator:
            try:
                async with aclosing(self._pieces(request, context)) as responses:
                    async for response in responses:
                        yield pb.ModelStreamInferResponse(infer_response=response)
            except (BemError, FleetError) as err:
                failed = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                failed.parameters[FINAL_RESPONSE].bool_param = True
                yield pb.ModelStreamInferResponse(error_message=str(err), infer_response=failed)

    async def _pieces(
        self, request: pb.ModelInferRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ModelInferResponse]:
        """Yield the responses to one request of a stream.

        Several texts are answered in one message: the sidecar judges the text of a stream as one,
        and pieces of several texts that alternate would hide what each of them says.
        """
        infer, generations = _parse(self._host.get(), request, context)
        if len(infer.texts) > 1:
            response = await self.ModelInfer(request, context)
            response.parameters[FINAL_RESPONSE].bool_param = not infer.empty_final
            yield response
        else:
            async with aclosing(self._deltas(infer, generations[0])) as responses:
                async for response in responses:
                    yield response
        if infer.empty_final:
            empty = pb.ModelInferResponse(model_name=infer.model, id=infer.request_id)
            empty.model_version = response.model_version
            empty.parameters[FINAL_RESPONSE].bool_param = True
            yield empty

    async def _deltas(
        self, infer: InferRequest, generation: GenerationRequest
    ) -> AsyncIterator[pb.ModelInferResponse]:
        host = self._host.get()
        version = ""
        async with aclosing(host.generate(generation)) as deltas:
            async for delta in deltas:
                if not version:
                    version = host.model_version(delta.adapter_version)
                    _check_version(infer.model, infer.version, version)
                if delta.text or delta.finish:
                    response = _response(infer, [delta.text], version)
                    final = bool(delta.finish) and not infer.empty_final
                    response.parameters[FINAL_RESPONSE].bool_param = final
                    yield response


def _parse(
    host: ModelHost, request: pb.ModelInferRequest, context: aio.ServicerContext[Any, Any]
) -> tuple[InferRequest, list[GenerationRequest]]:
    """Validate a request and return it with one engine request for each text."""
    infer = parse_infer_request(request)
    _served_version(host, infer.model, infer.version)
    deadline, strength = infer.deadline(deadline_of(context)), safety_strength_of(context)
    try:
        return infer, [
            host.parse(infer.generate_request(text), deadline, strength) for text in infer.texts
        ]
    except InvalidRequestError as err:
        raise in_callers_terms(err, request) from err


def _required(name: str) -> str:
    if not name:
        raise InvalidRequestError("name", "is empty; name a model")
    return name


def _served_version(host: ModelHost, model: str, requested: str) -> str:
    """Return the version that a model is served in.

    Raises:
        AdapterNotFoundError: The model is not loaded.
        NotFoundError: Another version is requested.
    """
    adapter = host.find_adapter(model)
    served = host.model_version(adapter.version if adapter else "")
    _check_version(model, requested, served)
    return served


def _check_version(model: str, requested: str, served: str) -> None:
    if requested and requested != served:
        raise NotFoundError(
            f"model_version: {requested[:MAX_MODEL_VERSION_CHARS]!r} of model {model!r} is not "
            f"served; {served!r} is; leave the version empty to take it"
        )


def _response(infer: InferRequest, texts: Sequence[str], version: str) -> pb.ModelInferResponse:
    encoded = [text.encode() for text in texts]
    response = pb.ModelInferResponse(
        model_name=infer.model, model_version=version, id=infer.request_id
    )
    output = response.outputs.add(name=OUTPUT, datatype="BYTES", shape=[len(encoded)])
    if infer.raw:
        response.raw_output_contents.append(bytes_tensors.pack(encoded))
    else:
        output.contents.bytes_contents.extend(encoded)
    return response
