"""Model host: one loaded base model with its engine and adapters."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bem.adapters.bank import LoadedAdapter
from bem.backbone import VERSION_CHARS, Backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, RequestHandle
from bem.engine.api import OutputCallback
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem_fleet.services.router.engine_metrics import ENGINE_METRICS, INTER_TOKEN, RESIDENT, TTFT
from bem_fleet.services.router.request_parsing import RequestParser
from bemfleet.router.v1 import router_pb2 as pb
from fleet import logs
from fleet.errors import NotFoundError, UnavailableError

_LOG = logs.get("router.model_host")
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class EngineClient(Protocol):
    """The part of an engine that answers requests."""

    context_tokens: int

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> RequestHandle:
        """Enqueue a request."""
        ...

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters."""
        ...

    def adapter(self, name: str) -> LoadedAdapter | None:
        """Return one loaded adapter; None if it is not loaded."""
        ...


class ModelHost:
    """A loaded model that answers requests.

    Args:
        backbone: The base model.
        engine: Engine that owns the base model.
        adapter_folder: Folder that adapters are loaded from.
        safety_strength: Strength of the safety adapter for requests that state none, in [0, 1].
        safety_floor: Minimum strength of all requests, in [0, 1].

    Attributes:
        started_unix_s: Time of loading, in seconds since the epoch.
    """

    def __init__(
        self,
        backbone: Backbone,
        engine: EngineClient,
        adapter_folder: Path,
        *,
        safety_strength: float = 0.0,
        safety_floor: float = 0.0,
    ) -> None:
        self.backbone = backbone
        self.started_unix_s = int(time.time())
        self._engine = engine
        self._parser = RequestParser(backbone.tokenizer, engine.context_tokens)
        self._adapter_folder = adapter_folder
        self._safety_strength = safety_strength
        self._safety_floor = safety_floor

    @property
    def context_tokens(self) -> int:
        """Limit of prompt and output together, in tokens."""
        return self._engine.context_tokens

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters, sorted by name."""
        return self._engine.adapters()

    def find_adapter(self, model: str) -> LoadedAdapter | None:
        """Return the adapter that ``model`` names; None for the base model.

        Raises:
            AdapterNotFoundError: Neither the base model nor a loaded adapter has this name.
        """
        if model in ("", self.backbone.name):
            return None
        if adapter := self._engine.adapter(model):
            return adapter
        names = [self.backbone.name, *(adapter.name for adapter in self._engine.adapters())]
        raise AdapterNotFoundError(model, names)

    def model_version(self, adapter_version: str) -> str:
        """Return the short digest of base model and adapter version that responses carry.

        Args:
            adapter_version: Digest of an adapter version; empty for the base model.
        """
        return self.backbone.model_version(adapter_version)

    def parse(
        self,
        request: pb.GenerateRequest,
        deadline: float | None,
        safety_strength: float | None = None,
    ) -> GenerationRequest:
        """Validate a wire request and render its prompt.

        Args:
            request: Request as received.
            deadline: Value of ``time.monotonic()`` at which the caller stops waiting, or None.
            safety_strength: Strength that the caller requests, in [0, 1]; None for the default. The
                operator's floor applies to both.

        Raises:
            AdapterNotFoundError: The model is not loaded.
            InvalidRequestError: A field is out of its limit.
        """
        adapter = self.find_adapter(request.model)
        strength = self._safety_strength if safety_strength is None else safety_strength
        return self._parser.parse(
            request,
            adapter=adapter.name if adapter else None,
            safety_strength=max(strength, self._safety_floor),
            deadline=deadline,
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[OutputDelta]:
        """Yield the output deltas of a request; closing the iterator early frees its slot."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[OutputDelta | Exception] = asyncio.Queue()
        handle = self._engine.submit(
            request, lambda delta: _call_on_loop(loop, arrived.put_nowait, delta)
        )
        last = time.perf_counter()
        histogram = TTFT
        try:
            while True:
                delta = await arrived.get()
                if isinstance(delta, Exception):
                    raise delta
                now = time.perf_counter()
                histogram.observe(now - last)
                last, histogram = now, INTER_TOKEN
                yield delta
                if delta.finish:
                    return
        finally:
            handle.cancel()

    async def complete(self, request: GenerationRequest) -> OutputDelta:
        """Return one delta with the complete output; the event loop wakes up once, at its end."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[OutputDelta] = loop.create_future()
        deltas: list[OutputDelta] = []

        def resolve(delta: OutputDelta | Exception) -> None:
            if done.done():
                return
            if isinstance(delta, Exception):
                done.set_exception(delta)
            else:
                done.set_result(delta)

        def on_output(delta: OutputDelta | Exception) -> None:
            if isinstance(delta, OutputDelta):
                deltas.append(delta)
                if not delta.finish:
                    return
                delta = replace(
                    delta,
                    text="".join(one.text for one in deltas),
                    logprobs=tuple(token for one in deltas for token in one.logprobs),
                )
            _call_on_loop(loop, resolve, delta)

        handle = self._engine.submit(request, on_output)
        try:
            return await done
        finally:
            handle.cancel()

    async def load_adapter(self, name: str) -> LoadedAdapter:
        """Load an adapter of the adapter folder.

        Raises:
            InvalidRequestError: ``name`` is no adapter name.
            NotFoundError: The folder has no such adapter.
        """
        folder = self._adapter_folder / valid_adapter_name(name)
        if not (folder / "card.json").is_file():
            raise NotFoundError(f"there is no adapter {name!r} in the adapter folder")
        loaded = await asyncio.wrap_future(self._llm_engine().load_adapter(folder))
        RESIDENT.labels(loaded.name, loaded.version[:VERSION_CHARS]).set(1)
        _LOG.info("adapter loaded", adapter=name, version=loaded.version[:VERSION_CHARS])
        return loaded

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter; running requests finish with it.

        Raises:
            AdapterNotFoundError: The adapter is not loaded.
            InvalidRequestError: ``name`` is no adapter name.
        """
        valid_adapter_name(name)
        adapter = self._engine.adapter(name)
        version = adapter.version if adapter else ""
        await asyncio.wrap_future(self._llm_engine().unload_adapter(name))
        RESIDENT.labels(name, version[:VERSION_CHARS]).set(0)
        _LOG.info("adapter unloaded", adapter=name)

    async def run_until_closed(self) -> None:
        """Export the engine's metrics until it ends; raise the exception that broke it."""
        engine = self._llm_engine()
        ENGINE_METRICS.attach(engine)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        engine.ended.add_done_callback(lambda _: _call_on_loop(loop, ended.set))
        await ended.wait()
        engine.ended.result()

    async def close(self) -> None:
        """Finish the accepted requests, then end the engine's thread."""
        if isinstance(self._engine, LLMEngine):
            await asyncio.to_thread(self._engine.close, drain=True)
            ENGINE_METRICS.detach(self._engine)

    def _llm_engine(self) -> LLMEngine:
        if not isinstance(self._engine, LLMEngine):
            raise UnavailableError("this engine has no adapters to load or unload")
        return self._engine


class LazyModelHost:
    """The model host once it is loaded; until then every call is UNAVAILABLE.

    Attributes:
        loaded: The model host, or None while it is loading.
    """

    def __init__(self) -> None:
        self.loaded: ModelHost | None = None

    def get(self) -> ModelHost:
        """Return the model host.

        Raises:
            UnavailableError: The model is still loading.
        """
        if self.loaded is None:
            raise UnavailableError("the model is still loading", retry_after_s=2.0)
        return self.loaded


def valid_adapter_name(name: str) -> str:
    """Return ``name`` if it is an adapter name.

    Raises:
        InvalidRequestError: It is not; a path never is.
    """
    if not _ADAPTER_NAME.fullmatch(name):
        raise InvalidRequestError(
            "name",
            f"{name[:80]!r} is no adapter name; "
            "letters, digits, '.', '_' and '-' are allowed, at most 64",
        )
    return name


def _call_on_loop(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object
) -> None:
    """Call ``callback`` on the event loop from the engine's thread; a closed loop is ignored."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *arguments)
