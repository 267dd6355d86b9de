"""Limits of HTTP connections, over real sockets against a real server."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from bem_fleet.services.gateway.http_server import make_config
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.testing import free_port
from prometheus_client import REGISTRY

from tests.support.waiting import eventually

HEADER_LIMIT = 4096
REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"


class Application:
    """Echoes the length of a body; ``/endless`` streams until the client is gone."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the start and end of the server."""
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        start = {"type": "http.response.start", "status": 200}
        if scope["path"] == "/endless":
            await send(start)
            await self._stream(send, receive)
            return
        if scope["path"] == "/refused":
            await send({**start, "status": 413, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"no"})
            return
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length, more = length + len(message["body"]), message["more_body"]
        body = str(length).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Any, receive: Any) -> None:
        gone = asyncio.create_task(self._wait_gone(receive))
        try:
            while not gone.done():
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                self.sent += 1000
                await asyncio.sleep(0)
        finally:
            gone.cancel()
            self.ended.set()

    async def _wait_gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[int, Application]]:
    """Serve the application with the gateway's own protocol; yields port and application."""
    port, app = free_port(), Application()
    settings = GatewaySettings(
        address=f"127.0.0.1:{port}", **{"max_header_bytes": HEADER_LIMIT, **limits}
    )
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
    listener.bind(("127.0.0.1", port))
    server = uvicorn.Server(make_config(settings, app))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started, 10)
    try:
        yield port, app
    finally:
        server.should_exit = True
        await task
        listener.close()


async def exchange(port: int, data: bytes, *, timeout_s: float = 5) -> tuple[int, bytes]:
    """Send bytes; return status and body of the answer once the server closes or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(timeout_s):
            return await answer(reader)
    finally:
        writer.close()


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    """Write a body without an end."""
    while True:
        writer.write(b"b" * 100_000)
        await writer.drain()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one response with a content length; status 0 if the connection was closed instead."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b""


def dropped(reason: str) -> float:
    """Return how many connections were dropped for a reason."""
    name = "bem_gateway_connections_dropped_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


async def test_requests_within_the_limits_are_served() -> None:
    """Keep-alive, a large body in one write with its head, and several requests in one write."""
    body = b"b" * 200_000
    big = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + body
    async with serving() as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = []
        for data in (REQUEST, big, REQUEST * 3):
            writer.write(data)
            answers += [await answer(reader) for _ in range(data.count(b"HTTP/1.1"))]
        writer.close()

    assert answers == [(200, b"5"), (200, b"200000"), *3 * [(200, b"5")]]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2_000_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * (HEADER_LIMIT + 1) + b"\r\n\r\n",
        b"GET /" + b"a" * (2 * HEADER_LIMIT) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
    ],
    ids=["endless line", "long line", "long url", "many lines"],
)
async def test_a_large_head_is_refused(head: bytes) -> None:
    """The answer names the limit, and the connection closes."""
    before = dropped("header_size")
    async with serving() as (port, _):
        status, body = await exchange(port, head)
        other = await exchange(port, REQUEST)

    assert status in {0, 431}  # a client that still writes may lose the answer
    if status:
        assert str(HEADER_LIMIT) in json.loads(body)["error"]["message"]
    assert dropped("header_size") == before + 1
    assert other == (200, b"5")


async def test_slow_headers_and_bodies_end() -> None:
    """Bytes that trickle in do not keep a connection beyond its time."""

    async def trickle(port: int, first: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        answered = asyncio.create_task(answer(reader))
        while not answered.done():
            writer.write(b"a")
            await asyncio.wait([answered], timeout=0.05)
        writer.close()
        return await answered

    async with serving(header_timeout_s=0.3, body_timeout_s=0.3) as (port, _):
        async with asyncio.timeout(5):
            header = await trickle(port, b"GET / HTTP/1.1\r\nX: ")
            body = await trickle(port, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n")

    for name, (status, text) in {"header": header, "body": body}.items():
        assert status == 408
        assert json.loads(text)["error"]["message"].startswith(f"{name}: ")


async def test_a_connection_without_a_request_is_closed_without_an_answer() -> None:
    """A client that never asked must not read an answer."""
    async with serving(header_timeout_s=0.2) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            received = await reader.read()
        writer.close()

    assert received == b""


async def test_many_waiting_connections_shut_nobody_out() -> None:
    """At the limit the connection that has waited longest makes room."""
    async with serving(max_connections=20) as (port, _):
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        for _, writer in waiting[::2]:
            writer.write(b"GET / HTTP/1.1\r\nX: ")
        await asyncio.sleep(0.1)
        served = await exchange(port, REQUEST)
        closed = 0
        for reader, writer in waiting[:25]:
            async with asyncio.timeout(5):
                await reader.read()
            closed += 1
            writer.close()
        for _, writer in waiting[25:]:
            writer.close()

    assert served == (200, b"5")
    assert closed == 25


async def test_a_reader_that_stops_is_dropped() -> None:
    """Little is buffered for it, and the application learns that nobody reads."""
    before = dropped("stalled")
    async with serving(stalled_reader_s=0.3) as (port, app):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(5):
            await app.ended.wait()
        client.close()

    assert app.sent < 4_000_000
    assert dropped("stalled") == before + 1


async def test_a_slow_reader_that_goes_on_is_served() -> None:
    """Reading some of the response from time to time is enough."""
    before = dropped("stalled")
    async with serving(stalled_reader_s=0.5) as (port, app):
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        received = 0
        for _ in range(10):
            for _ in range(20):
                received += len(await loop.sock_recv(client, 65536))
            await asyncio.sleep(0.2)
        client.close()
        async with asyncio.timeout(5):
            await app.ended.wait()

    assert received > 0
    assert dropped("stalled") == before


async def test_a_refused_body_is_not_read_for_ever() -> None:
    """The answer is sent at once; a client that writes on is cut off."""
    before = dropped("body_size")
    async with serving() as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /refused HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n")
        status, _ = await answer(reader)
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
        writer.close()

    assert status == 413
    assert dropped("body_size") == before + 1
