"""Outputs of an engine on the event loop: its thread makes them, and a coroutine takes them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from bem.engine import GenerationRequest, OutputDelta, RequestHandle
from bem.engine.api import OutputCallback

from bem_fleet.serving.engine_spans import FIRST_TOKEN, engine_span, record_output


class OutputSource(Protocol):
    """The part of an engine that makes outputs."""

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> RequestHandle:
        """Enqueue a request."""
        ...


async def stream_output(
    engine: OutputSource, request: GenerationRequest, base_model: str
) -> AsyncGenerator[OutputDelta]:
    """Yield the output deltas of a request; closing the iterator early frees its slot.

    Args:
        engine: The engine.
        request: The request.
        base_model: Name of the base model, for the request's span.

    Raises:
        BemError: The request is refused or dropped.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[OutputDelta | Exception] = asyncio.Queue()
    with engine_span(request, base_model) as span:
        handle = engine.submit(request, lambda one: call_on_loop(loop, arrived.put_nowait, one))
        began = False
        try:
            while True:
                delta = await arrived.get()
                if isinstance(delta, Exception):
                    raise delta
                if not began:
                    span.event(FIRST_TOKEN)
                began = True
                if delta.finish:
                    record_output(span, delta)
                yield delta
                if delta.finish:
                    return
        finally:
            handle.cancel()


async def collect_output(
    engine: OutputSource, request: GenerationRequest, base_model: str
) -> list[OutputDelta]:
    """Return all output deltas of a request; the event loop wakes up once, at its end.

    Cancelling the task cancels the request. Arguments are those of ``stream_output``.

    Raises:
        BemError: The request is refused or dropped.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[OutputDelta] = loop.create_future()
    deltas: list[OutputDelta] = []

    def settle(result: OutputDelta | Exception) -> None:
        if done.done():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def on_output(output: OutputDelta | Exception) -> None:  # on the engine's thread
        if not isinstance(output, Exception):
            deltas.append(output)
            if not output.finish:
                return
        call_on_loop(loop, settle, output)

    with engine_span(request, base_model) as span:
        handle = engine.submit(request, on_output)
        try:
            record_output(span, await done)
        finally:
            handle.cancel()
    return deltas


def call_on_loop(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object
) -> None:
    """Call ``callback`` on the event loop from the engine's thread; a closed loop is ignored."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *arguments)
