"""Access of the feedback queue's users on a real Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from bem_fleet.descriptors import load_descriptors
from bem_fleet.feedback.forgetting import Forgetter
from bem_fleet.feedback.limits import ProcessorLimits
from bem_fleet.feedback.redis_keys import INTAKE_ACCESS, PROCESSOR_ACCESS
from bem_fleet.services.gateway.responses_store import RESPONSE_ACCESS
from fleet.redis_acl import acl_file
from fleet.testing import RedisServer
from redis.exceptions import NoPermissionError

from tests.support.feedback import append, consumer, intake, poison, record, user

RULES = {"gateway": INTAKE_ACCESS.rules, "online": PROCESSOR_ACCESS.rules}


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[dict[str, str]]:
    """URLs of a Redis with both users."""
    (tmp_path / "data").mkdir()
    (tmp_path / "users").write_text(acl_file(RULES, dict.fromkeys(RULES, "x")))
    server = RedisServer(tmp_path / "data", tmp_path / "users")
    server.start()
    yield {name: server.url.replace("//", f"//{name}:x@") for name in RULES}
    server.kill()


async def test_each_user_can_do_all_of_its_work(urls: dict[str, str]) -> None:
    """Every script and command passes: effects, samples, dead letters, trust, forgetting."""
    limits = ProcessorLimits(family_events=1, families=1, user_share=1, dead_letters=5)
    async with intake(urls["gateway"]) as opened:
        await opened.ping()
        for number in range(3):
            await opened.submit(record(number, prompt="p"), f"k{number}")
        await opened.submit(record(0, prompt="p", correction="other"))
        await opened.submit(record(9, prompt="q", user=user(3)))
    forgetter = Forgetter(urls["online"])
    async with consumer(urls["online"], limits=limits) as one:
        while await one.round():
            pass
        totals = await one.store.totals()
        (name,) = await one.store.families()
        (event,) = (await one.store.family(name)).events
        settled = await one.store.settle(event.identifier, agreed=False)
        for number in range(2):
            append(urls["online"], poison(number), user(number))
        await one.round()
        first, second = await one.dead_letters.page()
        await one.dead_letters.discard(first.identifier)
        await one.dead_letters.requeue(second.identifier)
        done = await forgetter.forget(event.user)
        await forgetter.rewrite_file()
    forgetter.close()

    assert totals["accepted"] >= 4
    assert totals["removed"] == totals["accepted"] - 1
    assert settled
    assert done.events == 1


def test_gateway_cannot_read_what_became_of_feedback(urls: dict[str, str]) -> None:
    """It appends; entries, events, trust and dead letters are not its to read."""
    with redis.Redis.from_url(urls["gateway"]) as store:
        for words in (
            ("XRANGE", "bem:feedback", "-", "+"),
            ("GET", "bem:feedback:events"),
            ("HGET", "bem:feedback:bodies", "1-0"),
            ("XADD", "bem:feedback:dead", "*", "a", "b"),
            ("DEL", "bem:feedback"),
        ):
            with pytest.raises(NoPermissionError):
                store.execute_command(*words)


def test_descriptor_of_the_gateway_says_the_same() -> None:
    """services/gateway/service.yaml has the access of the intake, and no more of feedback."""
    (gateway,) = (one for one in load_descriptors() if one.name == "gateway")
    assert gateway.redis is not None
    keys = {key for key in gateway.redis.keys if key.startswith("bem:feedback")}

    assert keys == set(INTAKE_ACCESS.keys)
    assert set(gateway.redis.commands) == {*INTAKE_ACCESS.commands, *RESPONSE_ACCESS.commands}
    assert set(RESPONSE_ACCESS.keys) <= set(gateway.redis.keys)
