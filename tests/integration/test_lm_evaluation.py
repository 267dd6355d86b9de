"""lm-evaluation-harness, unmodified, gives the scores over HTTP that it gives on transformers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from bem.backbone import load_backbone
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.http_server import make_config
from bem_fleet.services.gateway.settings import GatewaySettings
from bem_fleet.services.router import build as router
from bem_fleet.services.router import servicer
from bem_fleet.services.router.settings import RouterSettings
from fleet.clients import open_channel, wait_ready
from fleet.server import start

from tests.support.lm_evaluation import run_harness, write_task

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/models"
ITEMS = 40
# Log-likelihoods of a choice, in nats; both models compute in float32.
TOLERANCE = 2e-3


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
    """Serve the packaged model in float32 over HTTP; yields the URL."""
    settings = RouterSettings(
        address=f"unix:{folder}/r.sock",
        cache=CACHE,
        adapter_folder=folder,
        safety=folder,
        weights="fp32",
    )
    running = await start(settings, router.build, servicer.STATUS)
    listener = socket.create_server(("127.0.0.1", 0))
    gateway = GatewaySettings(missions={"router": running.address})
    server = uvicorn.Server(make_config(gateway, make_app(gateway)))
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, servicer.SERVICE, 300)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        await running.stop()


async def test_scores_are_those_of_transformers(tmp_path: Path) -> None:
    """Accuracy is equal, and so is each log-likelihood within the tolerance."""
    write_task(tmp_path, ITEMS)
    model = tmp_path / "model"
    backbone = load_backbone(cache=CACHE)
    backbone.model.save_pretrained(model)
    backbone.tokenizer.save_pretrained(model)
    name = backbone.name
    del backbone
    own = await asyncio.to_thread(run_harness, tmp_path, "hf", {"pretrained": str(model)})
    async with served(tmp_path) as url:
        arguments = {
            "model": name,
            "base_url": f"{url}/v1/completions",
            "tokenizer": str(model),
            "tokenizer_backend": "huggingface",
            "num_concurrent": 2,
        }
        found = await asyncio.to_thread(run_harness, tmp_path, "local-completions", arguments)

    assert len(found["items"]) == ITEMS
    for theirs, ours in zip(own["items"], found["items"], strict=True):
        assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert found["acc"] == own["acc"]
    assert found["acc_norm"] == own["acc_norm"]
    assert own["acc"] > 0.4  # chance is 0.25: the task measures something
