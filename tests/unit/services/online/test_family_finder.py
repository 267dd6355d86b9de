"""Families of feedback by the states of prompts."""

from __future__ import annotations

from pathlib import Path

import torch
from bem_fleet.feedback.event_store import EventStore
from bem_fleet.feedback.processor import family_by_prompt
from bem_fleet.services.online.answering import Answering
from bem_fleet.services.online.family_finder import FamilyFinder, PromptKeys, join_distance
from bem_fleet.services.online.feedback_examples import ExampleEncoder
from fleet.testing import RedisServer

from tests.support.feedback import drain, intake, record
from tests.unit.services.online.hosts import bank, engine_host

NEAR = [f"zzzzzz qq zzzzzz {n}" for n in range(4)]
FAR = "The tide was low, and we walked to the island."


async def test_like_prompts_share_a_family_also_after_a_restart(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Prompts with like states join; another one, and one without a prompt, begin their own."""
    store = EventStore(redis_server.url)
    with engine_host(tmp_path) as host:
        answering = Answering(host)
        encoder = ExampleEncoder(host.backbone, 256)
        keys = PromptKeys(answering.state, encoder.prompt, bank().whitening)
        finder = FamilyFinder(keys, bank().unrelated, store)
        async with intake(redis_server.url) as opened:
            for number, text in enumerate(NEAR[:2]):
                await opened.submit(record(number, prompt=text))
        await drain(redis_server.url, family_of=finder)
        listed = await store.families()
        finder.reset()
        near = [await finder(record(9, prompt=text)) for text in NEAR[2:]]
        far = await finder(record(9, prompt=FAR))
        none = await finder(record(9, prompt=""))
        long = await finder(record(9, prompt="word " * 300))
    store.close()

    assert near == listed * 2
    assert far == family_by_prompt(record(9, prompt=FAR))
    assert none == family_by_prompt(record(9, prompt=""))
    assert long == family_by_prompt(record(9, prompt="word " * 300))


def test_distance_is_that_of_unrelated_prompts() -> None:
    """One pair in a thousand is nearer than the distance."""
    keys = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    nearer = float((torch.pdist(keys) < join_distance(keys)).float().mean())

    assert abs(nearer - 0.001) < 1e-4
