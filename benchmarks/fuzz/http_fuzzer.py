"""HTTP fuzzer: every route of the gateway's OpenAPI page, with well-formed and broken requests."""

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx

from benchmarks.fuzz import json_bodies, texts
from benchmarks.fuzz.examples import BODIES, PATH_VALUES
from benchmarks.fuzz.outcomes import Outcomes

_TIMEOUT_S = 30.0
_WATCH_S = 1.0
# A gateway answers 503 while a service behind it restarts, and 504 when a deadline passes.
_ALLOWED_SERVER_ERRORS = (503, 504)
_HEADERS: Sequence[tuple[str, str]] = (
    ("content-type", "text/plain"),
    ("content-type", "application/json; charset=utf-16"),
    ("content-type", "application/vnd.x+json"),
    ("content-type", ";;="),
    ("accept", "text/event-stream"),
    ("bem-safety-strength", "nan"),
    ("bem-safety-strength", "0x1p0"),
    ("bem-tenant", "x" * 65),
    ("authorization", "Bearer wrong"),
    ("authorization", "Basic !!"),
    ("x-request-id", "../" * 20),
    ("x-session-id", "s" * 400),
    ("traceparent", "00-zz"),
    ("idempotency-key", "k" * 129),
    ("idempotency-key", "same"),
    ("expect", "100-continue"),
)


class HttpFuzzer:
    """Sends requests to the gateway.

    Args:
        url: Base URL of the gateway.
        outcomes: Receives the outcomes.
        key: API key; empty to send none.
        seed: Seed of all inputs.
    """

    def __init__(self, url: str, outcomes: Outcomes, *, key: str = "", seed: int = 0) -> None:
        self._url, self._outcomes, self._key = url, outcomes, key
        self._random = random.Random(f"{seed} gateway")

    async def run(self, inputs: int, concurrency: int = 8) -> None:
        """Send a number of inputs, spread evenly over the operations.

        Args:
            inputs: Number of inputs.
            concurrency: Requests in flight at once.
        """
        async with httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT_S) as client:
            page = (await client.get("/openapi.json")).json()
            operations = [
                (path, verb, operation)
                for path, verbs in sorted(page["paths"].items())
                for verb, operation in sorted(verbs.items())
            ]
            remaining = iter(range(inputs))

            async def work() -> None:
                for index in remaining:
                    await self._input(client, page, *operations[index % len(operations)])

            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())

    async def _input(
        self,
        client: httpx.AsyncClient,
        page: Mapping[str, Any],
        path: str,
        verb: str,
        operation: Mapping[str, Any],
    ) -> None:
        content = b""
        if verb == "post":
            schema = _body_schema(page, operation)
            content = json_bodies.body(self._random, BODIES.get(path, ()), schema)
        called = verb.upper()
        if self._random.random() < 0.02:
            called = self._random.choice(
                ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "FUZZ")
            )
        code, detail = await _call(
            client, called, self._target(path, operation), content, self._headers()
        )
        failed = code.isdigit() and int(code) >= 500 and int(code) not in _ALLOWED_SERVER_ERRORS
        self._outcomes.add(
            f"gateway {verb.upper()} {path}",
            code,
            failed=failed or code == "NO_ANSWER",
            payload=content,
            detail=detail,
        )

    def _target(self, path: str, operation: Mapping[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            return self._random.choice(PATH_VALUES.get(match[1], ("x",)))

        target = re.sub(r"\{(\w+)\}", value, path)
        names = [one["name"] for one in operation.get("parameters", ()) if one.get("in") == "query"]
        if not names or self._random.random() < 0.3:
            return target
        query = httpx.QueryParams(
            {name: self._query_value() for name in names if self._random.random() < 0.7}
        )
        return f"{target}?{query}"

    def _query_value(self) -> str:
        return self._random.choice(
            ("0", "1", "-1", "1e9", "true", str(2**70), texts.text(self._random)[:2_000])
        )

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._key and self._random.random() < 0.9:
            headers["authorization"] = f"Bearer {self._key}"
        if self._random.random() < 0.1:
            headers.update([self._random.choice(_HEADERS)])
        return headers


async def _call(
    client: httpx.AsyncClient, verb: str, target: str, content: bytes, headers: Mapping[str, str]
) -> tuple[str, str]:
    """Return status and beginning of the answer.

    An answer is read to its end, but events that are watched by GET, which have none, for a time.
    """
    body = b""
    try:
        async with client.stream(verb, target, content=content, headers=headers) as response:
            kind = response.headers.get("content-type", "")
            watched = verb == "GET" and kind.startswith("text/event-stream")
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_S if watched else None):
                    async for part in response.aiter_bytes():
                        body += part[:200]
    except httpx.TimeoutException as err:
        return "NO_ANSWER", type(err).__name__
    except httpx.TransportError as err:
        return "CONNECTION_LOST", f"{type(err).__name__}: {err}"
    return str(response.status_code), body[:200].decode("utf-8", errors="replace")


def _body_schema(page: Mapping[str, Any], operation: Mapping[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return None if schema is None else _resolve(page, schema)


def _resolve(page: Mapping[str, Any], schema: Any, depth: int = 0) -> Any:
    """Return a schema with its references replaced, to a depth at which bodies are cut anyway."""
    if isinstance(schema, list):
        return [_resolve(page, one, depth) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if reference := schema.get("$ref"):
        if depth > 6:
            return {}
        target: Any = page
        for part in str(reference).removeprefix("#/").split("/"):
            target = target[part]
        return _resolve(page, target, depth + 1)
    return {key: _resolve(page, value, depth) for key, value in schema.items()}
