"""Probe client: sends prompts to a mission's MissionService."""

from __future__ import annotations  # the typed stub exists in the stubs only

from dataclasses import dataclass

import grpc
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet import logs
from fleet.access.own_key import OwnKey
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
    """

    def __init__(self, timeout_s: float, own_key: OwnKey) -> None:
        self._timeout_s, self._own_key = timeout_s, own_key
        self._channels: dict[str, aio.Channel] = {}

    async def answer(self, target: ProbeTarget, prompt: str) -> str | None:
        """Return the greedy answer of one track; None if there is none."""
        channel = self._channels.setdefault(target.address, open_channel(target.address))
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

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()
