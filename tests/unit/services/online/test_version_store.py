"""Versions in a real Redis."""

from __future__ import annotations

import asyncio

import pytest
import redis
import torch
from bem.errors import ArtifactTamperedError
from bem.online.codebook import Codebook, make_condition
from bem_fleet.services.online.version_record import VersionState
from fleet.errors import FailedPreconditionError, NotFoundError
from fleet.testing import RedisServer

from tests.unit.services.online.hosts import FAMILY, bank, code, record, version_store


def book(seed: int = 0) -> Codebook:
    """Return a codebook with one condition."""
    keys = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
    return bank().empty_codebook().with_condition(make_condition(FAMILY, keys, code(seed)))


async def test_version_is_read_back_bit_for_bit(redis_server: RedisServer) -> None:
    """Numbers rise, the first version's parent is the base, and codes have the same bits."""
    async with version_store(redis_server) as store:
        first = await store.add(record(), book(0))
        second = await store.add(record(parent=1), book(1))
        read = await store.codebook(1)
        listed = await store.records()
        missing = [store.codebook(9), store.record(9)]
        for call in missing:
            with pytest.raises(NotFoundError, match="version: "):
                await call
        empty = await store.codebook(0)

    assert (first.number, second.number, second.parent) == (1, 2, 1)
    assert [one.digest for one in listed] == [first.digest, second.digest]
    assert torch.equal(read[FAMILY].code, code(0))
    assert read.threshold == book(0).threshold
    assert not empty.conditions


async def test_edited_version_is_refused(redis_server: RedisServer) -> None:
    """Bytes that were changed in Redis are not served."""
    async with version_store(redis_server) as store:
        await store.add(record(), book())
        with redis.Redis.from_url(redis_server.url) as client:
            tensors = bytearray(client.hget("bem:online:tensors", "1") or b"")
            tensors[-1] ^= 1
            client.hset("bem:online:tensors", "1", bytes(tensors))
        with pytest.raises(ArtifactTamperedError):
            await store.codebook(1)


async def test_switch_needs_the_state_that_was_looked_at(redis_server: RedisServer) -> None:
    """Another live version, or a forgetting meanwhile, changes nothing."""
    async with version_store(redis_server) as store:
        made = await store.add(record(), book())
        live = made.decided("promote", "ann", "x", VersionState.LIVE)
        with pytest.raises(FailedPreconditionError, match="5 is not live any more"):
            await store.switch(1, live, expected=5)
        with redis.Redis.from_url(redis_server.url) as client:
            client.set("bem:feedback:forgotten", 3)
        with pytest.raises(FailedPreconditionError, match="forgotten meanwhile"):
            await store.switch(1, live, expected=0, forgotten=2)
        before = await store.live()
        await store.switch(1, live, expected=0, forgotten=3)

        assert (before, await store.live()) == (0, 1)
        assert (await store.record(1)).state is VersionState.LIVE


async def test_withdrawn_version_has_no_codes(redis_server: RedisServer) -> None:
    """The record stays and says why; the bytes are gone."""
    async with version_store(redis_server) as store:
        await store.withdraw(await store.add(record(), book()), "because")
        with pytest.raises(NotFoundError, match="1 has no codes"):
            await store.codebook(1)
        assert (await store.record(1)).history[-1].reason == "because"


async def test_one_process_holds_the_lease(redis_server: RedisServer) -> None:
    """A second one gets it when the first does not renew it any more; holding is stored too."""
    async with version_store(redis_server) as store:
        assert await store.lease("a", 0.2)
        assert not await store.lease("b", 0.2)
        assert await store.lease("a", 0.2)
        await asyncio.sleep(0.3)
        assert await store.lease("b", 0.2)
        assert not await store.is_held()
        await store.hold(held=True)
        assert await store.is_held()
