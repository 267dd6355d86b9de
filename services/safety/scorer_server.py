"""Shared scorer server: one pair of scorer processes for all safety sidecars of a machine.

``python -m bem_fleet.services.safety.scorer_server`` listens on the unix socket
``BEM_SAFETY_SCORER_SOCKET``. Messages are lines of JSON. On connection, and whenever it changes,
the server sends ``{"alive": {"deep": true, "fast": true}}``. A client sends ``{"id": 1, "tier":
"fast", "query": {...}, "client": "name"}`` and receives ``{"id": 1, "finding": {...}}`` or
``{"id": 1, "error": "..."}``, in any order; ``"overloaded": true`` marks an error by a queue that
is too long. Queries of all share batches; each client of each sidecar, named by ``client``, has its
turn.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop
from bem_fleet.guard.query_codec import decode_query, encode_finding
from bem_fleet.services.safety.scorer_process import ScorerProcess
from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs
from fleet.errors import OverloadedError, UnavailableError
from fleet.metrics import MetricsPage

_LOG = logs.get("safety.scorer_server")
# Two texts of 131,072 characters, each up to 12 bytes as JSON escapes.
_MAX_LINE_BYTES = 4 * 1024 * 1024
# Unanswered queries of one client; beyond that the server stops reading from it.
_MAX_PENDING = 256
# Small batches bound how long a busy client delays the others.
_MAX_BATCH = 16
_STATUS_INTERVAL_S = 0.1


class ScorerServer:
    """Serves scorer processes to the clients of a unix socket.

    Args:
        scorers: Scorer process by tier.
        path: Unix socket, created with mode 0600.
    """

    def __init__(self, scorers: Mapping[str, ScorerProcess], path: Path) -> None:
        self._scorers = scorers
        self._path = path
        self._clients: set[asyncio.StreamWriter] = set()
        self._status: dict[str, bool] = {}

    async def run(self) -> None:
        """Listen and keep the scorer processes running; ends when cancelled.

        Raises:
            OSError: The socket cannot be created, or another server listens on it.
        """
        server = await self._listen()
        try:
            async with asyncio.TaskGroup() as group:
                for scorer in self._scorers.values():
                    group.create_task(scorer.run())
                group.create_task(self._publish_status())
        finally:
            server.close()
            for writer in self._clients:
                writer.close()
            with suppress(FileNotFoundError):
                self._path.unlink()

    async def _listen(self) -> asyncio.AbstractServer:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if _is_listening(self._path):
            raise OSError(
                f"{self._path}: another scorer server listens; stop it or use another path"
            )
        with suppress(FileNotFoundError):
            self._path.unlink()  # left by a killed server
        previous = os.umask(0o177)  # mode 0600 from the start: chmod would leave a gap
        try:
            server = await asyncio.start_unix_server(
                self._handle_client, str(self._path), limit=_MAX_LINE_BYTES
            )
        finally:
            os.umask(previous)
        _LOG.info("listening", path=str(self._path))
        return server

    async def _publish_status(self) -> None:
        """Send the readiness of the tiers to all clients whenever it changes."""
        while True:
            status = self._current_status()
            if status != self._status:
                self._status = status
                for writer in self._clients:
                    _send(writer, {"alive": status})
            await asyncio.sleep(_STATUS_INTERVAL_S)

    def _current_status(self) -> dict[str, bool]:
        return {tier: scorer.is_ready for tier, scorer in self._scorers.items()}

    async def _handle_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client until it leaves; a malformed message ends its connection only."""
        slots = asyncio.Semaphore(_MAX_PENDING)
        tasks: set[asyncio.Task[None]] = set()
        self._clients.add(writer)
        _send(writer, {"alive": self._current_status()})
        try:
            while line := await reader.readline():
                message = json.loads(line)
                await slots.acquire()
                task = asyncio.create_task(self._respond(message, writer, slots))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (OSError, ValueError) as err:
            _LOG.warning("client dropped", reason=str(err)[:200])
        finally:
            self._clients.discard(writer)
            for task in tasks:
                task.cancel()  # its queries leave the queue
            writer.close()

    async def _respond(
        self, message: Any, writer: asyncio.StreamWriter, slots: asyncio.Semaphore
    ) -> None:
        """Score one query and send its finding or error."""
        response: dict[str, Any] = {"id": None}
        try:
            try:
                response["id"] = message["id"]
                scorer = self._scorers[message["tier"]]
                query, client = decode_query(message["query"]), str(message.get("client", ""))
            except (KeyError, TypeError) as err:
                raise ValueError(f"malformed message {str(message)[:80]}") from err
            response["finding"] = encode_finding(await scorer.score(query, (writer, client)))
        except (ValueError, UnavailableError, OverloadedError) as err:
            response["error"] = str(err)
            response["overloaded"] = isinstance(err, OverloadedError)
        try:
            with suppress(OSError):  # the client has left
                _send(writer, response)
                await writer.drain()
        finally:
            slots.release()


def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def scorer_processes(settings: SafetySettings, max_batch: int) -> dict[str, ScorerProcess]:
    """Return the scorer processes by tier, not yet running."""
    return {
        "fast": ScorerProcess("fast", settings.heads, settings.check_timeout_s, max_batch),
        "deep": ScorerProcess("deep", settings.heads, settings.deep_timeout_s, max_batch),
    }


async def serve(settings: SafetySettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    if settings.scorer_socket is None:
        _LOG.error("BEM_SAFETY_SCORER_SOCKET: not set; set it to the path of a unix socket")
        return 1
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    scorers = scorer_processes(settings, _MAX_BATCH)
    server = asyncio.create_task(ScorerServer(scorers, settings.scorer_socket).run())
    page = MetricsPage(settings.pages_address) if settings.pages_address else None
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait((server, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    server.cancel()
    (failure,) = await asyncio.gather(server, return_exceptions=True)
    if page:
        page.close()
    if isinstance(failure, Exception):
        _LOG.error("cannot serve", reason=str(failure))
        return 1
    return 0


def main() -> None:
    """Run the server as this process."""
    settings = SafetySettings()
    logs.setup(settings.log_level)
    sys.exit(uvloop.run(serve(settings)))


if __name__ == "__main__":
    main()
