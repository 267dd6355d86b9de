"""Choice of a mission's pods: affinity, bounded load, pods that come and go; over real servers."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.canary_attempt import Call
from bem_fleet.services.gateway.replicas import LOAD_FACTOR, ReplicaSet, resolve
from fleet.clients import open_channel
from grpc import aio

from tests.support.waiting import eventually

CALL = Call("/test.Echo/Say", b"hello", streams=True, timeout_s=10, metadata=())


class Pod(grpc.GenericRpcHandler):
    """Server of one pod: it answers with its name, and holds answers back while told to."""

    def __init__(self, name: str) -> None:
        self.name, self.calls, self.server = name, 0, aio.server()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: grpc.StatusCode | None = None
        self.server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def service(self, _details: Any) -> Any:
        """Return the handler of every method."""
        return grpc.unary_stream_rpc_method_handler(self._say)

    async def _say(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.calls += 1
        if self.error:
            await context.abort(self.error, "not now")
        await self.may_answer.wait()
        yield self.name.encode()
        yield b"."


@asynccontextmanager
async def pods(count: int) -> AsyncIterator[tuple[ReplicaSet, list[Pod]]]:
    """Run pods and a replica set whose look-up finds those that are in the list."""
    running = [Pod(str(number)) for number in range(count)]
    everything = list(running)
    for pod in everything:
        await pod.server.start()

    async def look_up(_target: str) -> Collection[str]:
        return {pod.address for pod in running}

    # The Service is the first pod.
    service = open_channel(everything[0].address)
    replicas = ReplicaSet("router", service, "pods:1", open_channel, grace_s=5, resolve=look_up)
    await replicas.refresh()
    try:
        yield replicas, running
    finally:
        await replicas.close()
        await service.close()
        for pod in everything:
            await pod.server.stop(0)


async def answer(replicas: ReplicaSet, key: str) -> str:
    """Return the name of the pod that answers a call."""
    async with aclosing(replicas.messages(CALL, 10, key)) as messages:
        return b"".join([message async for message in messages]).decode()


async def test_calls_with_one_key_reach_one_pod_and_keys_are_spread() -> None:
    """Each of three pods has its share of 60 keys, and the same keys again."""
    async with pods(3) as (replicas, _):
        first = {str(key): await answer(replicas, str(key)) for key in range(60)}
        again = {str(key): await answer(replicas, str(key)) for key in range(60)}
    shares = Counter(first.values())

    assert first == again
    assert set(shares) == {"0.", "1.", "2."}
    assert min(shares.values()) > 8


async def test_a_pod_that_is_gone_moves_its_own_keys_only() -> None:
    """The others keep their prefix caches; a pod that comes takes some keys from each."""
    async with pods(3) as (replicas, running):
        before = {str(key): await answer(replicas, str(key)) for key in range(40)}
        gone = running.pop()
        await replicas.refresh()
        without = {str(key): await answer(replicas, str(key)) for key in range(40)}
        running.append(gone)
        await replicas.refresh()
        after = {str(key): await answer(replicas, str(key)) for key in range(40)}
    moved = {key for key in before if before[key] != without[key]}

    assert moved == {key for key in before if before[key] == f"{gone.name}."}
    assert after == before


async def test_one_popular_key_cannot_overload_a_pod() -> None:
    """Of 16 calls at once no pod has more than 1.25 times its share."""
    async with pods(4) as (replicas, running):
        for pod in running:
            pod.may_answer.clear()
        calls = [asyncio.create_task(answer(replicas, "popular")) for _ in range(16)]
        await eventually(lambda: sum(pod.calls for pod in running) == 16, 10)
        loads = sorted(pod.calls for pod in running)
        for pod in running:
            pod.may_answer.set()
        await asyncio.gather(*calls)
        alone = await answer(replicas, "popular")

    assert loads[-1] == math.ceil(LOAD_FACTOR * 16 / 4)
    assert loads[0] > 0
    assert running[int(alone[0])].calls == loads[-1] + 1


@pytest.mark.parametrize("failure", ["refused", "dead"])
async def test_an_unavailable_pod_is_replaced_before_its_first_message(failure: str) -> None:
    """It may refuse, or be gone while its address is still known."""
    async with pods(2) as (replicas, running):
        preferred = running[int((await answer(replicas, "key"))[0])]
        if failure == "refused":
            preferred.error = grpc.StatusCode.UNAVAILABLE
        else:
            await preferred.server.stop(0)
        other = await answer(replicas, "key")

    assert other != f"{preferred.name}."


async def test_service_is_called_where_no_pod_is_known_or_left() -> None:
    """Before the first look, with one pod, and while the name has ended pods only."""
    async with pods(3) as (replicas, running):
        service, ended = running[0], running[1:]
        replicas._replicas.clear()
        unknown = await answer(replicas, "key")
        running[:] = [ended[0]]
        await replicas.refresh()
        single = await answer(replicas, "key")
        running[:] = ended
        await replicas.refresh()
        for pod in ended:
            await pod.server.stop(0)
        left = await answer(replicas, "key")

    assert {unknown, single, left} == {"0."}
    assert service.calls == 3


async def test_other_errors_and_the_last_pods_are_the_clients() -> None:
    """An error that another pod would repeat is not tried twice."""
    async with pods(2) as (replicas, running):
        for code, tried in (
            (grpc.StatusCode.INVALID_ARGUMENT, 1),
            (grpc.StatusCode.UNAVAILABLE, 3),  # the Service is asked last
        ):
            before = sum(pod.calls for pod in running)
            for pod in running:
                pod.error = code
            with pytest.raises(grpc.RpcError) as raised:
                await answer(replicas, "key")

            assert raised.value.code() is code
            assert sum(pod.calls for pod in running) - before == tried


async def test_closing_a_call_frees_its_pod() -> None:
    """A client that leaves does not count as load for ever."""
    async with pods(2) as (replicas, running):
        for _ in range(8):
            async with aclosing(replicas.messages(CALL, 10, "key")) as messages:
                await anext(messages)
        names = {await answer(replicas, "key") for _ in range(3)}

    assert len(names) == 1
    assert sorted(pod.calls for pod in running) == [0, 11]


async def test_last_addresses_stay_while_the_name_cannot_be_resolved() -> None:
    """A name server that is away takes no pod away."""
    async with pods(2) as (replicas, _):
        known = set(replicas.addresses)

        async def fail(_target: str) -> Collection[str]:
            raise OSError("Name or service not known")

        replicas._resolve = fail
        await replicas.refresh()

        assert set(replicas.addresses) == known


async def test_names_are_resolved_to_addresses_with_the_port() -> None:
    """An address of IPv6 is in brackets."""
    assert "127.0.0.1:80" in await resolve("localhost:80")
    assert await resolve("[::1]:81") == {"[::1]:81"}
    with pytest.raises(OSError, match=r"known|resolution"):
        await resolve("pods.invalid:80")
