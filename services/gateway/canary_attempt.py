"""Attempts of a call on one track: raw messages, hold-back before the first text, outcome."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from bem_fleet.services.gateway.canary_observations import RequestOutcome
from bem_fleet.services.gateway.method_fields import MethodFields
from fleet import wire
from fleet.errors import details_of
from fleet.tracing import span
from grpc import aio
from opentelemetry.trace import SpanKind

Metadata = tuple[tuple[str, str], ...]
Messages = AsyncGenerator[bytes]
OnComplete = Callable[[RequestOutcome], None]


@dataclass(frozen=True)
class Call:
    """One call of a client.

    Attributes:
        path: Call path, ``/package.Service/Method``.
        request: Serialised request.
        streams: Whether the response is a stream.
        timeout_s: Deadline of the call, retries on stable included, in seconds.
        metadata: gRPC metadata.
        track: Track that is called, ``stable`` or ``canary``.
    """

    path: str
    request: bytes
    streams: bool
    timeout_s: float
    metadata: Metadata
    track: str = "stable"


class Attempt:
    """A call on one track.

    Args:
        messages: Messages of the call.
        fields: Fields of the method.
        on_complete: Takes the outcome, once, when the answer is complete.

    Attributes:
        committed: Whether the client has begun to read the answer; no other track may take over.
        completed: Whether the answer is complete; ``on_complete`` was called with its outcome.
    """

    def __init__(self, messages: Messages, fields: MethodFields, on_complete: OnComplete) -> None:
        self.committed = self.completed = False
        self._has_text = self._truncated = False
        self._messages, self._fields, self._on_complete = messages, fields, on_complete
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Time since the attempt began, in seconds."""
        return time.monotonic() - self._began

    async def messages(self) -> Messages:
        """Yield the messages; the outcome is recorded before the last one is yielded.

        Clients stop reading at the message that completes the answer, so nothing after its
        ``yield`` is sure to run.
        """
        async with aclosing(self._messages) as messages:
            async for message in messages:
                if not self.completed:
                    self._read(message)
                yield message
        if not self.completed:
            # A stream that marks its end and stops before it was broken off.
            self._complete(failed=self._fields.marks_end)

    async def messages_from_first_text(self) -> Messages:
        """Yield the messages, none before the first that speaks: until then it can be replaced."""
        held: list[bytes] = []
        async with aclosing(self.messages()) as messages:
            async for message in messages:
                held.append(message)
                if self.committed or self._fields.speaks(message):
                    self.committed = True
                    for one in held:
                        yield one
                    held.clear()
        for one in held:
            yield one

    def _read(self, message: bytes) -> None:
        facts = self._fields.read(message)
        self._has_text |= facts.has_text
        self._truncated |= facts.truncates
        if facts.completes:
            self._complete()

    def _complete(self, *, failed: bool = False) -> None:
        self.completed = True
        empty = self._fields.answers_with_text and not self._has_text
        self._on_complete(
            RequestOutcome(
                self.elapsed_s, failed=failed, empty=empty and not failed, truncated=self._truncated
            )
        )


async def call_messages(channel: aio.Channel, call: Call, timeout_s: float) -> Messages:
    """Yield the messages of a call; closing the iteration cancels it."""
    name, attributes = call.path.removeprefix("/"), {"bem.track": call.track}
    with span(name, attributes, kind=SpanKind.CLIENT) as one:
        metadata = one.carried(call.metadata)
        if not call.streams:
            unary: Any = channel.unary_unary(call.path)
            yield await unary(call.request, timeout=timeout_s, metadata=metadata)
            return
        streaming: Any = channel.unary_stream(call.path)
        responses = streaming(call.request, timeout=timeout_s, metadata=metadata)
        try:
            async for response in responses:
                yield response
        finally:
            responses.cancel()


def outcome_of(err: grpc.RpcError, latency_s: float) -> RequestOutcome | None:
    """Return the outcome of a failed call; None if the client cancelled it, or for want of room.

    Neither says anything about the track: a busy mission refuses requests of both.
    """
    details = details_of(err)
    if details.code is grpc.StatusCode.CANCELLED or shed_for_s(err) is not None:
        return None
    withheld = details.reason == wire.CONTENT_FILTERED
    return RequestOutcome(latency_s, failed=not withheld, withheld=withheld)


def shed_for_s(err: grpc.RpcError) -> float | None:
    """Return the delay in seconds after which a call that met a full queue may be repeated.

    None for any other error: only a queue names a delay, a message that is too large does not.
    """
    details = details_of(err)
    is_exhausted = details.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return details.retry_after_s if is_exhausted else None
