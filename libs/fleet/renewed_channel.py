"""gRPC channel over TLS that is opened again with the newest certificate.

The credentials of a gRPC channel are those that it was opened with: when it connects again after a
renewal, its server may refuse them as expired. This channel opens another one as soon as a call
finds a newer certificate; calls in flight finish on the one before.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
from grpc import aio

from fleet.certificates import Certificate, CertificateFolder
from fleet.closing_channels import ClosingChannels

_GRACE_S = 300.0


class RenewedChannel(aio.Channel):
    """Channel of a client whose certificate is renewed.

    Args:
        folder: Certificate of the client.
        connect: Opens a channel with a certificate.
        grace_s: Longest wait for calls in flight on a channel with an older certificate, in
            seconds.
    """

    def __init__(
        self,
        folder: CertificateFolder,
        connect: Callable[[Certificate], aio.Channel],
        grace_s: float = _GRACE_S,
    ) -> None:
        self._folder, self._connect, self._grace_s = folder, connect, grace_s
        self._certificate = folder.current
        self._channel = connect(self._certificate)
        self._replaced = asyncio.Event()
        self._closing = ClosingChannels()
        self._closed = False

    @property
    def newest(self) -> aio.Channel:
        """Channel with the newest certificate."""
        certificate = self._folder.current
        if certificate is not self._certificate and not self._closed:
            self._closing.add(self._channel, self._grace_s)
            self._certificate, self._channel = certificate, self._connect(certificate)
            self._replaced.set()
            self._replaced = asyncio.Event()
        return self._channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel and those before it; calls in flight have ``grace`` seconds."""
        self._closed = True
        await self._closing.end()
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connectivity of the newest channel."""
        return self.newest.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state differs from an observed one, or another channel is opened."""
        waiting = [
            asyncio.ensure_future(self.newest.wait_for_state_change(last_observed_state)),
            asyncio.ensure_future(self._replaced.wait()),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def channel_ready(self) -> None:
        """Wait until the newest channel is connected."""
        await self.newest.channel_ready()

    def unary_unary(self, *method: Any, **options: Any) -> Any:
        """Return the callable of a method with one request and one response."""
        return self._callable("unary_unary", method, options)

    def unary_stream(self, *method: Any, **options: Any) -> Any:
        """Return the callable of a method with a stream of responses."""
        return self._callable("unary_stream", method, options)

    def stream_unary(self, *method: Any, **options: Any) -> Any:
        """Return the callable of a method with a stream of requests."""
        return self._callable("stream_unary", method, options)

    def stream_stream(self, *method: Any, **options: Any) -> Any:
        """Return the callable of a method with streams of both."""
        return self._callable("stream_stream", method, options)

    def _callable(self, kind: str, method: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Return a callable that is bound to a channel at each call; stubs keep it for ever."""
        bound: tuple[aio.Channel, Any] = (self._channel, None)

        def call(*arguments: Any, **given: Any) -> Any:
            nonlocal bound
            if (channel := self.newest) is not bound[0] or bound[1] is None:
                bound = (channel, getattr(channel, kind)(*method, **options))
            return bound[1](*arguments, **given)

        return call
