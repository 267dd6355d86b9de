"""A mission that the gateway has no generated code of: its proto exists only at run time.

``sample.v1.SampleService`` has a unary, a server-streaming and a client-streaming method; the field
that names the model lies in a nested message, and no field ends the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
from bemfleet.access.v1 import access_pb2
from bemfleet.common.v1 import text_pb2
from bemfleet.mission.v1 import mission_pb2_grpc
from fleet.errors import UnavailableError
from fleet.mission import SERVICE as CONTRACT
from fleet.mission import AdapterInfo, MissionServicer
from fleet.server import App, start
from fleet.settings import FleetSettings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection

SERVICE = "sample.v1.SampleService"
Field = descriptor_pb2.FieldDescriptorProto


def sample_descriptors(*extra_methods: str, without_role: str = "") -> ServiceDescriptor:
    """Return the service in a pool of its own.

    Args:
        extra_methods: Methods that are unary like ``Ask``.
        without_role: One more such method, which states no role; empty for none.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="sample/v1/sample.proto",
        package="sample.v1",
        syntax="proto3",
        dependency=["bemfleet/access/v1/access.proto", "bemfleet/common/v1/text.proto"],
    )
    _add_message(file, "Head", _string("adapter", 1, text_pb2.TEXT_ROLE_LABEL, names_model=True))
    head = Field(
        name="head",
        number=1,
        type=Field.TYPE_MESSAGE,
        label=Field.LABEL_OPTIONAL,
        type_name=".sample.v1.Head",
    )
    count = Field(name="count", number=3, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL)
    prompt = _string("prompt", 2, text_pb2.TEXT_ROLE_PROMPT)
    _add_message(file, "AskRequest", head, prompt, count)
    _add_message(
        file,
        "AskResponse",
        _string("model_version", 1, text_pb2.TEXT_ROLE_LABEL),
        _string("text", 2, text_pb2.TEXT_ROLE_OUTPUT_DELTA),
    )
    service = file.service.add(name="SampleService")
    for name in ("Ask", *extra_methods):
        _add_method(service, name)
    _add_method(service, "Tell", server_streaming=True)
    _add_method(service, "Feed", client_streaming=True)
    for method in service.method:
        method.options.Extensions[access_pb2.role] = access_pb2.ROLE_USER
    if without_role:
        _add_method(service, without_role)
    pool = descriptor_pool.DescriptorPool()
    for known in (descriptor_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR, text_pb2.DESCRIPTOR):
        pool.AddSerializedFile(known.serialized_pb)
    pool.Add(file)
    return pool.FindServiceByName(SERVICE)


def _string(name: str, number: int, role: Any, *, names_model: bool = False) -> Field:
    made = Field(name=name, number=number, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    made.options.Extensions[text_pb2.text_role] = role
    if names_model:
        made.options.Extensions[text_pb2.names_model] = True
    return made


def _add_message(file: descriptor_pb2.FileDescriptorProto, name: str, *fields: Field) -> None:
    file.message_type.add(name=name).field.extend(fields)


def _add_method(
    service: descriptor_pb2.ServiceDescriptorProto, name: str, **streaming: bool
) -> None:
    types = {"input_type": ".sample.v1.AskRequest", "output_type": ".sample.v1.AskResponse"}
    service.method.add(name=name, **types, **streaming)


@dataclass
class SampleMission(grpc.GenericRpcHandler):
    """Serves the sample service with scripted replies.

    Attributes:
        descriptor: Descriptor of the service.
        replies: Replies to every call, in order: fields of a response, or an error.
        adapters: Number of calls by the adapter that they name.
    """

    descriptor: ServiceDescriptor = field(default_factory=sample_descriptors)
    replies: Sequence[dict[str, str] | Exception] = ({"text": "right"},)
    adapters: Counter[str] = field(default_factory=Counter)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method of the sample service."""
        service, _, name = details.method[1:].partition("/")
        method = self.descriptor.methods_by_name.get(name) if service == SERVICE else None
        if method is None:
            return None
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)

        async def stream(message: Any, _context: Any) -> AsyncIterator[Message]:
            self.adapters[message.head.adapter] += 1
            for reply in self.replies:
                if isinstance(reply, Exception):
                    raise reply
                yield response(**reply)

        async def unary(message: Any, context: Any) -> Message:
            return await anext(stream(message, context))

        types: dict[str, Any] = {
            "request_deserializer": request.FromString,
            "response_serializer": response.SerializeToString,
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **types)
        return grpc.unary_unary_rpc_method_handler(unary, **types)


BROKEN = UnavailableError("broken by the test")


@asynccontextmanager
async def serve_sample(address: str, mission: SampleMission) -> AsyncIterator[SampleMission]:
    """Serve a sample mission with reflection of its own descriptor pool."""

    async def build(_settings: FleetSettings, app: App) -> None:
        app.server.add_generic_rpc_handlers((mission,))
        host: Any = SimpleNamespace(base_model=AdapterInfo("base", "1"), warnings=())
        contract = MissionServicer("sample", mission.descriptor, lambda: host)
        mission_pb2_grpc.add_MissionServiceServicer_to_server(contract, app.server)
        pool = mission.descriptor.file.pool
        reflection.enable_server_reflection([SERVICE], app.server, pool)
        await app.register_service(CONTRACT)
        await app.set_serving(CONTRACT, serving=True)

    running = await start(FleetSettings(address=address, drain_s=0, reflection=False), build, {})
    try:
        yield mission
    finally:
        await running.stop()
