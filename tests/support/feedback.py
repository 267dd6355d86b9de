"""Feedback for tests: records, consumers, and where each piece of feedback ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import redis
from bem_fleet.feedback.consumer import ConsumerTiming, FeedbackConsumer
from bem_fleet.feedback.intake import FeedbackIntake
from bem_fleet.feedback.limits import IntakeLimits, ProcessorLimits
from bem_fleet.feedback.record import FeedbackRecord

BOUNDLESS = ProcessorLimits(user_share=10**6, family_events=10**6)
"""Limits under which every record has an event."""

QUICK = ConsumerTiming(batch=16, block_s=0.05, claim_idle_s=1.0, upkeep_s=0.1)
"""Rounds that take over entries after a second."""


def user(number: int, source: int | None = None) -> str:
    """Return the pseudonym of a user, of an API key of its own unless one is given."""
    return f"{number if source is None else source:032x}-{number:032x}"


def record(number: int, **fields: Any) -> FeedbackRecord:
    """Return feedback with consent that differs from that of every other number."""
    given: dict[str, Any] = {"user": user(number % 7), "correction": f"answer {number}"}
    given |= {"prompt": f"question {number % 5}", "consent": True}
    return FeedbackRecord(completion_id=f"c{number}", **{**given, **fields})


@asynccontextmanager
async def intake(url: str, limits: IntakeLimits | None = None) -> AsyncIterator[FeedbackIntake]:
    """Yield an intake that is closed at the end."""
    opened = FeedbackIntake(url, limits)
    try:
        yield opened
    finally:
        opened.close()


@asynccontextmanager
async def consumer(url: str, **arguments: Any) -> AsyncIterator[FeedbackConsumer]:
    """Yield a consumer of quick rounds that is closed at the end."""
    opened = FeedbackConsumer(url, **{"limits": BOUNDLESS, "timing": QUICK, **arguments})
    try:
        yield opened
    finally:
        opened.close()


def append(url: str, body: str | bytes, name: str = "") -> str:
    """Append an entry past the intake, as another version's writer would; return its id."""
    with redis.Redis.from_url(url) as store:
        identifier: bytes = store.xadd("bem:feedback", {"v": 2})
        store.hset("bem:feedback:bodies", identifier, body)
        if name:
            store.sadd(f"bem:feedback:entries:{name}", b"q:" + identifier)
    return identifier.decode()


def poison(number: int, **fields: Any) -> str:
    """Return a body with a rating that does not exist."""
    return record(number, rating="sideways", **fields).to_json()


async def drain(url: str, **arguments: Any) -> None:
    """Process the queue until it is empty."""
    async with consumer(url, **arguments) as one:
        while await one.round():
            pass


def places(url: str) -> Counter[str]:
    """Return how often each completion is in Redis: as an event, a dead letter or in the queue."""
    with redis.Redis.from_url(url, decode_responses=True) as store:
        kept = [store.hvals(f"bem:feedback:{name}") for name in ("events", "dead-bodies", "bodies")]
        return Counter(_between(text, '"completion_id": "') for texts in kept for text in texts)


def _between(text: str, start: str) -> str:
    return text.partition(start)[2].partition('"')[0]


def everything(url: str) -> Iterator[str]:
    """Yield every key of Redis and every value in it, pending lists of consumers included."""
    options = {"decode_responses": True, "encoding_errors": "replace"}  # some values are binary
    with redis.Redis.from_url(url, **options) as store:
        readers: dict[str, Any] = {
            "string": store.get,
            "hash": store.hgetall,
            "set": store.smembers,
            "zset": lambda key: store.zrange(key, 0, -1, withscores=True),
            "list": lambda key: store.lrange(key, 0, -1),
            "stream": lambda key: (store.xrange(key), store.xinfo_stream(key, full=True)),
        }
        for key in store.scan_iter("*"):
            yield key
            yield repr(readers[store.type(key)](key))
