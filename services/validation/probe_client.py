"""Probe client: sends prompts to a mission's MissionService."""

from __future__ import annotations  # the typed stub exists in the stubs only

from dataclasses import dataclass

import grpc
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet import logs
from fleet.access.own_key import OwnKey
from fleet.certificates import CertificateFolder
from fleet.clients import open_channel
from grpc import aio

_LOG = logs.get("validation.probe_client")
_MAX_TOKENS = 64


@dataclass(frozen=True)
class ProbeTarget:
    """One track of a canary.

    Attributes:
        address: Address of its MissionService, ``host:port`` or ``unix:/path``.
        model: Adapter or base model of the requests; empty is the base model.
    """

    address: str
    model: str


class ProbeClient:
    """Sends probes; keeps one channel per address.

    Args:
        timeout_s: Timeout of one answer, in seconds.
        own_key: Key of the validation service.
        certificates: Certificate of the validation service for TLS; None for plain connections.
    """

    def __init__(
        self, timeout_s: float, own_key: OwnKey, certificates: CertificateFolder | None = None
    ) -> None:
        self._timeout_s, self._own_key, self._certificates = timeout_s, own_key, certificates
        self._channels: dict[str, aio.Channel] = {}

    async def answer(self, target: ProbeTarget, prompt: str) -> str | None:
        """Return the greedy answer of one track; None if there is none."""
        channel = self._channel(target.address)
        request = pb.ProbeRequest(model=target.model, prompt=prompt, max_tokens=_MAX_TOKENS)
        stub = rpc.MissionServiceStub(channel)
        try:
            response = await stub.Probe(
                request, timeout=self._timeout_s, metadata=self._own_key.metadata()
            )
        except grpc.RpcError as err:
            _LOG.info("probe not answered", address=target.address, reason=str(err)[:200])
            return None
        return str(response.text)

    def _channel(self, address: str) -> aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address, certificates=self._certificates)
        return self._channels[address]

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()
