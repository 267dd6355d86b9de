"""A router service with the tiny model, on a unix socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bem.testing import tiny_backbone
from fleet.clients import open_channel, wait_ready
from fleet.server import App, RunningServer, start
from grpc import aio

from services.router.build import build
from services.router.mission import Mission, assemble
from services.router.servicer import SERVICE, STATUS
from services.router.settings import RouterSettings
from tests.unit.bem.safety.adapters import write_safety
from tests.unit.bem.skills import FEATURE_LAYER, LAYERS, RANK, write_skill


@asynccontextmanager
async def tiny_router(
    folder: Path,
    *,
    rows: int = 4,
    queue: int = 8,
    safety_knob: float = 0.0,
    safety_floor: float = 0.0,
) -> AsyncIterator[tuple[RunningServer, aio.Channel]]:
    """Run the service with two random skills and a safety adapter; yields it and a channel."""
    for seed, name in enumerate(("alpha", "beta")):
        write_skill(folder / "adapters", tiny_backbone(), name, seed=seed)
    write_safety(folder / "safety", tiny_backbone())
    settings = RouterSettings(
        address=f"unix:{folder}/r.sock",
        adapters=folder / "adapters",
        rows=rows,
        queue=queue,
        context_tokens=512,
        safety=folder / "safety",
        safety_knob=safety_knob,
        safety_floor=safety_floor,
        rank=RANK,
        slots=4,
        first_layer=min(LAYERS),
        feature_layer=FEATURE_LAYER,
    )

    def load(given: RouterSettings) -> Mission:
        return assemble(tiny_backbone(), given)

    async def assembled(given: RouterSettings, app: App) -> None:
        await build(given, app, load)

    running = await start(settings, assembled, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, SERVICE, 60)
            yield running, channel
    finally:
        await running.stop()
