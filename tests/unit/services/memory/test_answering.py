"""Memory host: evidence, thresholds, readers, and a model that loads."""

from dataclasses import replace
from typing import Any

import pytest
from bem.errors import InvalidRequestError
from bem_fleet.services.memory.answering import Inquiry, MemoryHolder
from bem_fleet.services.memory.ingestion import Ingestion, ingest
from fleet.errors import NotFoundError, UnavailableError
from fleet.testing import RedisServer

from tests.unit.bem.memory.sessions import haystack
from tests.unit.services.memory.hosts import KEY, host_of, parts, stored

INQUIRY = Inquiry(KEY, "What is the code of Rina?", hops=2, threshold=0.5)
WORK = Ingestion(KEY, "book", 0, 2**20, 10**6)


async def test_fact_is_found_and_read(redis_server: RedisServer) -> None:
    """The evidence reaches the named reader with the question, and the default one otherwise."""
    async with stored(redis_server) as store:
        host = host_of(store)
        texts = parts(haystack(50), "The code of Rina is 4711.\n", None)
        assert len([one async for one in ingest(host, WORK, texts)]) == 3
        found = await host.find(INQUIRY)
        unknown = await host.find(replace(INQUIRY, question="What is the wage of Boris?"))
        answer = await host.answer(found, "Q?", model="", max_tokens=5, deadline=None)
        named = await host.answer(found, "Q?", model="own", max_tokens=5, deadline=None)
        engine: Any = host.engine

    assert found.found
    assert not unknown.found
    assert "The code of Rina is 4711." in answer.text
    assert (answer.model_version, named.model_version) == ("reader", "own")
    assert engine.options["max_tokens"] == 5


async def test_wrong_inquiries_are_the_callers_errors(redis_server: RedisServer) -> None:
    """Hops out of range, an empty question and an unknown session are named."""
    async with stored(redis_server) as store:
        host = host_of(store)
        with pytest.raises(InvalidRequestError, match="hops: 3 is out of range"):
            await host.find(replace(INQUIRY, hops=3))
        with pytest.raises(InvalidRequestError, match="question: has 0 tokens"):
            await host.find(replace(INQUIRY, question=" "))
        with pytest.raises(NotFoundError, match="'notes' does not exist"):
            await host.find(INQUIRY)


def test_loading_model_is_unavailable() -> None:
    """Before the model is loaded callers are told to retry."""
    with pytest.raises(UnavailableError, match="still loading"):
        MemoryHolder().get()
