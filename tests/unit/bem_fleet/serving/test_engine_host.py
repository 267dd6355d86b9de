"""Engine host with the tiny model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.serving import EngineHost, EngineSettings, HostHolder, load_host
from fleet.errors import NotFoundError, UnavailableError

from tests.support.begun_texts import begun_backbone
from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.waiting import eventually


async def start(folder: Path, **settings: Any) -> EngineHost:
    """Return a host with one adapter loaded at the start."""
    write_adapter(folder, tiny_backbone(), "alpha", seed=1)
    chosen = EngineSettings(
        backbone="tiny",
        adapter_folder=folder,
        context_tokens=256,
        rank=RANK,
        first_layer=min(LAYERS),
        feature_layer=FEATURE_LAYER,
        **settings,
    )
    return await asyncio.to_thread(load_host, chosen)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[EngineHost]:
    """A host with one adapter."""
    made = await start(tmp_path)
    yield made
    await made.close()


async def test_base_and_adapter_answer(host: EngineHost) -> None:
    """Each answer carries the version of what generated it, and is repeatable."""
    base = await host.generate("hello", max_tokens=8)
    adapter = await host.generate("hello", model="alpha", max_tokens=8)
    probe = await host.probe("", "hello", 8)

    assert base.text == probe.text
    assert base.completion_tokens <= 8
    assert adapter.model_version.startswith(f"{base.model_version}+")
    assert [one.name for one in host.loaded_adapters()] == ["alpha"]


async def test_adapter_is_loaded_and_unloaded(host: EngineHost, tmp_path: Path) -> None:
    """A new folder is loaded by name; an unloaded adapter is not found."""
    write_adapter(tmp_path, tiny_backbone(), "beta", seed=2)
    loaded = await host.load("beta")
    await host.unload("beta")

    assert loaded.rank == RANK
    with pytest.raises(AdapterNotFoundError):
        await host.generate("hello", model="beta")
    with pytest.raises(NotFoundError, match="no adapter 'gamma'"):
        await host.load("gamma")
    with pytest.raises(InvalidRequestError, match="no adapter name"):
        await host.load("../beta")


async def test_version_is_the_one_that_served_a_queued_request(tmp_path: Path) -> None:
    """An adapter that is reloaded while a request waits serves it, and the result says so."""
    host = await start(tmp_path, rows=1)
    running = asyncio.create_task(host.generate("occupy the only row", max_tokens=180))
    await eventually(lambda: host.engine.counters.running, 30)
    queued = asyncio.create_task(host.generate("hello", model="alpha", max_tokens=4))
    await asyncio.sleep(0)
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=2)
    reloaded = await host.load("alpha")
    was_queued = not running.done() and not queued.done()
    _, answer = await asyncio.gather(running, queued)
    await host.close()

    assert was_queued
    assert answer.model_version.endswith(f"+{reloaded.version[:12]}")


async def test_prompt_limits_are_named(host: EngineHost) -> None:
    """An empty prompt and one that does not fit name field and limit."""
    with pytest.raises(InvalidRequestError, match="prompt: is empty"):
        await host.generate(" ")
    with pytest.raises(InvalidRequestError, match="at most 192 fit beside max_tokens"):
        await host.generate("x" * 400, max_tokens=64)


def test_holder_without_a_model_is_unavailable() -> None:
    """Calls before the model is loaded are told to retry."""
    with pytest.raises(UnavailableError, match="still loading"):
        HostHolder().get()


async def test_prompts_without_a_template_begin_as_texts_of_the_model(host: EngineHost) -> None:
    """A pretrained model that is served without its first token writes nonsense."""
    begun = begun_backbone()
    begun.tokenizer.chat_template = None
    host.backbone = begun

    assert host.prompt_ids("hi", 8)[0] == begun.tokenizer.bos_token_id
