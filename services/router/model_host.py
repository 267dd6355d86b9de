"""The mission's model: loaded in the background, then one worker and its adapters."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from bem.adapters.bank import AdapterBank, LoadedAdapter
from bem.backbone import Backbone, load_backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, RequestHandle
from bem.engine.api import OutputCallback
from bem.engine.counters import EngineCounters
from bem.engine.weight_autotune import select_format
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.safety import SafetyOverlay
from bem.safety.artifact import CARD
from bem.safety.overlay import load_overlay
from bem_fleet.services.router.settings import RouterSettings
from fleet import logs
from fleet.errors import NotFoundError, UnavailableError
from prometheus_client import Counter, Gauge, Histogram

_LOG = logs.get("router.mission")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

RUNNING = Gauge("bem_router_requests_running", "Requests in the batch now.")
WAITING = Gauge("bem_router_requests_waiting", "Requests in the queue now.")
STEPS = Counter("bem_router_decode_steps_total", "Decode steps.")
PROMPT_TOKENS = Counter("bem_router_prompt_tokens_total", "Prompt tokens computed.")
REUSED_TOKENS = Counter(
    "bem_router_prefix_reused_tokens_total", "Prompt tokens taken from the prefix cache."
)
REUSED_LOWER_TOKENS = Counter(
    "bem_router_prefix_reused_lower_tokens_total",
    "Prompt tokens whose lower half was taken from the prefix cache.",
)
HIT_RATIO = Gauge(
    "bem_router_prefix_hit_ratio", "Share of all prompt tokens taken from the prefix cache."
)
PREFIX_BYTES = Gauge("bem_router_prefix_cache_bytes", "Memory of the prefix cache's blocks.")
PAGE_INS = Counter("bem_router_adapter_page_ins_total", "Adapters brought into a slot.")
GENERATED_TOKENS = Counter("bem_router_generated_tokens_total", "Tokens generated.")
DROPPED = Counter("bem_router_requests_dropped_total", "Requests cancelled or past deadline.")
TTFT = Histogram(
    "bem_router_ttft_seconds",
    "Time to the first piece of a streamed answer.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
INTER_TOKEN = Histogram(
    "bem_router_inter_token_seconds",
    "Time between two pieces of a streamed answer.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
RESIDENT = Gauge("bem_router_adapter_resident", "1 while loaded.", ["adapter", "version"])


class Worker(Protocol):
    """What the mission needs of an engine."""

    context_tokens: int
    counters: EngineCounters

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> RequestHandle:
        """Accept a request."""
        ...

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters."""
        ...

    def adapter(self, name: str) -> LoadedAdapter | None:
        """Return one loaded adapter."""
        ...


class Mission:
    """A loaded model that answers.

    Args:
        backbone: The base model.
        worker: The engine that owns it.
        adapter_folder: Folder that adapters are loaded from.
        safety_strength: Of the safety adapter, for requests that say nothing of it, in [0, 1].
        safety_floor: Least strength, whatever a request says.
    """

    def __init__(
        self,
        backbone: Backbone,
        worker: Worker,
        adapter_folder: Path,
        *,
        safety_strength: float = 0.0,
        safety_floor: float = 0.0,
    ) -> None:
        self.backbone = backbone
        self.worker = worker
        self._adapter_folder = adapter_folder
        self._safety_strength = safety_strength
        self._safety_floor = safety_floor
        self.started_unix_s = int(time.time())

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together have at most this many tokens."""
        return self.worker.context_tokens

    def strength(self, asked: float | None) -> float:
        """Return a request's strength of the safety adapter: what it asks or else the default.

        Never below the operator's floor.
        """
        return max(self._safety_strength if asked is None else asked, self._safety_floor)

    def adapter_of(self, model: str) -> LoadedAdapter | None:
        """Return the adapter that ``model`` names, None for the base model.

        Raises:
            AdapterNotFoundError: Neither the base model nor a loaded adapter has this name.
        """
        if model in ("", self.backbone.name):
            return None
        if adapter := self.worker.adapter(model):
            return adapter
        names = [self.backbone.name, *(adapter.name for adapter in self.worker.adapters())]
        raise AdapterNotFoundError(model, names)

    def version_of(self, adapter: LoadedAdapter | None) -> str:
        """Return a short digest of base and adapter, which answers carry."""
        base = self.backbone.digest[:12]
        return f"{base}+{adapter.version[:12]}" if adapter else base

    async def generate(self, request: GenerationRequest) -> AsyncIterator[OutputDelta]:
        """Yield the pieces of an answer; ending the iteration early frees the row."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[OutputDelta | Exception] = asyncio.Queue()
        ticket = self.worker.submit(
            request, lambda piece: _hand_over(loop, arrived.put_nowait, piece)
        )
        last = time.perf_counter()
        seconds = TTFT
        try:
            while True:
                piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise piece
                now = time.perf_counter()
                seconds.observe(now - last)
                last, seconds = now, INTER_TOKEN
                yield piece
                if piece.finish:
                    return
        finally:
            ticket.cancel()

    async def complete(self, request: GenerationRequest) -> OutputDelta:
        """Return one piece with all the text; the event loop sleeps until it is there."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[OutputDelta] = loop.create_future()
        kept: list[OutputDelta] = []

        def select_format(piece: OutputDelta | Exception) -> None:
            if done.done():
                return
            if isinstance(piece, Exception):
                done.set_exception(piece)
            else:
                done.set_result(piece)

        def on_output(piece: OutputDelta | Exception) -> None:
            if isinstance(piece, OutputDelta):
                kept.append(piece)
                if not piece.finish:
                    return
                piece = replace(
                    piece,
                    text="".join(one.text for one in kept),
                    logprobs=tuple(token for one in kept for token in one.logprobs),
                )
            _hand_over(loop, select_format, piece)

        ticket = self.worker.submit(request, on_output)
        try:
            return await done
        finally:
            ticket.cancel()

    async def load_adapter(self, name: str) -> LoadedAdapter:
        """Load an adapter of the adapter folder.

        Raises:
            InvalidRequestError: The name is not one of a folder there.
            NotFoundError: There is no such adapter.
        """
        folder = self._adapter_folder / checked_name(name)
        if not (folder / "card.json").is_file():
            raise NotFoundError(f"there is no adapter {name!r} in the adapter folder")
        worker = self._model_worker()
        loaded = await asyncio.wrap_future(worker.load_adapter(folder))
        RESIDENT.labels(loaded.name, loaded.version[:12]).set(1)
        _LOG.info("adapter loaded", adapter=name, version=loaded.version[:12])
        return loaded

    async def unload_adapter(self, name: str) -> None:
        """Offer an adapter no longer."""
        checked_name(name)
        adapter = self.worker.adapter(name)
        version = adapter.version if adapter else ""
        await asyncio.wrap_future(self._model_worker().unload_adapter(name))
        RESIDENT.labels(name, version[:12]).set(0)
        _LOG.info("adapter unloaded", adapter=name)

    async def watch(self, interval_s: float = 0.5) -> None:
        """Export the engine's counters until it ends; raises what broke it."""
        worker = self._model_worker()
        seen = EngineCounters()
        while not worker.ended.done():
            now = EngineCounters(**vars(worker.counters))
            RUNNING.set(now.running)
            WAITING.set(now.waiting)
            STEPS.inc(now.steps - seen.steps)
            PROMPT_TOKENS.inc(now.prompt_tokens - seen.prompt_tokens)
            GENERATED_TOKENS.inc(now.generated_tokens - seen.generated_tokens)
            DROPPED.inc(now.dropped - seen.dropped)
            REUSED_TOKENS.inc(now.reused_tokens - seen.reused_tokens)
            REUSED_LOWER_TOKENS.inc(now.reused_lower_tokens - seen.reused_lower_tokens)
            HIT_RATIO.set(now.reused_tokens / max(1, now.reused_tokens + now.prompt_tokens))
            PREFIX_BYTES.set(worker.core.prefix_cache.bytes)
            PAGE_INS.inc(now.page_ins - seen.page_ins)
            seen = now
            await asyncio.sleep(interval_s)
        worker.ended.result()

    async def close(self) -> None:
        """FinishReason what was accepted, then end the engine's thread."""
        if isinstance(self.worker, LLMEngine):
            await asyncio.to_thread(self.worker.close, drain=True)

    def _model_worker(self) -> LLMEngine:
        if not isinstance(self.worker, LLMEngine):
            raise UnavailableError("this engine has no adapters to load or unload")
        return self.worker


