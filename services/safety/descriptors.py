"""Mission methods as the sidecar reads them: message classes, text roles and joins of responses."""

from collections.abc import Sequence

from bem_fleet.services.safety.token_redaction import entry_fields
from bemfleet.common.v1 import text_pb2
from bemfleet.safety.v1 import safety_pb2
from fleet.access.method_roles import find_generated_method
from fleet.errors import UnavailableError
from fleet.reflection import ServiceDescriptors, read_descriptors
from fleet.text_roles import (
    ending_fields,
    ends_text,
    has_judged_text,
    message_options,
    role_of,
    texts,
)
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc import aio

_OWN_PATHS = f"/{safety_pb2.DESCRIPTOR.services_by_name['SafetyService'].full_name}/"
__all__ = ["Catalog", "Method", "role_of", "texts"]


class Method:
    """Message classes and text fields of one method of the mission.

    Attributes:
        streams_requests: Whether the client sends a stream.
        streams_responses: Whether the mission answers with a stream.
        streams_text: Whether responses have deltas of one text, with the tokens beside them.
        entry_fields: Fields of the tokens beside that text.
        only_counts: Whether the method counts or stores its request and returns no text.
        request: Message class of requests.
        response: Message class of responses.
        deltas: Names of the text fields that are concatenated when responses are joined; None if
            the response type does not allow joins.
    """

    def __init__(self, descriptor: MethodDescriptor) -> None:
        self.streams_requests: bool = descriptor.client_streaming
        self.streams_responses: bool = descriptor.server_streaming
        self.request: type[Message] = message_factory.GetMessageClass(descriptor.input_type)
        self.response: type[Message] = message_factory.GetMessageClass(descriptor.output_type)
        self.deltas = _delta_fields(descriptor.output_type)
        self.streams_text: bool = self.streams_responses and any(
            role_of(field) == text_pb2.TEXT_ROLE_OUTPUT_DELTA
            for field in descriptor.output_type.fields
        )
        self.entry_fields = entry_fields(descriptor.output_type) if self.streams_text else ()
        self.only_counts = _only_counts(descriptor)
        self._ending_fields = ending_fields(descriptor.output_type)

    def ends_text(self, message: Message) -> bool:
        """Return whether a response says that no text follows it, to the request it answers."""
        return ends_text(message, self._ending_fields)

    def join(self, raws: Sequence[bytes]) -> Sequence[bytes]:
        """Return consecutive responses as one message if their type allows it, else unchanged.

        Deltas are concatenated; all other fields are merged as protobuf merges them. For example,
        ``{text: "Hel"}`` and ``{text: "lo", finish_reason: STOP}`` become
        ``{text: "Hello", finish_reason: STOP}``.
        """
        if self.deltas is None or len(raws) < 2:
            return raws
        merged = self.response()
        deltas: dict[str, list[str]] = {name: [] for name in self.deltas}
        for raw in raws:
            message = self.response.FromString(raw)
            for name, parts in deltas.items():
                parts.append(getattr(message, name))
            merged.MergeFrom(message)
        for name, parts in deltas.items():
            setattr(merged, name, "".join(parts))
        return [merged.SerializeToString()]


class Catalog:
    """Methods of the mission behind the sidecar."""

    def __init__(self) -> None:
        self._descriptors = ServiceDescriptors()
        self._methods: dict[str, Method] = {}

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the mission's services; empty until the mission was reached."""
        return self._descriptors.services

    @property
    def pool(self) -> descriptor_pool.DescriptorPool:
        """Descriptor pool with the mission's services and the sidecar's own."""
        return self._descriptors.pool

    async def refresh(self, channel: aio.Channel) -> None:
        """Read the mission's descriptors again; the old ones stay until the new are complete.

        Raises:
            grpc.RpcError: The mission cannot be reached.
        """
        descriptors = await read_descriptors(channel, extra=[safety_pb2.DESCRIPTOR])
        self._methods = {
            path: Method(descriptor) for path, descriptor in descriptors.methods.items()
        }
        self._descriptors = descriptors

    def descriptor(self, path: str) -> MethodDescriptor | None:
        """Return the descriptor of a method that the sidecar serves itself or forwards.

        Raises:
            UnavailableError: The mission's methods are not known yet.
        """
        if path.startswith(_OWN_PATHS):
            return find_generated_method(path)
        if not self.services:
            raise UnavailableError("the mission behind the sidecar is not reachable yet")
        return self._descriptors.methods.get(path)

    def find(self, path: str) -> Method | None:
        """Return the method of a call path such as ``/package.Service/Method``."""
        return self._methods.get(path)


def _only_counts(descriptor: MethodDescriptor) -> bool:
    """Return whether a method has the option ``only_counts`` and its responses have no text."""
    options = descriptor_pb2.MethodOptions.FromString(descriptor.GetOptions().SerializeToString())
    return options.Extensions[text_pb2.only_counts] and not has_judged_text(descriptor.output_type)


def _delta_fields(message: Descriptor) -> tuple[str, ...] | None:
    if not message_options(message).Extensions[text_pb2.joinable]:
        return None
    delta = text_pb2.TEXT_ROLE_OUTPUT_DELTA
    return tuple(field.name for field in message.fields if role_of(field) == delta)
