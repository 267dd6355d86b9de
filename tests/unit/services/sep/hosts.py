"""Engine hosts of the tiny model for tests of mission sep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bem_fleet.services.sep.settings import SepSettings
from bem_fleet.serving import EngineHost, load_host


@asynccontextmanager
async def tiny_host(folder: Path) -> AsyncIterator[EngineHost]:
    """Run an engine host of the tiny model."""
    settings = SepSettings(backbone="tiny", adapter_folder=folder, rank=4, context_tokens=256)
    host = await asyncio.to_thread(load_host, settings)
    try:
        yield host
    finally:
        await host.close()