def load(settings: RouterSettings) -> Mission:
    """Load base model and adapters, prove the model with one token, start the engine. Blocks."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = load_backbone(settings.backbone, device=settings.device, cache=settings.cache)
    backbone, picked = select_format(
        loaded, settings.weights, settings.kernels, cache=settings.kernels_cache
    )
    _LOG.info(
        "weights",
        kind=backbone.weights,
        asked=settings.weights,
        kernels=picked.kernels,
        milliseconds=picked.milliseconds or None,
    )
    return assemble(backbone, settings)


def assemble(backbone: Backbone, settings: RouterSettings) -> Mission:
    """Put bank and engine around a loaded backbone and start it."""
    bank = AdapterBank(
        backbone,
        layers=range(settings.first_layer, len(backbone.layers)),
        rank=settings.rank,
        slots=settings.slots,
        feature_layer=settings.feature_layer,
        registered=settings.max_adapters,
    )
    overlay = _overlay(backbone, bank, settings.safety)
    for card in sorted(settings.adapter_folder.glob("*/card.json")):
        adapter = bank.load(card.parent)
        RESIDENT.labels(adapter.name, adapter.version[:12]).set(1)
        _LOG.info("adapter loaded", adapter=adapter.name, version=adapter.version[:12])
    worker = LLMEngine(
        backbone,
        bank,
        max_sequences=settings.rows,
        max_waiting=settings.queue,
        context_tokens=settings.context_tokens,
        prefix_bytes=settings.prefix_mib * 2**20,
        safety=overlay,
    )
    worker.start()
    return Mission(
        backbone,
        worker,
        settings.adapter_folder,
        safety_strength=settings.safety_strength,
        safety_floor=settings.safety_floor,
    )


def _overlay(backbone: Backbone, bank: AdapterBank, folder: Path) -> SafetyOverlay | None:
    """Put the safety adapter into the bank before any adapter; None where there is none."""
    if not (folder / CARD).is_file():
        return None
    overlay = load_overlay(bank, folder, base_digest=backbone.digest)
    RESIDENT.labels("safety", overlay.version[:12]).set(1)
    _LOG.info("safety adapter loaded", version=overlay.version[:12])
    return overlay


def checked_name(name: str) -> str:
    """Return ``name`` if it can be an adapter's.

    Raises:
        InvalidRequestError: It cannot; a path never can.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            "name", f"{name[:80]!r} is no adapter name: letters, digits, '.', '_', '-', at most 64"
        )
    return name


def _hand_over(
    loop: asyncio.AbstractEventLoop,
    take: Callable[[OutputDelta | Exception], None],
    piece: OutputDelta | Exception,
) -> None:
    """Pass a piece from the engine's thread to its reader; a closed loop has no reader."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(take, piece)
