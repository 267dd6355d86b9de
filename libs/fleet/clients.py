"""gRPC client channels: retries, TLS, forwarded metadata and readiness."""

import asyncio
import json
import time
from contextvars import ContextVar

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleet import logs
from fleet.certificates import Certificate, CertificateFolder, channel_credentials
from fleet.errors import UnavailableError
from fleet.renewed_channel import RenewedChannel

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_LEAST_WAIT_S = 0.05
# A call that reaches a server which has just begun to stop is dropped unprocessed, as CANCELLED; a
# retry reaches the next server. gRPC never retries a call after the first response message.
_RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["CANCELLED"],
}
_SERVICE_CONFIG = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRIES}]})

forwarded_metadata: ContextVar[tuple[tuple[str, str], ...]] = ContextVar(
    "forwarded_metadata", default=()
)
"""Metadata of the request being served that calls to other services repeat unchanged."""


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata for a call: request id, trace context and forwarded metadata.

    Callers pass it explicitly: a client interceptor costs a task and a queue for every call.
    """
    carried = (
        (logs.REQUEST_ID_KEY, logs.request_id.get()),
        (logs.TRACEPARENT_KEY, logs.traceparent.get()),
        *forwarded_metadata.get(),
    )
    return tuple((key, value) for key, value in carried if value)


def open_channel(
    address: str,
    *,
    certificates: CertificateFolder | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    server_name: str = "",
) -> aio.Channel:
    """Open a channel; its calls should carry ``outgoing_metadata()``.

    Args:
        address: ``host:port`` or ``unix:/path``; a unix socket is plain in any case.
        certificates: Certificate of this process for TLS; None for a plain connection.
        max_message_bytes: Largest message sent or received, in bytes.
        server_name: Name that the server's certificate must have; empty for the address's host.
    """
    options = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A mission that restarts is reached again within a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", _SERVICE_CONFIG),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if certificates is None or address.startswith("unix:"):
        return aio.insecure_channel(address, options=options)

    def connect(one: Certificate) -> aio.Channel:
        return aio.secure_channel(address, channel_credentials(one), options=options)

    return RenewedChannel(certificates, connect)


async def wait_ready(channel: aio.Channel, service: str, timeout_s: float) -> None:
    """Wait until ``service`` reports SERVING.

    Raises:
        UnavailableError: The service is not SERVING after ``timeout_s`` seconds.
    """
    request, end = health_pb2.HealthCheckRequest(service=service), time.monotonic() + timeout_s
    stub = health_pb2_grpc.HealthStub(channel)
    while True:
        left = max(end - time.monotonic(), _LEAST_WAIT_S)
        watch = stub.Watch(request, timeout=left, wait_for_ready=True)
        try:
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return
        except grpc.RpcError as err:
            # A server that was just killed may still take a connection, and closes it.
            if err.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() >= end:
                raise UnavailableError(f"{service} is not ready after {timeout_s:g} s") from err
            await asyncio.sleep(_LEAST_WAIT_S)
        else:
            raise UnavailableError(f"{service} ended its health stream")
