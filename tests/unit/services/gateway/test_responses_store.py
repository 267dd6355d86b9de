"""Stored responses on a real Redis, with the rights of the gateway's own user."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from bem_fleet.services.gateway.responses_store import (
    RESPONSE_ACCESS,
    ResponseStore,
    StoredResponse,
)
from fleet.access import Principal, Role
from fleet.errors import UnavailableError
from fleet.redis_acl import acl_file
from fleet.testing import RedisServer

WEB, OTHER = Principal("web", Role.USER, "acme"), Principal("web", Role.USER, "globex")
STORED = StoredResponse(
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    {"id": "resp_1"},
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """URL of a Redis whose only user has the access that the store states."""
    (tmp_path / "acl").write_text(acl_file({"gateway": RESPONSE_ACCESS.rules}, {"gateway": "p"}))
    server = RedisServer(tmp_path, tmp_path / "acl")
    server.start()
    yield server.url.replace("redis://", "redis://gateway:p@")
    server.kill()


async def test_responses_are_found_by_their_own_key_only(url: str) -> None:
    """The same id under the same name in another tenant is another response."""
    store = ResponseStore(url, ttl_s=60, kept=8)
    await store.add(WEB, "resp_1", STORED)

    assert await store.find(WEB, "resp_1") == STORED
    assert await store.find(OTHER, "resp_1") is None
    assert await store.find(WEB, "resp_2") is None
    assert not await store.remove(OTHER, "resp_1")
    assert await store.remove(WEB, "resp_1")
    assert await store.find(WEB, "resp_1") is None
    store.close()


async def test_oldest_response_makes_room_and_all_end(url: str) -> None:
    """A client cannot fill Redis, and what it said is not kept for ever."""
    store, brief = ResponseStore(url, ttl_s=60, kept=2), ResponseStore(url, ttl_s=1, kept=2)
    for number in range(3):
        await store.add(WEB, f"resp_{number}", STORED)
    found = [await store.find(WEB, f"resp_{number}") for number in range(3)]
    await brief.add(WEB, "resp_brief", STORED)
    await asyncio.sleep(1.2)  # Redis's own clock ends it

    assert found[0] is None
    assert found[1:] == [STORED, STORED]
    assert await brief.find(WEB, "resp_brief") is None
    store.close()
    brief.close()


async def test_without_a_time_nothing_is_kept() -> None:
    """Nor is Redis asked."""
    store = ResponseStore("redis://127.0.0.1:1/0", ttl_s=0, kept=2)

    assert not store.enabled
    assert await store.find(WEB, "resp_1") is None
    assert not await store.remove(WEB, "resp_1")
    store.close()


async def test_a_store_without_redis_says_so() -> None:
    """Not found would be another answer."""
    store = ResponseStore("redis://127.0.0.1:1/0", ttl_s=60, kept=2)
    with pytest.raises(UnavailableError):
        await store.find(WEB, "resp_1")
    store.close()
