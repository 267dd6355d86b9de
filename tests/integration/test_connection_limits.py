"""Limits of gRPC connections over real sockets: readers that stop, metadata, idle, many calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from fleet.clients import open_channel
from fleet.server import App, start
from fleet.settings import FleetSettings
from grpc import aio
from prometheus_client import REGISTRY

SERVICE = "sample.v1.StreamService"
PIECE = b"p" * 100_000
# More than a client buffers that does not read: gRPC's window grows to some megabytes.
ENDLESS, WHOLE = 2000, 20


class StreamHandler(grpc.GenericRpcHandler):
    """``Many`` streams the number of pieces that is asked for; ``Wait`` answers when told to."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()
        self.release = asyncio.Event()

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        """Return the handler of the method's name."""
        if call.method.endswith("Many"):
            return grpc.unary_stream_rpc_method_handler(self._many)
        return grpc.unary_unary_rpc_method_handler(self._wait)

    async def _many(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            for _ in range(int(request)):
                yield PIECE
                self.sent += 1
        finally:
            self.ended.set()

    async def _wait(self, request: bytes, _context: Any) -> bytes:
        await self.release.wait()
        return request


@asynccontextmanager
async def serving(folder: Path, **limits: Any) -> AsyncIterator[tuple[StreamHandler, aio.Channel]]:
    """Serve the handler on a unix socket; yields it and a channel."""
    handler = StreamHandler()

    async def build(_settings: FleetSettings, app: App) -> None:
        app.server.add_generic_rpc_handlers((handler,))
        await app.register_service(SERVICE)

    settings = FleetSettings(address=f"unix:{folder}/s.sock", drain_s=1, **limits)
    server = await start(settings, build, {})
    try:
        async with open_channel(server.address) as channel:
            yield handler, channel
    finally:
        await server.stop()


async def read_all(channel: aio.Channel) -> int:
    """Return the bytes of a whole stream."""
    call: Any = channel.unary_stream(f"/{SERVICE}/Many")
    return sum([len(piece) async for piece in call(str(WHOLE).encode())])


async def read_to_end(call: Any) -> None:
    """Read what is left of a stream."""
    while await call.read() is not aio.EOF:
        continue


async def test_a_reader_that_stops_ends_its_call_only(tmp_path: Path) -> None:
    """The work of a stream that nobody reads ends; another client's stream is whole."""
    name, labels = "bem_fleet_stalled_streams_total", {"method": f"/{SERVICE}/Many"}
    before = REGISTRY.get_sample_value(name, labels) or 0
    async with serving(tmp_path, stalled_stream_s=0.5) as (handler, channel):
        stream: Any = channel.unary_stream(f"/{SERVICE}/Many")
        call = stream(str(ENDLESS).encode())
        first = await call.read()
        async with asyncio.timeout(10):
            await handler.ended.wait()
        sent = handler.sent
        async with asyncio.timeout(10):
            with pytest.raises(aio.AioRpcError) as ended:
                await read_to_end(call)
        whole = await read_all(channel)

    assert first == PIECE
    assert sent < ENDLESS // 4
    assert ended.value.code() == grpc.StatusCode.CANCELLED
    assert "not read" in str(ended.value.details())
    assert whole == WHOLE * len(PIECE)
    assert REGISTRY.get_sample_value(name, labels) == before + 1


async def test_a_slow_reader_is_served(tmp_path: Path) -> None:
    """Reading from time to time keeps a stream open."""
    async with serving(tmp_path, stalled_stream_s=1) as (_, channel):
        call: Any = channel.unary_stream(f"/{SERVICE}/Many")
        received = 0
        async for piece in call(str(10 * WHOLE).encode()):
            received += len(piece)
            if received % (40 * len(PIECE)) == 0:
                await asyncio.sleep(0.4)

    assert received == 10 * WHOLE * len(PIECE)


async def test_large_metadata_is_refused(tmp_path: Path) -> None:
    """The call ends with an error, and the next one is served."""
    async with serving(tmp_path, max_metadata_bytes=4096) as (handler, channel):
        handler.release.set()
        call: Any = channel.unary_unary(f"/{SERVICE}/Wait")
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"x", metadata=(("x-large", "a" * 26_000_000),), timeout=20)
        answered = await call(b"x", metadata=(("x-small", "a" * 1000),), timeout=20)

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answered == b"x"


async def test_calls_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    """Open calls are bounded; the others finish."""
    async with serving(tmp_path, max_concurrent_calls=2) as (handler, channel):
        call: Any = channel.unary_unary(f"/{SERVICE}/Wait")
        waiting = [asyncio.ensure_future(call(b"x")) for _ in range(2)]
        await asyncio.sleep(0.2)
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"y", timeout=10)
        handler.release.set()
        answers = await asyncio.gather(*waiting)

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answers == [b"x", b"x"]


async def test_an_idle_connection_is_closed_and_comes_back(tmp_path: Path) -> None:
    """A client that has no call keeps no connection; its next call works."""
    async with serving(tmp_path, idle_connection_s=0.3) as (handler, channel):
        handler.release.set()
        call: Any = channel.unary_unary(f"/{SERVICE}/Wait")
        await call(b"x")
        async with asyncio.timeout(20):
            while (state := channel.get_state()) == grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
        answered = await call(b"y", timeout=10)

    assert answered == b"y"
