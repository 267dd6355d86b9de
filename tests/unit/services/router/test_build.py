"""Tests of the wiring: services, readiness and the end of the engine."""

import asyncio
from pathlib import Path

import pytest
from bem.engine import LLMEngine
from bem.testing import tiny_backbone
from bem_fleet.services.router import servicer
from bem_fleet.services.router.build import build
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.settings import RouterSettings
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.server import App, start


async def test_all_services_are_ready_once_the_model_is_loaded(tmp_path: Path) -> None:
    """Health covers the router's own service, the mission contract and Open Inference."""
    engine = LLMEngine(tiny_backbone(), max_sequences=1, context_tokens=64)

    def load(_: RouterSettings) -> ModelHost:
        engine.start()
        return ModelHost(tiny_backbone(), engine, tmp_path)

    async def wired(settings: RouterSettings, app: App) -> None:
        await build(settings, app, load)

    settings = RouterSettings(address=f"unix:{tmp_path}/r.sock")
    running = await start(settings, wired, servicer.STATUS)
    async with open_channel(running.address) as channel:
        for name in (servicer.SERVICE, mission.SERVICE, "inference.GRPCInferenceService"):
            await wait_ready(channel, name, 30)
    await running.stop()

    assert engine.ended.done()


async def test_a_broken_engine_ends_the_service(tmp_path: Path) -> None:
    """The exception of the engine's thread is the service's."""
    engine = LLMEngine(tiny_backbone(), max_sequences=1, context_tokens=64)
    host = ModelHost(tiny_backbone(), engine, tmp_path)
    waiting = asyncio.create_task(host.run_until_closed())
    await asyncio.sleep(0)
    engine.ended.set_exception(FloatingPointError("broken step"))

    with pytest.raises(FloatingPointError, match="broken step"):
        await waiting
