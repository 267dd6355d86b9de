"""Forgetting of a user on a real Redis: nothing of the user is left in any place."""

import hmac
from pathlib import Path

import pytest
import redis
from bem_fleet.feedback.forgetting import Forgetter, Forgetting, Lineage
from bem_fleet.feedback.processor import effect_of, family_by_prompt
from fleet.errors import FailedPreconditionError, InvalidArgumentError
from fleet.testing import RedisServer

from tests.support.feedback import (
    append,
    consumer,
    drain,
    everything,
    intake,
    places,
    poison,
    record,
    user,
)

MARIA, OTHER = user(0xABCDEF), user(2)
TEXTS = ("Zanzibar", "Ouagadougou", "Reykjavik")


def opaque(text: str) -> str:
    """Return an idempotency key in the form in which the scrubber makes it, a keyed hash."""
    return hmac.digest(b"k", text.encode(), "sha256").hex()


async def fill(server: RedisServer) -> None:
    """Give a user and another one an event with a verdict, a dead letter and a queued entry."""
    async with intake(server.url) as opened, consumer(server.url) as one:
        for name, texts in ((MARIA, TEXTS), (OTHER, ("Rome", "Paris", "Oslo"))):
            await opened.submit(record(1, user=name, correction=texts[0], prompt="p"), opaque(name))
            await one.round()
            append(server.url, poison(2, user=name, edit=texts[1]), name)
            await one.round()
        family = await one.store.family((await one.store.families())[0])
        for event in family.events:
            await one.store.settle(event.identifier, agreed=True)
        for name, texts in ((MARIA, TEXTS), (OTHER, ("Rome", "Paris", "Oslo"))):
            await opened.submit(record(3, user=name, comment=texts[2]), opaque(f"{name} 3"))


def mentions(server: RedisServer, *words: str) -> list[str]:
    """Return the keys and values of all of Redis that contain one of the words."""
    return [text for text in everything(server.url) if any(word in text for word in words)]


async def test_nothing_of_a_user_is_left(redis_server: RedisServer) -> None:
    """A search of all of Redis finds neither texts nor pseudonym; other users keep everything."""
    await fill(redis_server)
    before = mentions(redis_server, MARIA, *TEXTS)
    forgetter = Forgetter(redis_server.url)
    done = await forgetter.forget(MARIA)
    again = await forgetter.forget(MARIA)
    forgetter.close()

    assert len(before) > 6
    assert (done, again) == (Forgetting(1, 1, 1, 1), Forgetting(2, 0, 0, 0))
    assert mentions(redis_server, MARIA, *TEXTS) == []
    assert mentions(redis_server, "Rome") != []
    assert mentions(redis_server, "Paris") != []
    assert mentions(redis_server, "Oslo") != []
    assert places(redis_server.url) == {"c1": 1, "c2": 1, "c3": 1}


async def test_file_of_redis_is_written_anew(redis_server: RedisServer, tmp_path: Path) -> None:
    """The append-only file has the texts until it is rewritten, and then it has not."""

    def on_disk(word: str) -> bool:
        files = [one for one in (tmp_path / "redis").rglob("*") if one.is_file()]
        return any(word.encode() in one.read_bytes() for one in files)

    await fill(redis_server)
    forgetter = Forgetter(redis_server.url)
    await forgetter.forget(MARIA)
    before = [on_disk(word) for word in (MARIA, *TEXTS)]
    await forgetter.rewrite_file()
    forgetter.close()

    assert before == [True] * 4
    assert not any(on_disk(word) for word in (MARIA, *TEXTS))
    assert on_disk("Rome")


async def test_entry_being_processed_has_no_effect(redis_server: RedisServer) -> None:
    """A consumer that read an entry before the user was forgotten finds it gone."""
    async with intake(redis_server.url) as opened, consumer(redis_server.url) as one:
        await one.round()
        receipt = await opened.submit(record(1, user=MARIA))
        with redis.Redis.from_url(redis_server.url) as store:
            store.xreadgroup("processor", "slow", {"bem:feedback": ">"})
        forgetter = Forgetter(redis_server.url)
        done = await forgetter.forget(MARIA)
        forgetter.close()
        written = record(1, user=MARIA)
        effect = effect_of(receipt.identifier, written, family_by_prompt(written))
        applied = await one.store.apply(receipt.identifier, effect)
        buried = await one.dead_letters.bury(
            receipt.identifier, record(1, user=MARIA).to_json().encode(), "late", 1
        )

    assert (done.queued, applied, buried) == (1, "superseded", "superseded")
    assert mentions(redis_server, MARIA) == []


async def test_version_with_forgotten_events_is_refused(redis_server: RedisServer) -> None:
    """A lineage read before a forgetting is refused by it; one made without the user is not."""
    await fill(redis_server)
    forgetter = Forgetter(redis_server.url)
    async with consumer(redis_server.url) as one:
        (name,) = await one.store.families()
        old = Lineage.of([await one.store.family(name)])
        kept = await forgetter.check_lineage(old)
        await forgetter.forget(MARIA)
        with pytest.raises(FailedPreconditionError, match="1 of its 2 events were forgotten"):
            await forgetter.check_lineage(old)
        new = Lineage.of([await one.store.family(name)])
        honoured = await forgetter.check_lineage(new)
    forgetter.close()

    assert (kept.forgotten, new.forgotten, honoured) == (0, 1, new)
    assert new.events < old.events
    assert len(new.events) == 1


async def test_forgotten_user_may_come_back(redis_server: RedisServer) -> None:
    """Later feedback is new: the same words are no duplicate, and trust begins anew."""
    await fill(redis_server)
    forgetter = Forgetter(redis_server.url)
    await forgetter.forget(MARIA)
    forgetter.close()
    async with intake(redis_server.url) as opened:
        await opened.submit(record(1, user=MARIA, correction=TEXTS[0], prompt="p"))
    await drain(redis_server.url)

    assert len(mentions(redis_server, TEXTS[0])) == 1


async def test_malformed_pseudonym_is_refused(redis_server: RedisServer) -> None:
    """A name that is no pseudonym would forget nobody."""
    forgetter = Forgetter(redis_server.url)
    with pytest.raises(InvalidArgumentError, match="user: is no pseudonym"):
        await forgetter.forget("maria")
    forgetter.close()
