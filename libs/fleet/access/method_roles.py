"""Roles of gRPC methods and token counts of responses, from the options of the protos.

The options are those of ``bemfleet/access/v1/access.proto``. Descriptors that come from a server's
reflection live in a descriptor pool of their own, whose option classes do not know the extensions;
the serialised options are therefore parsed with the generated classes.
"""

from collections.abc import Callable
from typing import Any

from bemfleet.access.v1 import access_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message

from fleet.access.principal import Role
from fleet.text_roles import field_options, has_judged_text

OPEN_SERVICES = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.reflection.v1.ServerReflection",
    }
)
"""Services of gRPC itself, which have none of our options: they are open."""

_BYTES_PER_TOKEN = 4
FindMethod = Callable[[str], MethodDescriptor | None]


def find_generated_method(path: str) -> MethodDescriptor | None:
    """Return the method of a call path in this process's own protos."""
    service, _, name = path.removeprefix("/").partition("/")
    try:
        found: Any = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None
    method: MethodDescriptor | None = found.methods_by_name.get(name)
    return method


def method_role(method: MethodDescriptor | None) -> Role:
    """Return the role of a method; an operator's if the method is unknown or states none."""
    if method is None:
        return Role.OPERATOR
    if method.containing_service.full_name in OPEN_SERVICES:
        return Role.OPEN
    raw = method.GetOptions().SerializeToString()
    role = descriptor_pb2.MethodOptions.FromString(raw).Extensions[access_pb2.role]
    return Role(role) if role else Role.OPERATOR


class MethodRoles:
    """Roles and token counts of the methods of one server.

    Attributes:
        find: Finds the descriptor of a call path; a proxy replaces it with its own look-up.
    """

    def __init__(self, find: FindMethod = find_generated_method) -> None:
        self.find = find
        self._roles: dict[str, tuple[MethodDescriptor | None, Role]] = {}
        self._counters: dict[str, tuple[MethodDescriptor | None, TokenCounter | None]] = {}

    def role(self, path: str) -> Role:
        """Return the role of a call path such as ``/package.Service/Method``."""
        if path.removeprefix("/").partition("/")[0] in OPEN_SERVICES:
            return Role.OPEN
        method = self.find(path)
        known = self._roles.get(path)
        if known is None or known[0] is not method:
            # An unknown path is not kept: a caller must not be able to fill the memory.
            known = (method, method_role(method))
            if method is not None:
                self._roles[path] = known
        return known[1]

    def counter(self, path: str) -> "TokenCounter | None":
        """Return the token counter of a method's responses; None for an unknown method."""
        method = self.find(path)
        if method is None:
            return None
        known = self._counters.get(path)
        if known is None or known[0] is not method:
            known = self._counters[path] = (method, TokenCounter(method.output_type))
        return known[1]


class TokenCounter:
    """Counts the tokens that a response is charged with.

    A type with text but without a field that counts tokens is charged by its size, one token per
    four bytes, so that no protocol is free.

    Args:
        response: Descriptor of the response type.
    """

    def __init__(self, response: Descriptor) -> None:
        self._paths = _counting_paths(response, frozenset())
        self._by_size = not self._paths and has_judged_text(response)
        self._class: type[Message] = message_factory.GetMessageClass(response)

    def count(self, response: bytes | Message) -> int:
        """Return the tokens of a response, serialised or not."""
        if self._by_size:
            size = len(response) if isinstance(response, bytes) else response.ByteSize()
            return -(-size // _BYTES_PER_TOKEN)
        if not self._paths:
            return 0
        try:
            message = self._class.FromString(response) if isinstance(response, bytes) else response
        except DecodeError:
            return 0  # the client cannot read it either
        return sum(_value(message, path) for path in self._paths)


def _counting_paths(message: Descriptor, parents: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    if message.full_name in parents:  # a recursive type
        return ()
    found: list[tuple[str, ...]] = []
    for one in message.fields:
        if field_options(one).Extensions[access_pb2.counts_tokens]:
            found.append((one.name,))
        elif one.message_type is not None and not one.is_repeated:
            inner = _counting_paths(one.message_type, parents | {message.full_name})
            found += [(one.name, *path) for path in inner]
    return tuple(found)


def _value(message: Message, path: tuple[str, ...]) -> int:
    value: Any = message
    for name in path:
        value = getattr(value, name)
    return max(0, int(value))
