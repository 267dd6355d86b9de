"""Metadata of outgoing calls, and channels to a server that is known by its name."""

from pathlib import Path

import grpc
import pytest
from fleet import logs
from fleet.certificates import CertificateFolder, server_credentials
from fleet.clients import forwarded_metadata, open_channel, outgoing_metadata
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.certificates import TestAuthority


def test_metadata_carries_the_request_and_what_is_forwarded() -> None:
    """Request id, trace context and forwarded pairs are sent; empty values are left out."""
    request, trace = logs.request_id.set("abc"), logs.traceparent.set("")
    forwarded = forwarded_metadata.set((("bem-tenant", "t1"), ("bem-safety-strength", "")))
    metadata = outgoing_metadata()
    logs.request_id.reset(request)
    logs.traceparent.reset(trace)
    forwarded_metadata.reset(forwarded)

    assert metadata == (("x-request-id", "abc"), ("bem-tenant", "t1"))
    assert outgoing_metadata() == ()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accepted"), [("router.fleet.svc", True), ("other", False)])
async def test_pod_is_called_by_its_address_under_its_services_name(
    tmp_path: Path, name: str, accepted: bool
) -> None:
    """A pod's certificate has the names of its Service, and no address."""
    authority = TestAuthority(tmp_path / "authority")
    own = CertificateFolder(authority.issue(tmp_path / "pod", names="DNS:router.fleet.svc"))
    server = aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    credentials = server_credentials(own, mutual=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    async with open_channel(f"127.0.0.1:{port}", certificates=own, server_name=name) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
        if accepted:
            assert (await check).status == health_pb2.HealthCheckResponse.SERVING
        else:
            with pytest.raises(grpc.RpcError):
                await check
    await server.stop(0)
