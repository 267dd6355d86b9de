"""Effects of feedback in a real Redis: dedupe, shares, samples, trust and quorum."""

from typing import Any

import pytest
import redis
from bem_fleet.feedback.event_store import Family
from bem_fleet.feedback.limits import ProcessorLimits, Quorum
from bem_fleet.feedback.record import FeedbackRecord
from fleet.errors import InvalidArgumentError
from fleet.testing import RedisServer

from tests.support.feedback import BOUNDLESS, consumer, intake, record, user


async def processed(
    server: RedisServer, records: list[FeedbackRecord], limits: ProcessorLimits = BOUNDLESS
) -> tuple[dict[str, int], dict[str, Family]]:
    """Send records, process them one after another, and return totals and families."""
    async with intake(server.url) as opened, consumer(server.url, limits=limits) as one:
        for each in records:
            await opened.submit(each)
            await one.round()
        names = await one.store.families()
        return await one.store.totals(), {name: await one.store.family(name) for name in names}


async def test_entry_becomes_an_event_and_leaves_the_queue(redis_server: RedisServer) -> None:
    """An event has the entry's id, the user, the content and the weight of a new user."""
    async with intake(redis_server.url) as opened, consumer(redis_server.url) as one:
        receipt = await opened.submit(record(1, rating="down"))
        await one.round()
        (name,) = await one.store.families()
        family = await one.store.family(name)
    with redis.from_url(redis_server.url) as store:
        left = (store.xlen("bem:feedback"), store.xpending("bem:feedback", "processor")["pending"])

    (event,) = family.events
    assert (event.identifier, event.user, event.weight) == (receipt.identifier, user(1), 0.5)
    assert (event.content["correction"], event.content["rating"]) == ("answer 1", "down")
    assert left == (0, 0)


async def test_same_content_of_a_user_is_one_event(redis_server: RedisServer) -> None:
    """A copy under another request is a duplicate; another user's same words are not."""
    copies = [record(1), record(1, request_id="r"), record(1, user=user(50))]
    totals, families = await processed(redis_server, copies)

    assert totals == {"accepted": 2, "duplicate": 1}
    assert [len(one.events) for one in families.values()] == [2]


async def test_user_has_a_share_of_a_family(redis_server: RedisServer) -> None:
    """More events of a user in a family than the share have no effect there."""
    limits = ProcessorLimits(user_share=2)
    records = [record(n, user=user(1), prompt="p") for n in range(4)]
    records.append(record(5, user=user(1), prompt="q"))
    totals, families = await processed(redis_server, records, limits)

    assert totals == {"accepted": 3, "surplus": 2}
    assert sorted(len(one.events) for one in families.values()) == [1, 2]


async def test_feedback_without_consent_only_counts(redis_server: RedisServer) -> None:
    """Thumbs are counted; there is no event, no user and no text."""
    thumbs = [FeedbackRecord("c", rating=one) for one in ("up", "up", "down")]
    totals, families = await processed(redis_server, thumbs)

    assert totals == {"unconsented": 3, "rated up": 2, "rated down": 1}
    assert families == {}


async def test_full_family_keeps_a_sample_that_no_order_changes(redis_server: RedisServer) -> None:
    """The kept events are those with the smallest hashes; indices name no removed event."""
    limits = ProcessorLimits(user_share=100, family_events=4)
    records = [record(n, user=user(n % 3), prompt="p") for n in range(12)]
    totals, families = await processed(redis_server, records, limits)
    (family,) = families.values()
    with redis.from_url(redis_server.url, decode_responses=True) as store:
        ranks = dict(store.zrange(f"bem:feedback:family:{family.name}", 0, -1, withscores=True))
        events = store.hkeys("bem:feedback:events")
        indexed = [i for n in range(3) for i in store.smembers(f"bem:feedback:entries:{user(n)}")]
        counts = store.hgetall(f"bem:feedback:users:{family.name}")

    kept = {event.identifier for event in family.events}
    assert (totals["accepted"], totals["removed"]) == (12, 8)
    assert kept == set(ranks) == set(events) == {i.removeprefix("e:") for i in indexed}
    assert sum(map(int, counts.values())) == 4


