"""Replicas of a mission: a channel to each pod, chosen by affinity with bounded load.

A Service spreads connections, and a gateway keeps one: its calls would all reach one pod. The
gateway therefore resolves a headless Service and calls the pods. Calls with the same model and the
same beginning go to the same pod, which has the beginning in its prefix cache and the model's
adapter in its bank: the one that ranks first by rendezvous hashing (Thaler and Ravishankar, 1998),
so that a pod that comes or goes moves no other calls than its own. A pod with more than 1.25 times
its share of the calls in flight is passed over (consistent hashing with bounded loads,
arXiv:1608.01350), so that one popular beginning cannot overload one pod.

Name servers keep addresses for some seconds after a pod has ended. A call that no pod takes goes to
the Service, which knows the newest ones, and so does every call while there is one pod.

Example: three pods and 11 calls in flight. A twelfth may raise a pod to at most 1.25 x 12 / 3 = 5
calls. Its first pod has 5 and is passed over; the second has 3 and is called.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import hashlib
import math
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass

import grpc
from bem_fleet.services.gateway.canary_attempt import Call, Messages, call_messages
from fleet import logs
from fleet.closing_channels import ClosingChannels
from fleet.listening import tcp_endpoint
from grpc import aio
from prometheus_client import Counter, Gauge

LOAD_FACTOR = 1.25
RESOLVE_S = 2.0
"""Seconds between two looks at the addresses."""
REPLICAS = Gauge("bem_gateway_replicas", "Pods of a mission that the gateway calls.", ["mission"])
CALLS = Counter(
    "bem_gateway_replica_calls_total",
    "Calls of pods: affine, spilled (the first was busy) or retried (another was unavailable).",
    ["mission", "choice"],
)
_LOG = logs.get("gateway.replicas")
Resolve = Callable[[str], Awaitable[Collection[str]]]


async def resolve(target: str) -> Collection[str]:
    """Return the addresses ``ip:port`` behind a name.

    Args:
        target: ``host:port`` of a headless Service.

    Raises:
        OSError: The name cannot be resolved; that of a Service without ready pods, for one.
    """
    host, port = tcp_endpoint(target)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = {str(address[0]) for *_, address in found}
    return {f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts}


@dataclass
class Replica:
    """One pod.

    Attributes:
        address: ``ip:port``.
        channel: Channel to it.
        calls: Calls in flight.
    """

    address: str
    channel: aio.Channel
    calls: int = 0


class ReplicaSet:
    """Pods of one mission.

    Args:
        mission: Name of the mission.
        service: Channel to the mission's own Service.
        target: ``host:port`` of the headless Service.
        connect: Opens a channel to an address.
        grace_s: Longest wait for calls in flight on a pod that is gone, in seconds.
        resolve: Looks up addresses.
    """

    def __init__(
        self,
        mission: str,
        service: aio.Channel,
        target: str,
        connect: Callable[[str], aio.Channel],
        *,
        grace_s: float = 300.0,
        resolve: Resolve = resolve,
    ) -> None:
        self._mission, self._service = mission, service
        self._target, self._connect = target, connect
        self._grace_s, self._resolve = grace_s, resolve
        self._replicas: dict[str, Replica] = {}
        self._closing = ClosingChannels()
        self._problem = ""

    @property
    def addresses(self) -> Collection[str]:
        """Addresses of the pods that are called; none before the first look."""
        return self._replicas.keys()

    @property
    def is_spread(self) -> bool:
        """Whether there are pods to choose among."""
        return len(self._replicas) > 1

    async def watch(self) -> None:
        """Follow the addresses until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(RESOLVE_S)

    async def refresh(self) -> None:
        """Look the addresses up; while they cannot be, the last ones stay."""
        try:
            found = await self._resolve(self._target)
        except OSError as err:
            if str(err) != self._problem:
                _LOG.warning("replicas not resolved", mission=self._mission, reason=str(err))
            self._problem = str(err)
            return
        self._problem = ""
        for address in self._replicas.keys() - found:
            self._closing.add(self._replicas.pop(address).channel, self._grace_s)
        for address in found - self._replicas.keys():
            self._replicas[address] = Replica(address, self._connect(address))
        REPLICAS.labels(self._mission).set(len(self._replicas))

    async def messages(self, call: Call, timeout_s: float, key: str) -> Messages:
        """Call a pod and yield its messages; closing the iteration cancels the call.

        A pod that is unavailable before its first message is replaced by the next one, and the last
        one by the Service.

        Args:
            call: Call without side effects: it may reach two pods.
            timeout_s: Deadline over all pods, in seconds.
            key: Affinity key; calls with one key prefer one pod.

        Raises:
            grpc.RpcError: The call failed.
        """
        end, tried, has_begun = time.monotonic() + timeout_s, set[str](), False
        while True:
            replica = self._choose(key, tried)
            tried.add(replica.address)
            replica.calls += 1
            try:
                left = max(end - time.monotonic(), 0.001)
                async with aclosing(call_messages(replica.channel, call, left)) as messages:
                    async for message in messages:
                        has_begun = True
                        yield message
            except grpc.RpcError as err:
                is_last = replica.channel is self._service
                if has_begun or is_last or err.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                return
            finally:
                replica.calls -= 1

    def _choose(self, key: str, tried: Collection[str]) -> Replica:
        """Return the pod for a call, which was not tried before; after all pods, the Service."""
        left = [one for name, one in self._replicas.items() if name not in tried]
        if not left or not self.is_spread:
            return Replica(self._target, self._service)
        left.sort(key=lambda one: _rank(key, one.address))
        in_flight = sum(one.calls for one in self._replicas.values())
        bound = math.ceil(LOAD_FACTOR * (in_flight + 1) / len(self._replicas))
        least = min(left, key=lambda one: one.calls)
        chosen = next((one for one in left if one.calls < bound), least)
        choice = "retried" if tried else "affine" if chosen is left[0] else "spilled"
        CALLS.labels(self._mission, choice).inc()
        return chosen

    async def close(self) -> None:
        """Close the channels."""
        await self._closing.end()
        for replica in self._replicas.values():
            await replica.channel.close()


def _rank(key: str, address: str) -> bytes:
    return hashlib.blake2b(f"{key}\n{address}".encode(), digest_size=8).digest()
