"""Runtime over real sockets: errors of all call kinds, health, reflection, drain, streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis.asyncio as redis
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from bemfleet.mission.v1 import mission_pb2  # noqa: F401 - registers the method
from fleet import logs
from fleet.access.method_roles import find_generated_method
from fleet.clients import open_channel, outgoing_metadata, wait_ready
from fleet.errors import (
    InvalidArgumentError,
    OverloadedError,
    StatusTable,
    UnavailableError,
    details_of,
)
from fleet.server import App, RunningServer, start
from fleet.settings import FleetSettings
from fleet.streams import StreamWriter
from fleet.testing import RedisServer
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

SERVICE = "sample.v1.SampleService"
USERS_METHOD = "/bemfleet.mission.v1.MissionService/Describe"
TABLE: StatusTable = {KeyError: grpc.StatusCode.NOT_FOUND}


class EchoHandler(grpc.GenericRpcHandler):
    """Bytes in, bytes out, for each of the four call kinds; ``boom:`` bytes raise."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of the method's name, None for an unknown one."""
        name = call.method.rpartition("/")[2]
        if name == "Wait":
            return grpc.unary_unary_rpc_method_handler(self._wait)
        makers = {
            "UnaryUnary": (grpc.unary_unary_rpc_method_handler, self._one),
            "StreamUnary": (grpc.stream_unary_rpc_method_handler, self._one),
            "UnaryStream": (grpc.unary_stream_rpc_method_handler, self._many),
            "StreamStream": (grpc.stream_stream_rpc_method_handler, self._many),
        }
        if name not in makers:
            return None
        make, handler = makers[name]
        return make(handler)

    async def _one(self, request: Any, _context: Any) -> bytes:
        return _echo(await _first(request))

    async def _many(self, request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield _echo(await _first(request))

    async def _wait(self, _request: bytes, _context: Any) -> bytes:
        self.entered.set()
        await self.release.wait()
        return logs.request_id.get().encode()


async def _first(request: Any) -> bytes:
    if isinstance(request, bytes):
        return request
    first: bytes = await anext(aiter(request))
    return first


def _echo(data: bytes) -> bytes:
    errors: dict[bytes, Exception] = {
        b"field": InvalidArgumentError("max_tokens", "must be at least 1"),
        b"full": OverloadedError("the queue is full", 0.25),
        b"domain": KeyError("no such adapter"),
        b"bug": ZeroDivisionError("secret"),
    }
    if data in errors:
        raise errors[data]
    return data


@pytest.fixture
async def echo() -> EchoHandler:
    """The handler, with events of this test's loop."""
    return EchoHandler()


async def _started(echo: EchoHandler, address: str) -> RunningServer:
    async def build(_settings: FleetSettings, app: App) -> None:
        app.server.add_generic_rpc_handlers((echo,))
        # The echo's methods are in no proto; they have the role of a user's method.
        app.roles.find = lambda _path: find_generated_method(USERS_METHOD)
        await app.register_service(SERVICE)

    return await start(FleetSettings(address=address, drain_s=10), build, TABLE)


@pytest.fixture
async def running(echo: EchoHandler, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A service on a unix socket."""
    server = await _started(echo, f"unix:{tmp_path}/s.sock")
    yield server
    await server.stop()


@pytest.fixture
async def channel(running: RunningServer) -> AsyncIterator[aio.Channel]:
    """A channel to it."""
    async with open_channel(running.address) as opened:
        yield opened


def _call(channel: aio.Channel, kind: str, data: bytes) -> Any:
    method = getattr(
        channel,
        {
            "UnaryUnary": "unary_unary",
            "StreamUnary": "stream_unary",
            "UnaryStream": "unary_stream",
            "StreamStream": "stream_stream",
        }[kind],
    )
    call = method(f"/{SERVICE}/{kind}")
    return call(data) if kind.startswith("Unary") else call(iter([data]))


async def _result(call: Any, kind: str) -> bytes:
    if kind.endswith("Unary"):
        answer: bytes = await call
        return answer
    return b"".join([piece async for piece in call])


KINDS = ("UnaryUnary", "StreamUnary", "UnaryStream", "StreamStream")


@pytest.mark.parametrize("kind", KINDS)
async def test_error_of_any_call_kind_arrives_with_its_details(
    channel: aio.Channel, kind: str
) -> None:
    """All four kinds turn errors into rich statuses, and answer when nothing is wrong."""
    assert await _result(_call(channel, kind, b"hello"), kind) == b"hello"
    seen = {}
    for data in (b"field", b"full", b"domain", b"bug"):
        with pytest.raises(aio.AioRpcError) as caught:
            await _result(_call(channel, kind, data), kind)
        seen[data] = details_of(caught.value)

    assert (seen[b"field"].code, seen[b"field"].field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "max_tokens",
    )
    assert (seen[b"full"].code, seen[b"full"].retry_after_s) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        0.25,
    )
    assert seen[b"domain"].code is grpc.StatusCode.NOT_FOUND
    assert seen[b"bug"].code is grpc.StatusCode.INTERNAL
    assert "secret" not in seen[b"bug"].message


async def test_health_is_alive_before_ready(running: RunningServer, channel: aio.Channel) -> None:
    """Liveness does not wait for readiness, and readiness is announced to watchers."""
    stub = health_pb2_grpc.HealthStub(channel)
    alive = await stub.Check(health_pb2.HealthCheckRequest())
    before = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    watching = asyncio.create_task(wait_ready(channel, SERVICE, 10))
    await running.app.set_serving(SERVICE, serving=True)
    await watching

    assert alive.status == health_pb2.HealthCheckResponse.SERVING
    assert before.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_service_that_never_gets_ready_is_reported(channel: aio.Channel) -> None:
    """Waiting for a service ends with an error that names it."""
    with pytest.raises(UnavailableError, match=SERVICE):
        await wait_ready(channel, SERVICE, 0.2)


async def test_generic_client_lists_the_services(channel: aio.Channel) -> None:
    """Reflection names what is offered, health and metrics included."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]

    names = {service.name for service in answers[0].list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "bemfleet.common.v1.MetricsService"} <= names


async def test_calls_are_measured_by_code(channel: aio.Channel) -> None:
    """The metrics page over gRPC counts a failed call under its status code."""
    with pytest.raises(aio.AioRpcError):
        await _result(_call(channel, "UnaryUnary", b"field"), "UnaryUnary")
    stub = metrics_pb2_grpc.MetricsServiceStub(channel)
    page = (await stub.Scrape(metrics_pb2.ScrapeRequest())).exposition.decode()

    wanted = f'code="INVALID_ARGUMENT",method="/{SERVICE}/UnaryUnary"'
    assert any(
        "bem_fleet_rpc_seconds_count" in line and wanted in line for line in page.splitlines()
    )


async def test_stop_lets_a_call_in_flight_finish(
    running: RunningServer, channel: aio.Channel, echo: EchoHandler
) -> None:
    """A call that runs when the process is told to end gets its answer, with its request id."""
    token = logs.request_id.set("req-7")
    method: Any = channel.unary_unary(f"/{SERVICE}/Wait")
    call = method(b"", metadata=outgoing_metadata())
    logs.request_id.reset(token)
    await echo.entered.wait()
    stopping = asyncio.create_task(running.stop())
    stub = health_pb2_grpc.HealthStub(channel)
    echo.release.set()

    assert await call == b"req-7"
    await stopping
    with pytest.raises(aio.AioRpcError):
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)


async def test_a_health_watch_does_not_hold_a_stopping_server(
    running: RunningServer, channel: aio.Channel
) -> None:
    """Watchers are told NOT_SERVING and their streams end, long before the drain limit of 10 s."""
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    statuses = aiter(watch)
    first = await anext(statuses)
    async with asyncio.timeout(5):
        await running.stop()
        rest = [answer.status async for answer in statuses]

    assert first.status == health_pb2.HealthCheckResponse.SERVING
    assert rest == [health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_calls_that_meet_a_stopping_server_go_to_the_next(echo: EchoHandler) -> None:
    """One of two servers stops under calls that never pause: none of them ends as cancelled."""
    first, second = await _started(echo, "127.0.0.1:0"), await _started(echo, "127.0.0.1:0")
    ended, codes = asyncio.Event(), Counter[str]()

    async def ask() -> None:
        async with open_channel(f"ipv4:{first.address},{second.address}") as channel:
            while not ended.is_set():
                try:
                    await _call(channel, "UnaryUnary", b"x")
                except aio.AioRpcError as err:
                    codes[err.code().name] += 1
                else:
                    codes["OK"] += 1

    asking = [asyncio.create_task(ask()) for _ in range(32)]
    await asyncio.sleep(0.1)
    await first.stop()
    before = codes["OK"]
    await asyncio.sleep(0.2)
    ended.set()
    await asyncio.gather(*asking)
    await second.stop()

    assert codes["OK"] > before > 0
    assert codes["CANCELLED"] == 0


async def test_background_failure_is_seen(running: RunningServer) -> None:
    """Work beside the server that raises is reported, not lost."""

    async def fail() -> None:
        raise ValueError("lost its model")

    running.app.spawn(fail())
    with pytest.raises(ValueError, match="lost its model"):
        await asyncio.wait_for(asyncio.shield(running.app.failed), 5)


async def test_taken_port_is_named() -> None:
    """Starting on a port that is in use fails with the address in the message."""

    async def build(_settings: FleetSettings, _app: App) -> None:
        return

    first = await start(FleetSettings(address="127.0.0.1:0"), build, {})
    with pytest.raises(OSError, match=first.address):
        await start(FleetSettings(address=first.address), build, {})
    await first.stop()


async def test_acknowledged_record_outlives_a_killed_redis(redis_server: RedisServer) -> None:
    """What was acknowledged is there after kill -9; while Redis is away the caller is told."""
    writer = StreamWriter(redis_server.url, "bem:test")
    identifier = await writer.append({"rating": "up"})
    redis_server.kill()
    with pytest.raises(UnavailableError, match="bem:test"):
        await writer.append({"rating": "down"})
    redis_server.start()

    async with redis.Redis.from_url(redis_server.url) as client:
        stored: Any = await client.xrange("bem:test")
    assert [(key.decode(), fields) for key, fields in stored] == [(identifier, {b"rating": b"up"})]
    await writer.close()
