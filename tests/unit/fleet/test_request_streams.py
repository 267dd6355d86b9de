"""Refused request streams: what is read on, and where that ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import count

import pytest
from fleet import request_streams
from fleet.request_streams import MAX_BYTES, MAX_MESSAGES, RequestStream


class Source:
    """Requests that arrive one after another, and how many were taken."""

    def __init__(self, requests: int | None, size: int = 1, delay_s: float = 0) -> None:
        self.taken = 0
        self._requests, self._size, self._delay_s = requests, size, delay_s

    async def raws(self) -> AsyncIterator[bytes]:
        """Yield the requests."""
        for number in count():
            if number == self._requests:
                return
            await asyncio.sleep(self._delay_s)
            self.taken += 1
            yield b"x" * self._size


async def test_stream_is_read_on_to_its_end() -> None:
    """What the client still writes is taken, and nothing is left."""
    source = Source(7)
    stream = RequestStream(source.raws())
    first = await anext(stream)
    await stream.read_on()

    assert first == b"x"
    assert source.taken == 7
    assert [one async for one in stream] == []


async def test_cancelled_reader_leaves_its_read_to_the_next_one() -> None:
    """A handler that gave up while it waited has not ended the stream."""
    source = Source(3, delay_s=0.05)
    stream = RequestStream(source.raws())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(stream)
    rest = [one async for one in stream]

    assert rest == [b"x"] * 3


@pytest.mark.parametrize(("size", "taken"), [(1, MAX_MESSAGES), (2**20, MAX_BYTES // 2**20 + 1)])
async def test_endless_stream_is_read_on_up_to_a_limit(size: int, taken: int) -> None:
    """Neither many messages nor large ones are read for ever."""
    source = Source(None, size)
    await RequestStream(source.raws()).read_on()

    assert source.taken == taken


@pytest.mark.parametrize("delay_s", [0.01, 60])
async def test_slow_and_quiet_streams_are_left(
    monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    """A drip of messages ends at the time limit, a client that writes nothing before it."""
    monkeypatch.setattr(request_streams, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(request_streams, "QUIET_SECONDS", 0.1)
    stream = RequestStream(Source(None, delay_s=delay_s).raws())
    began = time.monotonic()
    await stream.read_on()
    stream.close()

    assert time.monotonic() - began < 10
