"""Outputs of an engine's thread on the event loop."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from bem.engine import GenerationRequest, OutputDelta
from bem.errors import DeadlineExceededError
from bem_fleet.serving.engine_outputs import call_on_loop, collect_output, stream_output

REQUEST = GenerationRequest((1, 2), max_tokens=4)
DELTAS = (OutputDelta("a", 1), OutputDelta("b", 2), OutputDelta("c", 3, finish="stop"))


class ThreadedEngine:
    """Sends outputs from a thread of its own; counts cancelled requests."""

    def __init__(self, outputs: Sequence[OutputDelta | Exception]) -> None:
        self.outputs, self.cancelled = outputs, 0

    def submit(self, request: GenerationRequest, on_output: Any) -> Any:  # noqa: ARG002
        """Start the thread."""
        threading.Thread(target=lambda: [on_output(one) for one in self.outputs]).start()
        return self

    def cancel(self) -> None:
        """Count."""
        self.cancelled += 1


async def test_deltas_arrive_in_order_and_free_the_request() -> None:
    """One by one, or all at the end."""
    engine = ThreadedEngine(DELTAS)

    assert [one async for one in stream_output(engine, REQUEST, "m")] == list(DELTAS)
    assert await collect_output(engine, REQUEST, "m") == list(DELTAS)
    assert engine.cancelled == 2


async def test_a_closed_stream_cancels_its_request() -> None:
    """A client that leaves after the first delta holds nothing."""
    engine = ThreadedEngine(DELTAS[:1])
    stream = stream_output(engine, REQUEST, "m")
    assert await anext(stream) == DELTAS[0]
    await stream.aclose()

    assert engine.cancelled == 1


async def test_a_cancelled_task_cancels_its_request() -> None:
    """Also while it waits for the end, which then comes too late."""
    engine = ThreadedEngine(DELTAS[:2])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(collect_output(engine, REQUEST, "m"), 0.05)

    assert engine.cancelled == 1


async def test_an_error_of_the_engine_is_raised() -> None:
    """After the deltas before it."""
    engine = ThreadedEngine([DELTAS[0], DeadlineExceededError()])
    stream = stream_output(engine, REQUEST, "m")
    assert await anext(stream) == DELTAS[0]
    with pytest.raises(DeadlineExceededError):
        await anext(stream)
    with pytest.raises(DeadlineExceededError):
        await collect_output(engine, REQUEST, "m")

    assert engine.cancelled == 2


def test_a_closed_loop_is_ignored() -> None:
    """A server that stops has no loop for the engine's last outputs."""
    loop, called = asyncio.new_event_loop(), list[int]()
    call_on_loop(loop, called.append, 1)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    call_on_loop(loop, called.append, 2)

    assert called == [1]
