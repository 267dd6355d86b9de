"""Method catalog of the mission, read from its reflection, and the text fields of its messages."""

from collections.abc import Iterator, Sequence
from typing import Any

from bemfleet.common.v1 import text_pb2
from bemfleet.safety.v1 import safety_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha import reflection_pb2_grpc as rpc

# The Open Inference Protocol has no text roles: these fields are identifiers, not text.
_FOREIGN_LABELS = {
    "inference": frozenset(
        {
            *("name", "model_name", "model_version", "version", "versions"),
            *("id", "datatype", "platform", "extensions"),
        }
    )
}


class Method:
    """Method of the mission.

    Args:
        descriptor: Descriptor of the method.

    Attributes:
        streams_requests: Whether the client sends a stream.
        streams_responses: Whether the mission returns a stream.
        request: Class of the requests.
        response: Class of the responses.
        deltas: Names of the streamed text fields if responses may be joined; None if they may
            not.
    """

    def __init__(self, descriptor: MethodDescriptor) -> None:
        self.streams_requests: bool = descriptor.client_streaming
        self.streams_responses: bool = descriptor.server_streaming
        self.request: type[Message] = message_factory.GetMessageClass(descriptor.input_type)
        self.response: type[Message] = message_factory.GetMessageClass(descriptor.output_type)
        self.deltas = _deltas(descriptor.output_type)
        self._ends = [
            field.name
            for field in descriptor.output_type.fields
            if _options(field).Extensions[text_pb2.ends_text]
        ]

    def ends_text(self, message: Message) -> bool:
        """Return whether a streamed response announces that no more text follows."""
        return any(getattr(message, name) for name in self._ends)

    def join(self, raws: Sequence[bytes]) -> Sequence[bytes]:
        """Return the responses as one message if their type allows it, else unchanged."""
        if self.deltas is None or len(raws) < 2:
            return raws
        joined = self.response()
        pieces: dict[str, list[str]] = {name: [] for name in self.deltas}
        for raw in raws:
            message = self.response.FromString(raw)
            for name, kept in pieces.items():
                kept.append(getattr(message, name))
            joined.MergeFrom(message)
        for name, kept in pieces.items():
            setattr(joined, name, "".join(kept))
        return [joined.SerializeToString()]


class Catalog:
    """Services and methods of the mission.

    Attributes:
        services: Names of the services; empty until the mission is reachable.
        pool: Descriptors of the services, and of the sidecar's own service.
    """

    def __init__(self) -> None:
        self.services: tuple[str, ...] = ()
        self.pool = descriptor_pool.DescriptorPool()
        self._methods: dict[str, Method] = {}

    async def refresh(self, channel: aio.Channel) -> None:
        """Read the mission's reflection; the old catalog stays until the new one is complete."""
        stub: Any = rpc.ServerReflectionStub(channel)
        pool = descriptor_pool.DescriptorPool()
        added: set[str] = set()
        _add_own(pool, added)
        call = stub.ServerReflectionInfo(timeout=10)
        await call.write(pb.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        names = [service.name for service in listed]
        for name in names:
            await call.write(pb.ServerReflectionRequest(file_containing_symbol=name))
            blobs = (await call.read()).file_descriptor_response.file_descriptor_proto
            files = {
                file.name: file
                for file in map(descriptor_pb2.FileDescriptorProto.FromString, blobs)
            }
            for file in files.values():
                _add(pool, file, files, added)
        await call.done_writing()
        methods = {}
        for name in names:
            for method in pool.FindServiceByName(name).methods:
                methods[f"/{name}/{method.name}"] = Method(method)
        self.pool, self.services, self._methods = pool, tuple(names), methods

    def find(self, path: str) -> Method | None:
        """Return the method of a path such as ``/package.Service/Method``; None if unknown."""
        return self._methods.get(path)


def _deltas(kind: Descriptor) -> tuple[str, ...] | None:
    # The pool's own option classes do not know the extension; the default pool's do.
    options = descriptor_pb2.MessageOptions.FromString(kind.GetOptions().SerializeToString())
    if not options.Extensions[text_pb2.joinable]:
        return None
    delta = text_pb2.TEXT_ROLE_OUTPUT_DELTA
    return tuple(field.name for field in kind.fields if role_of(field) == delta)


def _add_own(pool: descriptor_pool.DescriptorPool, added: set[str]) -> None:
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    waiting = [safety_pb2.DESCRIPTOR]
    while waiting:
        file = waiting.pop()
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        files[file.name] = proto
        waiting += file.dependencies
    for proto in files.values():
        _add(pool, proto, files, added)


def _add(
    pool: descriptor_pool.DescriptorPool,
    file: descriptor_pb2.FileDescriptorProto,
    files: dict[str, descriptor_pb2.FileDescriptorProto],
    added: set[str],
) -> None:
    """Add a file after its imports."""
    if file.name in added:
        return
    added.add(file.name)
    for name in file.dependency:
        if name in files:
            _add(pool, files[name], files, added)
    pool.Add(file)


def _options(field: FieldDescriptor) -> descriptor_pb2.FieldOptions:
    # The pool's own option classes do not know the extensions; the default pool's do.
    return descriptor_pb2.FieldOptions.FromString(field.GetOptions().SerializeToString())


_ROLES: dict[str, int] = {}


def role_of(field: FieldDescriptor) -> int:
    """Return the text role of a field; UNSPECIFIED if it has none."""
    role = _ROLES.get(field.full_name)
    if role is None:
        owner = field.containing_type
        package = owner.file.package if owner else ""
        if field.name in _FOREIGN_LABELS.get(package, ()):
            role = text_pb2.TEXT_ROLE_LABEL
        else:
            role = _options(field).Extensions[text_pb2.text_role]
        _ROLES[field.full_name] = role
    return role


def texts(message: Message, path: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield path, role and text of every set string or bytes field at any depth, except labels."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _nested(field, value, name)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            role = role_of(field)
            if role != text_pb2.TEXT_ROLE_LABEL:
                for one in value if field.is_repeated else (value,):
                    yield name, role, _text(one)


def _nested(field: FieldDescriptor, value: Any, name: str) -> Iterator[tuple[str, int, str]]:
    if not field.is_repeated:
        yield from texts(value, name)
        return
    entry = field.message_type
    if entry and entry.GetOptions().map_entry:
        for key, one in value.items():
            if isinstance(key, str):
                yield f"{name}.key", text_pb2.TEXT_ROLE_UNSPECIFIED, key
            if isinstance(one, Message):
                yield from texts(one, f"{name}[{str(key)[:40]}]")
            elif isinstance(one, str | bytes):
                yield f"{name}[{str(key)[:40]}]", text_pb2.TEXT_ROLE_UNSPECIFIED, _text(one)
        return
    for index, one in enumerate(value):
        yield from texts(one, f"{name}[{index}]")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", errors="replace")
