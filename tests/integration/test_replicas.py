"""Two routers behind one gateway: calls with one beginning meet the cache that has it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from bem.backbone import Backbone
from bem.engine import LLMEngine
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.model_loading import assemble
from bem_fleet.services.router.settings import RouterSettings
from fleet.server import RunningServer
from fleet.testing import RedisServer, free_port

from tests.integration import routers
from tests.integration.openai_clients import openai_client

HOST, LOOPBACK = "router-pods.test", ("127.0.0.1", "127.0.0.2")
BEGINNINGS, QUESTIONS = 8, 4


@asynccontextmanager
async def two_routers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[int, list[LLMEngine], list[RunningServer]]]:
    """Run routers at one port of two loopback addresses, to which a name resolves."""
    port, engines = free_port(), list[LLMEngine]()
    look_up = socket.getaddrinfo

    def both(host: Any, *arguments: Any, **options: Any) -> Any:
        hosts = LOOPBACK if host == HOST else (host,)
        return [one for each in hosts for one in look_up(each, *arguments, **options)]

    def recorded(backbone: Backbone, settings: RouterSettings) -> ModelHost:
        host = assemble(backbone, settings)
        assert isinstance(host._engine, LLMEngine)
        engines.append(host._engine)
        return host

    monkeypatch.setattr(socket, "getaddrinfo", both)
    monkeypatch.setattr(routers, "assemble", recorded)
    async with AsyncExitStack() as stack:
        servers = [
            (
                await stack.enter_async_context(
                    routers.tiny_router(folder / str(number), address=f"{host}:{port}")
                )
            )[0]
            for number, host in enumerate(LOOPBACK)
        ]
        yield port, engines, servers


async def ask(client: openai.AsyncOpenAI, beginning: int, question: int) -> str:
    """Return an answer; questions about one beginning share it."""
    text = f"document {beginning}: " + f"{beginning} cats sat on mats. " * 14
    answer = await client.completions.create(
        model="tiny", prompt=f"{text}question {question}?", max_tokens=4, temperature=0
    )
    return answer.choices[0].text


async def test_a_beginning_is_computed_by_one_replica(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both replicas work, answer as one does, and compute each beginning once between them."""
    questions = [(one, each) for each in range(QUESTIONS) for one in range(BEGINNINGS)]
    async with two_routers(tmp_path, monkeypatch) as (port, engines, _):
        address, redis_url = f"{LOOPBACK[0]}:{port}", redis_server.url
        async with openai_client(address, redis_url=redis_url) as client:
            alone = [await ask(client, *one) for one in questions]
        reused = [engine.counters.reused_tokens for engine in engines]
        computed = [engine.counters.prompt_tokens for engine in engines]
        async with openai_client(
            address, replicas={"router": f"{HOST}:{port}"}, redis_url=redis_url
        ) as client:
            together = [await ask(client, *one) for one in questions]
            before = sum(engine.counters.prompt_tokens for engine in engines)
            await asyncio.gather(*(ask(client, *one) for one in questions[:BEGINNINGS]))
            again = sum(engine.counters.prompt_tokens for engine in engines) - before
        later = engines[1].counters

    assert together == alone
    assert (reused[1], computed[1]) == (0, 0)
    # The second replica computed the beginnings that it ranks first for, once each.
    assert later.prompt_tokens > 0
    assert later.reused_tokens > 2 * later.prompt_tokens
    assert again < before / 4


async def test_a_replica_that_ends_is_replaced_in_its_calls(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is still known for a while; no client has an error."""
    async with (
        two_routers(tmp_path, monkeypatch) as (port, engines, servers),
        openai_client(
            f"{LOOPBACK[0]}:{port}",
            replicas={"router": f"{HOST}:{port}"},
            redis_url=redis_server.url,
        ) as client,
    ):
        before = [await ask(client, one, 0) for one in range(BEGINNINGS)]
        used = engines[1].counters.generated_tokens
        await servers[1].stop()
        after = [await ask(client, one, 0) for one in range(BEGINNINGS)]

    assert used > 0
    assert after == before
