"""Channels that are closed in the background, over a real server."""

import asyncio
from typing import Any

import grpc
import pytest
from fleet.closing_channels import ClosingChannels
from grpc import aio


class Echo(grpc.GenericRpcHandler):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.called, self.may_answer = asyncio.Event(), asyncio.Event()

    def service(self, _details: Any) -> Any:
        """Return the handler of every method."""
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, _context: Any) -> bytes:
        self.called.set()
        await self.may_answer.wait()
        return request


@pytest.mark.parametrize("ends", [True, False])
async def test_a_call_in_flight_ends_before_its_channel(ends: bool) -> None:
    """It is answered within the grace, for which a process that stops does not wait."""
    echo, server = Echo(), aio.server()
    server.add_generic_rpc_handlers((echo,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel, closing = aio.insecure_channel(f"127.0.0.1:{port}"), ClosingChannels()
    say: Any = channel.unary_unary("/test.Echo/Say")
    call = say(b"hello", timeout=10)
    await echo.called.wait()
    closing.add(channel, 10)
    await asyncio.sleep(0)  # the closing has begun
    if ends:
        echo.may_answer.set()
        assert await call == b"hello"
    await asyncio.wait_for(closing.end(), 5)
    await server.stop(0)

    assert not closing._closing
