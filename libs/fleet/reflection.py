"""gRPC reflection client: descriptors of a server's services, cached per channel.

The client reads every service that the server lists (``grpc.reflection.v1alpha``) into a descriptor
pool of its own, so that two servers may have different versions of one proto file. The cache is
dropped when the channel loses its connection, as a restarted server may serve other methods, and
is read again on the next use.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha import reflection_pb2_grpc as rpc

from fleet.errors import UnavailableError

_MIN_REFRESH_INTERVAL_S = 1.0
_Pool = descriptor_pool.DescriptorPool


@dataclass(frozen=True)
class ServiceDescriptors:
    """Descriptors of the services of one server.

    Attributes:
        pool: Descriptor pool with the proto files of all services.
        services: Full names of the services, in the server's order.
        methods: Method descriptors by call path, ``/package.Service/Method``.
    """

    pool: _Pool = field(default_factory=_Pool)
    services: tuple[str, ...] = ()
    methods: Mapping[str, MethodDescriptor] = field(default_factory=dict)


async def read_descriptors(
    channel: aio.Channel, extra: Iterable[FileDescriptor] = (), timeout_s: float = 10.0
) -> ServiceDescriptors:
    """Read the descriptors of all services that the server's reflection lists.

    Args:
        channel: Channel to the server.
        extra: Proto files that the pool holds besides the server's, with their imports.
        timeout_s: Deadline of the whole exchange, in seconds.

    Raises:
        grpc.RpcError: The server cannot be reached or has no reflection.
    """
    pool = _Pool()
    added: set[str] = set()
    own = _file_protos(extra)
    for proto in own.values():
        _add_file(pool, proto, own, added)
    stub: Any = rpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(timeout=timeout_s)
    await call.write(pb.ServerReflectionRequest(list_services=""))
    listed = (await call.read()).list_services_response.service
    names = tuple(service.name for service in listed)
    for name in names:
        await call.write(pb.ServerReflectionRequest(file_containing_symbol=name))
        blobs = (await call.read()).file_descriptor_response.file_descriptor_proto
        protos = [descriptor_pb2.FileDescriptorProto.FromString(blob) for blob in blobs]
        files = {proto.name: proto for proto in protos}
        for proto in files.values():
            _add_file(pool, proto, files, added)
    await call.done_writing()
    methods = {
        f"/{name}/{method.name}": method
        for name in names
        for method in pool.FindServiceByName(name).methods
    }
    return ServiceDescriptors(pool, names, methods)


class ReflectionClient:
    """Cached descriptors of one server.

    Args:
        channel: Channel to the server.
        target: Name of the server in error messages, such as ``mission router``.
    """

    def __init__(self, channel: aio.Channel, target: str) -> None:
        self._channel, self._target = channel, target
        self._cached: ServiceDescriptors | None = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()

    async def descriptors(self) -> ServiceDescriptors:
        """Return the cached descriptors, or read them.

        Raises:
            UnavailableError: The server cannot be reached or has no reflection.
        """
        async with self._lock:
            if self._cached is None:
                self._cached = await self._read()
            return self._cached

    async def find_method(self, path: str) -> MethodDescriptor | None:
        """Return the method of a call path such as ``/package.Service/Method``.

        An unknown path reads the descriptors again, at most once a second: the server may have
        been replaced by a newer one, or its sidecar may have reached it since.

        Raises:
            UnavailableError: The server cannot be reached or has no reflection.
        """
        if self._cached is not None and (known := self._cached.methods.get(path)):
            return known
        found = (await self.descriptors()).methods.get(path)
        if found is None and time.monotonic() - self._read_at > _MIN_REFRESH_INTERVAL_S:
            self.invalidate()
            found = (await self.descriptors()).methods.get(path)
        return found

    def invalidate(self) -> None:
        """Drop the cache; the next use reads the descriptors again."""
        self._cached = None

    async def watch_connection(self) -> None:
        """Drop the cache whenever the channel loses its connection; runs until it is cancelled."""
        while True:
            state = self._channel.get_state()
            await self._channel.wait_for_state_change(state)
            if state is grpc.ChannelConnectivity.READY:
                self.invalidate()

    async def _read(self) -> ServiceDescriptors:
        try:
            read = await read_descriptors(self._channel)
        except grpc.RpcError as err:
            raise UnavailableError(
                f"{self._target}: its methods cannot be read by gRPC reflection ({_code(err)}); "
                "retry when it serves, and leave its setting `reflection` on"
            ) from err
        except KeyError as err:  # a sidecar lists itself before its mission can be described
            raise UnavailableError(
                f"{self._target}: lists a service that it cannot describe yet ({err}); retry when "
                "it serves"
            ) from err
        self._read_at = time.monotonic()
        return read


def _code(err: grpc.RpcError) -> str:
    code = getattr(err, "code", None)
    return code().name if code else type(err).__name__


def _file_protos(files: Iterable[FileDescriptor]) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Return the files and all that they import as protos, by file name."""
    protos: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    pending = list(files)
    while pending:
        file = pending.pop()
        if file.name not in protos:
            protos[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(protos[file.name])
            pending += file.dependencies
    return protos


def _add_file(
    pool: _Pool,
    file: descriptor_pb2.FileDescriptorProto,
    files: Mapping[str, descriptor_pb2.FileDescriptorProto],
    added: set[str],
) -> None:
    """Add a file to the pool after the files that it imports."""
    if file.name in added:
        return
    added.add(file.name)
    for name in file.dependency:
        if name in files:
            _add_file(pool, files[name], files, added)
    pool.Add(file)
