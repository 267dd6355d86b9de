"""A router service with the tiny model, on a unix socket."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bem.backbone import Backbone
from bem.testing import tiny_backbone
from bem_fleet.services.router.build import build
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.model_loading import assemble
from bem_fleet.services.router.servicer import SERVICE, STATUS
from bem_fleet.services.router.settings import RouterSettings
from fleet.clients import open_channel, wait_ready
from fleet.server import App, RunningServer, start
from grpc import aio

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety


@asynccontextmanager
async def tiny_router(
    folder: Path,
    *,
    address: str = "",
    rows: int = 4,
    queue: int = 8,
    safety_strength: float = 0.0,
    safety_floor: float = 0.0,
    adapters: Sequence[str] = ("alpha", "beta"),
    redis_url: str = "redis://127.0.0.1:1/0",
    make_backbone: Callable[[], Backbone] = tiny_backbone,
    **further: Any,
) -> AsyncIterator[tuple[RunningServer, aio.Channel]]:
    """Run the service with random adapters and a safety adapter; yields it and a channel.

    It listens on a socket in the folder unless an address is given, and nothing at the default
    ``redis_url``. Another backbone has the tiny model's weights.
    Further arguments are further settings.
    """
    for seed, name in enumerate(adapters):
        write_adapter(folder / "adapters", tiny_backbone(), name, seed=seed)
    write_safety(folder / "safety", tiny_backbone())
    settings = RouterSettings(
        address=address or f"unix:{folder}/r.sock",
        adapter_folder=folder / "adapters",
        rows=rows,
        queue=queue,
        context_tokens=make_backbone().context_tokens,
        safety=folder / "safety",
        redis_url=redis_url,
        policy=folder / "policy",
        policy_folder=folder / "policies",
        safety_strength=safety_strength,
        safety_floor=safety_floor,
        rank=RANK,
        slots=4,
        first_layer=min(LAYERS),
        feature_layer=FEATURE_LAYER,
        **further,
    )

    def load(given: RouterSettings) -> ModelHost:
        return assemble(make_backbone(), given)

    async def assembled(given: RouterSettings, app: App) -> None:
        await build(given, app, load)

    running = await start(settings, assembled, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, SERVICE, 60)
            yield running, channel
    finally:
        await running.stop()
