"""Asks both sides of a canary the same question."""

from __future__ import annotations  # the typed stub exists in the stubs only

from dataclasses import dataclass

import grpc
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet import logs
from fleet.clients import open_channel
from grpc import aio

_LOG = logs.get("validation.probing")
_TOKENS = 64


@dataclass(frozen=True)
class Probe:
    """A question with known answers.

    Attributes:
        prompt: What is asked.
        answers: Any of these is right.
    """

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """Where one side answers.

    Attributes:
        address: ``host:port`` of its MissionService.
        model: Model name to ask for; empty is the base model.
    """

    address: str
    model: str


class Prober:
    """Keeps a channel to each side.

    Args:
        timeout_s: Of one answer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._channels: dict[str, aio.Channel] = {}

    async def answer(self, side: Side, prompt: str) -> str | None:
        """Return the greedy answer of one side, None if there is none."""
        channel = self._channels.setdefault(side.address, open_channel(side.address))
        request = pb.ProbeRequest(model=side.model, prompt=prompt, max_tokens=_TOKENS)
        try:
            answer = await rpc.MissionServiceStub(channel).Probe(request, timeout=self._timeout_s)
        except grpc.RpcError as err:
            _LOG.info("no answer to a probe", side=side.address, reason=str(err)[:200])
            return None
        return str(answer.text)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()
