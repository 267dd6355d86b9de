"""Dead letters on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from bem_fleet.feedback.dead_letters import MAX_BYTES, DeadLetters
from bem_fleet.feedback.limits import ProcessorLimits
from fleet.errors import NotFoundError
from fleet.testing import RedisServer

from tests.support.feedback import append, consumer, drain, everything, places, poison, record, user


@contextmanager
def dead_letters(server: RedisServer) -> Iterator[DeadLetters]:
    """Yield the dead letters of a server."""
    opened = DeadLetters(server.url, 100)
    yield opened
    opened.close()


async def test_poison_is_kept_with_its_reason(redis_server: RedisServer) -> None:
    """A bad entry is moved at its first delivery; the ones around it have their effect."""
    for number in (0, 2):
        append(redis_server.url, record(number).to_json(), user(number))
    bad = append(redis_server.url, poison(1), user(1))
    await drain(redis_server.url)
    with dead_letters(redis_server) as opened:
        (letter,) = await opened.page()

    assert (letter.entry, letter.deliveries, letter.user) == (bad, 1, user(1))
    assert letter.reason.startswith("rating: is none of")
    assert b"answer 1" in letter.body
    assert places(redis_server.url) == {"c0": 1, "c2": 1, "c1": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"Maria lives here",
        record(1, user="Maria").to_json().encode(),
        poison(1, edit="Maria " + "x" * MAX_BYTES).encode(),
        b"",
        b"\xff Maria",
    ],
    ids=["text", "no user", "large", "empty", "bytes"],
)
async def test_what_nobody_could_forget_is_not_kept(redis_server: RedisServer, body: bytes) -> None:
    """Without a user, or too large, an entry leaves its size and a reason, and no text."""
    append(redis_server.url, body)
    await drain(redis_server.url)
    with dead_letters(redis_server) as opened:
        (letter,) = await opened.page()
        with pytest.raises(NotFoundError, match="discard"):
            await opened.requeue(letter.identifier)
        await opened.discard(letter.identifier)
        rest = await opened.page()
        with pytest.raises(NotFoundError, match="does not exist"):
            await opened.discard(letter.identifier)

    assert (letter.body, letter.size) == (b"", len(body))
    assert rest == []
    assert not [text for text in everything(redis_server.url) if "Maria" in text]


async def test_requeued_letter_is_processed_again_once(redis_server: RedisServer) -> None:
    """After a repair a letter goes back once; a second call says that it is gone."""
    append(redis_server.url, record(1).to_json(), user(1))
    limits = ProcessorLimits(deliveries=1)
    await drain(redis_server.url, family_of=lambda _: "A B", limits=limits)
    with dead_letters(redis_server) as opened:
        (letter,) = await opened.page()
        await opened.requeue(letter.identifier)
        with pytest.raises(NotFoundError, match="does not exist"):
            await opened.requeue(letter.identifier)
    await drain(redis_server.url)
    async with consumer(redis_server.url) as one:
        totals = await one.store.totals()

    assert letter.reason == "processing: ValueError at each of 1 deliveries"
    assert totals == {"dead": 1, "requeued": 1, "accepted": 1}
    assert places(redis_server.url) == {"c1": 1}


async def test_full_dead_letters_keep_poison_in_the_queue(redis_server: RedisServer) -> None:
    """Nothing is trimmed: what does not fit waits, with its reason, until there is room."""
    for number in range(3):
        append(redis_server.url, poison(number), user(number))
    append(redis_server.url, record(9).to_json(), user(9))
    limits = ProcessorLimits(dead_letters=2)
    await drain(redis_server.url, limits=limits)
    with dead_letters(redis_server) as opened, redis.from_url(redis_server.url) as store:
        full = (await opened.page(), store.xlen("bem:feedback"))
        await opened.discard(full[0][0].identifier)
        pending = store.xpending_range("bem:feedback", "processor", "-", "+", 9)
        store.xclaim("bem:feedback", "processor", "gone", 0, [pending[0]["message_id"]], idle=9999)
        await drain(redis_server.url, limits=limits)
        letters, left = await opened.page(), store.xlen("bem:feedback")
        paged = await opened.page(letters[0].identifier, 5)

    assert (len(full[0]), full[1], len(letters), left) == (2, 1, 2, 0)
    assert all(letter.reason.startswith("rating:") for letter in letters)
    assert paged == letters[1:]
    assert places(redis_server.url)["c9"] == 1