async def test_most_idle_family_makes_room(redis_server: RedisServer) -> None:
    """Above the number of families the one without news is removed, and counted."""
    limits = ProcessorLimits(families=2)
    records = [record(n, prompt=f"p{n}") for n in range(3)]
    async with intake(redis_server.url) as opened:
        for each in records[:2]:
            await opened.submit(each)
    async with consumer(redis_server.url, limits=limits) as one:
        await one.round()
        with redis.from_url(redis_server.url) as store:
            idle, other = await one.store.families()
            store.zadd("bem:feedback:families", {idle: 1})
        async with intake(redis_server.url) as opened:
            await opened.submit(records[2])
        await one.round()
        names, totals = await one.store.families(), await one.store.totals()

    assert idle not in names
    assert other in names
    assert len(names) == 2
    assert (totals["accepted"], totals["removed"]) == (3, 1)


@pytest.mark.parametrize(
    ("sources", "trust", "lacking"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 0.5, ""),
        ([1, 2, 3, 4, 5, 1, 2], 0.5, "events: 7"),
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.5, "users: 4"),
        ([1, 2, 3, 4, 5, 1, 2, 3], 0.2, "users: 0"),
    ],
)
async def test_change_needs_several_trusted_users(
    redis_server: RedisServer, sources: list[int], trust: float, lacking: str
) -> None:
    """By default 8 events of 5 users; what is missing is named."""
    records = [record(n, user=user(one), prompt="p") for n, one in enumerate(sources)]
    _, families = await processed(redis_server, records)
    (family,) = families.values()
    judged = Family(family.name, family.events, dict.fromkeys(family.trust, trust), 0)

    assert judged.shortfall(Quorum()).startswith(lacking)
    assert bool(judged.shortfall(Quorum())) == bool(lacking)


async def test_end_users_of_one_key_are_no_quorum(redis_server: RedisServer) -> None:
    """A client names its end users itself: they count as one, unless its operator says more."""
    records = [record(n, user=user(n, source=1), prompt="p") for n in range(9)]
    _, families = await processed(redis_server, records)
    (family,) = families.values()

    assert family.shortfall(Quorum()) == "users: 1; a change needs 5"
    assert family.shortfall(Quorum(users_per_source=5)) == ""


async def test_verdicts_change_the_trust_once_an_event(redis_server: RedisServer) -> None:
    """Trust is the mean of Beta(2 + agreed, 2 + disagreed); a second verdict changes nothing."""
    records = [record(n, user=user(n % 2), prompt="p") for n in range(6)]
    async with intake(redis_server.url) as opened, consumer(redis_server.url) as one:
        for each in records:
            await opened.submit(each)
        await one.round()
        (name,) = await one.store.families()
        events = (await one.store.family(name)).events
        settled = [await one.store.settle(e.identifier, agreed=e.user == user(0)) for e in events]
        again = [await one.store.settle(e.identifier, agreed=True) for e in events]
        unknown = await one.store.settle("1-0", agreed=True)
        family = await one.store.family(name)

    assert (settled, again, unknown) == ([True] * 6, [False] * 6, False)
    assert family.trust == {user(0): 5 / 7, user(1): 2 / 7}
    assert {event.weight for event in family.events} == {5 / 7, 2 / 7}


async def test_bad_family_name_is_refused(redis_server: RedisServer) -> None:
    """A family's name is no way to another key; an unknown one is empty."""
    arguments: dict[str, Any] = {"limits": BOUNDLESS}
    async with consumer(redis_server.url, **arguments) as one:
        with pytest.raises(InvalidArgumentError, match="family"):
            await one.store.family("x:events")
        empty = await one.store.family("x")

    assert (empty.events, empty.shortfall(Quorum())) == ((), "events: 0; a change needs 8")
