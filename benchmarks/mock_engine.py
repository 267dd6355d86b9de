"""Mock engine with a fixed token rate, for measuring the serving overhead around a model."""

import asyncio
import heapq
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bem.adapters.loaded import LoadedAdapter
from bem.engine import GenerationRequest, OutputDelta, OutputForm, RequestHandle
from bem.engine.api import OutputCallback
from bem.engine.counters import EngineCounters
from bem.testing import tiny_backbone
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.servicer import SERVICE, STATUS, RouterServicer
from bem_fleet.services.router.settings import RouterSettings
from bemfleet.router.v1 import router_pb2_grpc
from fleet.server import App, serve

WORDS = ("the ", "boats ", "lay ", "still ", "in ", "the ", "quiet ", "harbour ") * 2
TOKEN_S = 0.002


class MockEngine:
    """Engine that answers each request with sixteen words, two milliseconds apart."""

    def __init__(self) -> None:
        self.context_tokens = 2048
        self.counters = EngineCounters()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: GenerationRequest, on_piece: OutputCallback) -> RequestHandle:
        """Schedule the words of one response."""
        now = time.perf_counter()
        with self._changed:
            for index, word in enumerate(WORDS):
                finish = "stop" if index == len(WORDS) - 1 else None
                piece = OutputDelta(word, index + 1, finish)  # type: ignore[arg-type]
                self._number += 1
                entry = (now + TOKEN_S * (index + 1), self._number, _delivery(on_piece, piece))
                heapq.heappush(self._due, entry)
            self._changed.notify()
        return RequestHandle(request, on_piece)

    def prepare(self, form: OutputForm) -> None:
        """Do nothing: the words have no form."""

    def adapters(self) -> list[LoadedAdapter]:
        """Return none."""
        return []

    def adapter(self, name: str) -> LoadedAdapter | None:
        """Return none."""
        del name
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                wait = self._due[0][0] - time.perf_counter()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                _, _, call = heapq.heappop(self._due)
            call()


def _delivery(on_piece: OutputCallback, piece: OutputDelta) -> Callable[[], None]:
    return lambda: on_piece(piece)


async def build(_settings: RouterSettings, app: App) -> None:
    """Serve the real servicer on the mock engine."""
    holder = LazyModelHost()
    holder.loaded = ModelHost(tiny_backbone(), MockEngine(), Path())
    router_pb2_grpc.add_RouterServiceServicer_to_server(RouterServicer(holder), app.server)
    await app.register_service(SERVICE)
    await app.set_serving(SERVICE, serving=True)


async def in_process_seconds(engine: MockEngine, request: GenerationRequest) -> float:
    """Return the seconds from a request to its last word, without any server."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def on_piece(piece: OutputDelta | Exception) -> None:
        if isinstance(piece, OutputDelta) and piece.finish:
            loop.call_soon_threadsafe(done.set)

    began = time.perf_counter()
    engine.submit(request, on_piece)
    await done.wait()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.stderr.write(f"mock engine, pid {os.getpid()}\n")
    serve(RouterSettings, build, STATUS)
