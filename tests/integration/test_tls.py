"""TLS between pods over real sockets: who is refused, renewal without a restart, health."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem_fleet.services.router.servicer import SERVICE as ROUTER
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from bemfleet.mission.v1 import mission_pb2  # noqa: F401 - registers the method
from bemfleet.router.v1.router_pb2 import CompleteRequest
from bemfleet.router.v1.router_pb2_grpc import RouterServiceStub
from fleet.access.method_roles import find_generated_method
from fleet.certificates import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    Certificate,
    CertificateFolder,
    channel_credentials,
)
from fleet.clients import open_channel, wait_ready
from fleet.server import App, RunningServer, start
from fleet.settings import FleetSettings, TlsMode
from fleet.testing import RedisServer, free_port
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.integration.sidecars import scene
from tests.integration.tracks import ScriptedMission, ask, gateway, mission
from tests.support.certificates import TestAuthority

SERVICE, ECHO, HELD = "sample.v1.S", "/sample.v1.S/Echo", "/sample.v1.S/Held"
USERS_METHOD = "/bemfleet.mission.v1.MissionService/Describe"
SERVING = health_pb2.HealthCheckResponse.SERVING
REFUSED = grpc.StatusCode.UNAVAILABLE


class Echo(grpc.GenericRpcHandler):
    """Answers with the request; ``Held`` waits for ``release`` before."""

    def __init__(self) -> None:
        self.entered, self.release = asyncio.Event(), asyncio.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method."""
        known = {ECHO: self._answer, HELD: self._answer_later}
        handler = known.get(call.method)
        return grpc.unary_unary_rpc_method_handler(handler) if handler else None

    async def _answer(self, request: bytes, _context: Any) -> bytes:
        return request

    async def _answer_later(self, request: bytes, _context: Any) -> bytes:
        self.entered.set()
        await self.release.wait()
        return request


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestAuthority, TestAuthority]:
    """The fleet's authority and another one."""
    folder = tmp_path_factory.mktemp("authorities")
    return TestAuthority(folder / "fleet"), TestAuthority(folder / "other")


@pytest.fixture
async def echo() -> Echo:
    """The handler, with events of this test's loop."""
    return Echo()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes the channels and servers of a test."""
    async with AsyncExitStack() as opened:
        yield opened


async def serve(
    stack: AsyncExitStack,
    echo: Echo,
    folder: Path,
    mode: TlsMode = TlsMode.MUTUAL,
    address: str = "localhost:0",
) -> RunningServer:
    """Start a service with a certificate and a health port."""

    async def build(_settings: FleetSettings, app: App) -> None:
        app.server.add_generic_rpc_handlers((echo,))
        app.roles.find = lambda _path: find_generated_method(USERS_METHOD)
        await app.register_service(SERVICE)

    settings = FleetSettings(
        address=address,
        tls_mode=mode,
        tls_folder=folder,
        health_address="127.0.0.1:0",
        drain_s=5,
    )
    running = await start(settings, build, {})
    stack.push_async_callback(running.stop)
    return running


async def call(channel: aio.Channel, method: str = ECHO, timeout_s: float = 10) -> bytes:
    """Call a method and return its answer."""
    callable_: Any = channel.unary_unary(method)
    answer: bytes = await callable_(b"hello", timeout=timeout_s)
    return answer


async def code_of(channel: aio.Channel) -> grpc.StatusCode:
    """Return the status of a call."""
    async with channel:
        try:
            await call(channel)
        except aio.AioRpcError as err:
            return err.code()
        return grpc.StatusCode.OK


def certificate(folder: Path) -> Certificate:
    """Return the files of a folder, valid or not."""
    return Certificate(*((folder / name).read_bytes() for name in (CERTIFICATE, KEY, AUTHORITY)))


def secure(address: str, shown: Certificate) -> aio.Channel:
    """Open a channel that shows a certificate, valid or not."""
    return aio.secure_channel(address, channel_credentials(shown))


def ca_only(address: str, authority: TestAuthority) -> aio.Channel:
    """Open a channel that trusts an authority and shows no certificate."""
    trusted = authority.certificate.read_bytes()
    return aio.secure_channel(address, grpc.ssl_channel_credentials(trusted))


async def test_only_certificates_of_the_authority_are_admitted(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """The right one works; none, another authority's, an expired one and plain TCP are refused."""
    fleet, other = authorities
    running = await serve(stack, echo, fleet.issue(tmp_path / "server"))
    own = fleet.issue(tmp_path / "client")
    foreign = certificate(other.issue(tmp_path / "foreign"))
    forged = Certificate(foreign.chain, foreign.key, certificate(own).authorities)
    expired = certificate(fleet.issue(tmp_path / "expired", days=-1))
    good = CertificateFolder(own)
    codes = {
        "good": await code_of(open_channel(running.address, certificates=good)),
        "none": await code_of(ca_only(running.address, fleet)),
        "other authority": await code_of(secure(running.address, forged)),
        "expired": await code_of(secure(running.address, expired)),
        "plain": await code_of(open_channel(running.address)),
    }

    assert codes.pop("good") is grpc.StatusCode.OK
    assert set(codes.values()) == {REFUSED}, codes


