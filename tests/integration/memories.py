"""The memory mission with the tiny model, in this process or as one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bem_fleet.services.memory.build import build
from bem_fleet.services.memory.servicer import STATUS
from bem_fleet.services.memory.settings import MemorySettings
from bemfleet.memory.v1 import memory_pb2 as pb
from bemfleet.memory.v1 import memory_pb2_grpc as rpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.server import RunningServer, start
from fleet.testing import RedisServer

ROOT = Path(__file__).resolve().parents[2]
READY_S = 120
ACME, GLOBEX = ((("bem-tenant", name), ("bem-client", "web")) for name in ("acme", "globex"))
"""Metadata of a sidecar that forwards calls of two tenants."""


def memory_settings(folder: Path, redis: RedisServer, **settings: Any) -> MemorySettings:
    """Return settings of a service with the tiny model on a unix socket."""
    return MemorySettings(
        **{
            "address": f"unix:{folder}/memory.sock",
            "backbone": "tiny",
            "adapter_folder": folder,
            "modules": folder / "no-modules",
            "redis_url": redis.url,
            "context_tokens": 512,
            "evidence_tokens": 100,
            "redis_timeout_s": 60,
            "rank": 4,
            "drain_s": 1,
            **settings,
        }
    )


@asynccontextmanager
async def memory(
    folder: Path, redis: RedisServer, **settings: Any
) -> AsyncIterator[tuple[Any, RunningServer]]:
    """Run the service in this process; yields a stub and the server."""
    running = await start(memory_settings(folder, redis, **settings), build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, READY_S)
            yield rpc.MemoryServiceStub(channel), running
    finally:
        await running.stop()


class MemoryProcess:
    """The service as a process that can be killed and started again.

    Attributes:
        address: Address of its gRPC server.
    """

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        settings = memory_settings(folder, redis)
        self.address = settings.address
        self._environment = {**os.environ}
        for name, value in settings.model_dump(exclude_unset=True).items():
            self._environment[f"BEM_MEMORY_{name.upper()}"] = str(value)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; health tells when it is ready."""
        command = [sys.executable, "-m", "bem_fleet.services.memory"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def memory_process(folder: Path, redis: RedisServer) -> Iterator[MemoryProcess]:
    """Run the service as a process; killed at the end."""
    made = MemoryProcess(folder, redis)
    made.start()
    try:
        yield made
    finally:
        made.kill()


async def messages(
    session: str, document: str, *texts: str, offset: int = 0, end: bool = True
) -> AsyncIterator[pb.IngestRequest]:
    """Yield the messages of a document."""
    head = pb.IngestHead(session=session, document=document, offset=offset)
    yield pb.IngestRequest(head=head)
    for text in texts:
        yield pb.IngestRequest(text=text)
    if end:
        yield pb.IngestRequest(end=True)


async def ask(
    stub: Any, question: str, *, session: str = "s", metadata: Any = ACME, **fields: Any
) -> list[pb.QueryResponse]:
    """Return the responses to a question."""
    request = pb.QueryRequest(
        **{"session": session, "question": question, "max_tokens": 0, **fields}
    )
    return [one async for one in stub.Query(request, metadata=metadata)]


def filler(sentences: int, start: int = 0) -> str:
    """Return sentences that no question asks for."""
    return "".join(
        f"The {chr(97 + n % 26)}{chr(97 + n // 26 % 26)}ta of the "
        f"{chr(97 + n % 23)}{chr(97 + n // 23 % 26)}lo is as it was. "
        for n in range(start, start + sentences)
    )
