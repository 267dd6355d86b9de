"""Parts of the online mission with the tiny model, a bank of random factors and a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from bem.engine import LLMEngine
from bem.online.artifact import BankArtifact
from bem.online.codebook import Codebook, make_condition
from bem.online.feedback import FeedbackExample
from bem.testing import tiny_backbone
from bem_fleet.feedback.forgetting import Forgetter
from bem_fleet.services.online.answering import Answering
from bem_fleet.services.online.served_codes import CodeAdapters
from bem_fleet.services.online.version_record import VersionRecord
from bem_fleet.services.online.version_rollout import VersionRollout
from bem_fleet.services.online.version_store import VersionStore
from bem_fleet.serving import EngineHost
from bem_fleet.serving.adapter_folder import AdapterFolder
from bem_fleet.serving.model_loading import open_bank
from fleet.testing import RedisServer

from tests.support.online_bank import FEATURE_LAYER, write_online_bank
from tests.support.tiny_bank import RANK, WIDTH

FAMILY = "0123456789abcdef"
"""Name of a condition as families have it."""
OTHER = "fedcba9876543210"


@cache
def bank() -> BankArtifact:
    """Return the bank of the tiny model."""
    return write_online_bank(Path(mkdtemp()) / "bank")


def code(seed: int = 0) -> torch.Tensor:
    """Return a random code that changes answers."""
    return 4 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


@contextmanager
def engine_host(folder: Path) -> Iterator[EngineHost]:
    """Yield an engine host of the tiny model without adapters."""
    backbone = tiny_backbone()
    slots = open_bank(backbone, first_layer=None, feature_layer=FEATURE_LAYER, rank=RANK, slots=3)
    engine = LLMEngine(backbone, slots, max_sequences=4, context_tokens=256)
    engine.start()
    try:
        yield EngineHost(backbone, engine, AdapterFolder(folder / "no-adapters"))
    finally:
        engine.close(drain=True)


async def codebook(answering: Answering, texts: Sequence[str], name: str = FAMILY) -> Codebook:
    """Return a codebook with one condition around prompts."""
    states = torch.stack([
        await answering.state(answering.engine.request(text, max_tokens=1).prompt_ids)
        for text in texts
    ])  # fmt: skip
    artifact = bank()
    made = make_condition(name, artifact.whitening.keys(states), code())
    return artifact.empty_codebook().with_condition(made)


def record(events: Sequence[str] = ("1-0",), *, parent: int = 0, **fields: object) -> VersionRecord:
    """Return the record of a version that learned events for one condition."""
    given = {"changed": FAMILY, "digest": "", "lineage": {FAMILY: (tuple(events),)}}
    return VersionRecord(**{"parent": parent, "forgotten": 0, **given, **fields})  # type: ignore[arg-type]


@asynccontextmanager
async def version_store(redis: RedisServer) -> AsyncIterator[VersionStore]:
    """Yield a store of the tiny bank's versions."""
    store = VersionStore(redis.url, bank())
    try:
        yield store
    finally:
        store.close()


@asynccontextmanager
async def rollout(
    folder: Path, redis: RedisServer
) -> AsyncIterator[tuple[VersionRollout, Answering]]:
    """Yield a rollout with its answering."""
    with engine_host(folder) as host:
        async with version_store(redis) as store:
            answering, forgetter = Answering(host), Forgetter(redis.url)
            adapters = CodeAdapters(host, bank(), folder / "codes")
            yield VersionRollout(store, forgetter, answering, adapters), answering
            forgetter.close()


def example(event: str, user: str, **fields: object) -> FeedbackExample:
    """Return a correction of a user."""
    given = {"prompt": (1, 2, 3), "reply": (7, 8), "condition": FAMILY}
    return FeedbackExample(event=event, user=user, **{**given, **fields})  # type: ignore[arg-type]
