"""Open-loop load: requests at times that are drawn beforehand, whatever the answers do.

A closed loop sends its next request after an answer, so it slows down with the server and never
overloads it. Here each tenant's arrivals are a Poisson process with a seed, and a latency counts
from the time at which the request was due, so that a generator that falls behind cannot hide a
delay of the server (coordinated omission). ``Answer.late_s`` shows how far it fell behind.

ADR 0072 says which load generators were measured, and why this one is small and on aiohttp.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import aiohttp

# A request that has no answer by then was left without one: the server must refuse before.
SILENT_S = 60.0
TOKENS = 16


@dataclass(frozen=True)
class Answer:
    """One request and what became of it; times in seconds.

    Attributes:
        tenant: Name of the tenant.
        due_s: Time from the start of the load to when the request was due.
        late_s: Time from then to when it was sent.
        latency_s: Time from when it was due to the end of the answer.
        status: HTTP status; 0 for a request without an answer.
        has_delay: Whether the answer named the delay of a retry.
    """

    tenant: str
    due_s: float
    late_s: float
    latency_s: float
    status: int
    has_delay: bool


class Client:
    """Sends completions to a gateway.

    Args:
        session: HTTP session of the gateway.
        model: Model that requests name.
        keys: API key of each tenant.
    """

    def __init__(self, session: aiohttp.ClientSession, model: str, keys: Mapping[str, str]) -> None:
        self.session = session
        self._model, self._keys, self._numbers = model, keys, count()

    async def ask(self, tenant: str, began: float, due_s: float) -> Answer:
        """Send one request; no two are equal, and each has a session of its own.

        Args:
            tenant: Name of the tenant.
            began: Value of ``time.perf_counter()`` at the start of the load.
            due_s: Time after the start at which the request is due, in seconds.
        """
        number = next(self._numbers)
        body = {
            "model": self._model,
            "prompt": f"Note {number}: on a quiet morning in early spring",
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "user": f"session-{number}",
        }
        headers = {"Authorization": f"Bearer {self._keys[tenant]}"}
        late_s = time.perf_counter() - began - due_s
        try:
            async with self.session.post("/v1/completions", json=body, headers=headers) as answer:
                await answer.read()
                status, has_delay = answer.status, "Retry-After" in answer.headers
        except (aiohttp.ClientError, TimeoutError):
            status, has_delay = 0, False
        latency_s = time.perf_counter() - began - due_s
        return Answer(tenant, due_s, late_s, latency_s, status, has_delay)


@asynccontextmanager
async def client_of(gateway: str, model: str, keys: Mapping[str, str]) -> AsyncIterator[Client]:
    """Yield a client with any number of connections.

    Args:
        gateway: Base URL.
        model: Model that requests name.
        keys: API key of each tenant.
    """
    limits = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(SILENT_S)
    async with aiohttp.ClientSession(gateway, connector=limits, timeout=timeout) as session:
        yield Client(session, model, keys)


def arrivals(rates: Mapping[str, float], seconds: float, seed: int) -> list[tuple[float, str]]:
    """Return the times in seconds at which requests are due, in order, each with its tenant.

    Args:
        rates: Requests per second of each tenant.
        seconds: Length of the load.
        seed: Seed of the draw.
    """
    drawn = []
    for tenant, rate in rates.items():
        generator = random.Random(f"{seed} {tenant}")
        at = generator.expovariate(rate)
        while at < seconds:
            drawn.append((at, tenant))
            at += generator.expovariate(rate)
    return sorted(drawn)


async def open_loop(client: Client, schedule: Sequence[tuple[float, str]]) -> list[Answer]:
    """Send each request when it is due and return the answers to all of them."""
    began, tasks = time.perf_counter(), []
    for due_s, tenant in schedule:
        await asyncio.sleep(began + due_s - time.perf_counter())
        tasks.append(asyncio.create_task(client.ask(tenant, began, due_s)))
    return await asyncio.gather(*tasks)


async def closed_loop(client: Client, tenants: Sequence[str], seconds: float) -> list[Answer]:
    """Send for some seconds, each entry of ``tenants`` a request after each of its answers."""
    began, answers = time.perf_counter(), list[Answer]()

    async def repeat(tenant: str) -> None:
        while (due_s := time.perf_counter() - began) < seconds:
            answers.append(await client.ask(tenant, began, due_s))

    await asyncio.gather(*(repeat(one) for one in tenants))
    return answers
