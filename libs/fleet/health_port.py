"""Health port: ``grpc.health.v1.Health/Check`` without TLS, and nothing else.

Kubelets probe gRPC without TLS and without a certificate. Streams of changes (``Watch``) are not
served here: whoever holds many of them open could keep a kubelet's probe waiting.
"""

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME

from fleet.access.access import Access
from fleet.access.call_guard import CallGuard
from fleet.access.method_roles import MethodRoles
from fleet.health import HealthServicer
from fleet.interceptors import CallInterceptor
from fleet.listening import listen

_MAX_BYTES, _MAX_CALLS, _IDLE_MS = 4096, 64, 60_000


class HealthPort:
    """Server of the health port.

    Args:
        health: Health of the service.
        address: ``host:port``; port 0 takes a free port.

    Attributes:
        address: Address of the listener, with the real port.

    Raises:
        OSError: The address is in use or malformed.
    """

    def __init__(self, health: HealthServicer, address: str) -> None:
        guard = CallGuard(Access(None, address), MethodRoles(), None)
        self._server = aio.server(
            interceptors=[CallInterceptor({}, guard)],
            options=[
                ("grpc.max_receive_message_length", _MAX_BYTES),
                ("grpc.max_metadata_size", _MAX_BYTES),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        check = grpc.unary_unary_rpc_method_handler(
            health.Check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE_NAME, {"Check": check})
        self._server.add_generic_rpc_handlers((handler,))
        self.address = listen(self._server, address)

    async def start(self) -> None:
        """Answer probes."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once."""
        await self._server.stop(None)
