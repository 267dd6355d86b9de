"""ValidationService: uploads that end badly; the rest is covered over the wire."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bem_fleet.services.validation.servicer import (
    STATUS,
    UploadTimeoutError,
    _chunks,
    _limit_upload,
    _read_head,
)
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError, status_of


async def stream(*requests: Any) -> AsyncIterator[Any]:
    """Yield requests."""
    for request in requests:
        yield request


HEAD = pb.CompareStreamRequest(head=pb.CompareStreamHead())
CHUNK = pb.CompareStreamRequest(chunk=pb.ScoreChunk(metric="f1"))


async def test_a_stream_is_a_head_and_chunks() -> None:
    """Anything else is named by its field."""
    head = await _read_head(stream(HEAD, CHUNK))
    chunks = [chunk.metric async for chunk in _chunks(stream(CHUNK, CHUNK))]
    for requests in ((), (CHUNK,)):
        with pytest.raises(InvalidArgumentError, match="head"):
            await _read_head(stream(*requests))
    with pytest.raises(InvalidArgumentError, match="chunk"):
        [chunk async for chunk in _chunks(stream(CHUNK, HEAD))]

    assert head.WhichOneof("part") == "head"
    assert chunks == ["f1", "f1"]


async def test_a_slow_upload_is_aborted() -> None:
    """It occupies a slot; the error says how long it may take."""
    with pytest.raises(UploadTimeoutError, match=r"longer than 0\.05 s") as caught:
        async with _limit_upload(0.05):
            await asyncio.sleep(5)

    assert status_of(caught.value, STATUS).name == "DEADLINE_EXCEEDED"