async def test_clients_refuse_servers_that_are_not_who_they_should_be(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """A server of another authority, or with another Service's name, gets no request."""
    fleet, other = authorities
    good = CertificateFolder(fleet.issue(tmp_path / "client"))
    foreign = await serve(stack, echo, other.issue(tmp_path / "foreign"), TlsMode.SERVER)
    elsewhere = fleet.issue(tmp_path / "elsewhere", names="DNS:bem-fleet-router.fleet.svc")
    misnamed = await serve(stack, echo, elsewhere)

    assert await code_of(open_channel(foreign.address, certificates=good)) is REFUSED
    assert await code_of(open_channel(misnamed.address, certificates=good)) is REFUSED


async def test_server_mode_asks_for_no_certificate(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """Clients need the authority alone; plain TCP is refused."""
    fleet, _ = authorities
    running = await serve(stack, echo, fleet.issue(tmp_path / "server"), TlsMode.SERVER)

    assert await code_of(ca_only(running.address, fleet)) is grpc.StatusCode.OK
    assert await code_of(open_channel(running.address)) is REFUSED


async def test_unix_sockets_stay_plain(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """A mission and its sidecar share a socket without a certificate, whatever the mode."""
    folder = authorities[0].issue(tmp_path / "server")
    running = await serve(stack, echo, folder, address=f"unix:{tmp_path}/s.sock")
    channel = open_channel(running.address, certificates=CertificateFolder(folder))

    assert await code_of(channel) is grpc.StatusCode.OK


async def test_renewed_certificates_are_taken_without_a_restart(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """Both sides move to another authority: one channel goes on, and its open call finishes."""
    fleet, other = authorities
    server, client = fleet.issue(tmp_path / "server"), fleet.issue(tmp_path / "client")
    running = await serve(stack, echo, server)
    own = CertificateFolder(client, interval_s=0)
    channel = await stack.enter_async_context(open_channel(running.address, certificates=own))
    method: Any = channel.unary_unary(ECHO)
    assert await method(b"before") == b"before"
    held = asyncio.create_task(call(channel, HELD))
    await echo.entered.wait()

    other.issue(server)
    await asyncio.sleep(1.1)  # the server reads its files once a second
    stale = Certificate(*(getattr(own.current, name) for name in ("chain", "key", "authorities")))
    assert await code_of(secure(running.address, stale)) is REFUSED
    other.issue(client)
    # The callable was bound to the first channel; stubs keep such callables for ever.
    assert await method(b"after", timeout=10) == b"after"
    echo.release.set()

    assert await held == b"hello"
    assert ssl.get_server_certificate(_host(running.address)) in (server / CERTIFICATE).read_text()


async def test_broken_renewal_leaves_the_last_certificate_in_force(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """A key that does not match, and an expired certificate, are not taken."""
    fleet, _ = authorities
    server = fleet.issue(tmp_path / "server")
    running = await serve(stack, echo, server)
    own = CertificateFolder(fleet.issue(tmp_path / "client"))
    (server / KEY).write_bytes((fleet.issue(tmp_path / "else") / KEY).read_bytes())
    await asyncio.sleep(1.1)  # the server reads its files once a second

    assert await code_of(open_channel(running.address, certificates=own)) is grpc.StatusCode.OK
    fleet.issue(server, days=-1)
    await asyncio.sleep(1.1)
    assert await code_of(open_channel(running.address, certificates=own)) is grpc.StatusCode.OK


async def test_health_port_answers_checks_and_nothing_else(
    stack: AsyncExitStack,
    echo: Echo,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """A kubelet reads the readiness without a certificate; every other method is unknown."""
    folder = authorities[0].issue(tmp_path / "server")
    running = await serve(stack, echo, folder)
    assert running.health
    plain = await stack.enter_async_context(aio.insecure_channel(running.health.address))
    health = health_pb2_grpc.HealthStub(plain)
    before = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    await running.app.set_serving(SERVICE, serving=True)
    after = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    others: list[Any] = [
        call(plain),
        metrics_pb2_grpc.MetricsServiceStub(plain).Scrape(metrics_pb2.ScrapeRequest()),
        anext(aiter(health.Watch(health_pb2.HealthCheckRequest()))),
        anext(
            aiter(
                reflection_pb2_grpc.ServerReflectionStub(plain).ServerReflectionInfo(
                    iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                )
            )
        ),
    ]

    assert (before.status, after.status) == (2, SERVING)
    for other in others:
        with pytest.raises(aio.AioRpcError) as caught:
            await other
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="unknown.v1.S"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_port_reports_the_drain(
    echo: Echo, authorities: tuple[TestAuthority, TestAuthority], tmp_path: Path
) -> None:
    """While calls finish, probes see NOT_SERVING; afterwards the port is closed."""
    async with AsyncExitStack() as stack:
        folder = authorities[0].issue(tmp_path / "server")
        running = await serve(stack, echo, folder)
        own = CertificateFolder(folder)
        channel = await stack.enter_async_context(open_channel(running.address, certificates=own))
        await running.app.set_serving(SERVICE, serving=True)
        await wait_ready(channel, SERVICE, 10)
        held = asyncio.create_task(call(channel, HELD))
        await echo.entered.wait()
        stopping = asyncio.create_task(running.stop())
        assert running.health
        async with aio.insecure_channel(running.health.address) as plain:
            health = health_pb2_grpc.HealthStub(plain)
            during = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
            echo.release.set()
            assert await held == b"hello"
            await stopping
            with pytest.raises(aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=2)

    assert during.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert caught.value.code() in {REFUSED, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_gateway_reaches_missions_and_their_successors(
    redis_server: RedisServer,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """Calls of the gateway go on when all certificates move to another authority."""
    fleet, other = authorities
    server, client = fleet.issue(tmp_path / "router"), fleet.issue(tmp_path / "gateway")
    address = f"localhost:{free_port()}"
    tls = {"tls_mode": TlsMode.MUTUAL, "tls_folder": server}
    async with (
        mission(address, ScriptedMission(), **tls),
        gateway(
            redis_server.url,
            missions={"router": address},
            tls_mode=TlsMode.MUTUAL,
            tls_folder=client,
        ) as http,
    ):
        first = await ask(http)
        ready = await http.get("/readyz")
        for folder in (server, client):
            other.issue(folder)
        await asyncio.sleep(1.1)  # files are read once a second
        second = await ask(http)

    assert (first.status_code, ready.status_code, second.status_code) == (200, 200, 200)


async def test_sidecar_serves_tls_before_a_mission_on_a_socket(
    redis_server: RedisServer,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    """The sidecar's own port has TLS, its mission's socket none; health tells of the mission."""
    tls: dict[str, Any] = {
        "address": "localhost:0",
        "tls_mode": TlsMode.MUTUAL,
        "tls_folder": authorities[0].issue(tmp_path / "tls"),
        "health_address": "127.0.0.1:0",
    }
    async with scene(tmp_path, redis_server, **tls) as made:
        answers = await made.generate()
        refused = await code_of(open_channel(made.sidecar.address))
        assert made.sidecar.health
        async with aio.insecure_channel(made.sidecar.health.address) as plain:
            health = health_pb2_grpc.HealthStub(plain)
            ready = await health.Check(health_pb2.HealthCheckRequest(service=ROUTER))
            with pytest.raises(aio.AioRpcError) as caught:
                await RouterServiceStub(plain).Complete(CompleteRequest())

    assert "".join(one.text for one in answers) == "hello there"
    assert refused is REFUSED
    assert ready.status == SERVING
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _host(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
