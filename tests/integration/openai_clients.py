"""Unmodified OpenAI client of a gateway's application, without a network between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import openai
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings


@asynccontextmanager
async def openai_client(router: str, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """Serve a gateway in front of a router; yield a client that never retries.

    Args:
        router: gRPC target of the router.
        settings: Further settings of the gateway.
    """
    app = make_app(GatewaySettings(**{"missions": {"router": router}, **settings}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http,
        openai.AsyncOpenAI(
            base_url="http://gateway/v1",
            api_key="none",
            max_retries=0,
            http_client=cast("Any", http),
        ) as made,
    ):
        yield made
