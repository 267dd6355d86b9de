"""Model host: one loaded base model with its engine and adapters."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bem.adapters.loaded import LoadedAdapter
from bem.backbone import Backbone
from bem.composition.composer import MAX_ADAPTERS
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, OutputForm
from bem.engine.detokenizer import TokenBytes
from bem.errors import AdapterNotFoundError
from bem_fleet.services.router.context_limit import DefaultTokens
from bem_fleet.services.router.request_parsing import (
    DEFAULT_STRENGTH,
    RequestedStrength,
    RequestParser,
)
from bem_fleet.serving.adapter_folder import AdapterFolder, valid_adapter_name
from bem_fleet.serving.engine_outputs import (
    OutputSource,
    call_on_loop,
    collect_output,
    stream_output,
)
from bem_fleet.serving.vllm_metrics import ENGINE_METRICS
from bemfleet.router.v1 import router_pb2 as pb
from fleet import logs
from fleet.access import principal
from fleet.call_priority import yields
from fleet.errors import UnavailableError
from fleet.mission import RejectedAdapter

_LOG = logs.get("router.model_host")


class EngineClient(OutputSource, Protocol):
    """The part of an engine that answers requests."""

    context_tokens: int

    def prepare(self, form: OutputForm) -> None:
        """Compile the form of an output; blocks."""
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
        adapter_folder: Adapters on disk, or the folder that they are loaded from.
        safety_strength: Strength of the safety adapter for requests that state none, in [0, 1].
        safety_floor: Minimum strength of all requests, in [0, 1].
        warnings: What the mission serves without, with the reason.
        default_tokens: Output limits of requests that set none.
        composed_adapters: Most adapters in one request.

    Attributes:
        warnings: What the mission serves without, with the reason.
        started_unix_s: Time of loading, in seconds since the epoch.
    """

    def __init__(
        self,
        backbone: Backbone,
        engine: EngineClient,
        adapter_folder: AdapterFolder | Path,
        *,
        safety_strength: float = 0.0,
        safety_floor: float = 0.0,
        warnings: Sequence[str] = (),
        default_tokens: DefaultTokens | None = None,
        composed_adapters: int = MAX_ADAPTERS,
    ) -> None:
        self.backbone = backbone
        self.warnings = tuple(warnings)
        self.started_unix_s = int(time.time())
        self._engine = engine
        self._parser = RequestParser(
            backbone.tokenizer,
            engine.context_tokens,
            default_tokens,
            composed_adapters=composed_adapters,
        )
        self._token_bytes = TokenBytes(backbone.tokenizer)
        self._folder = (
            AdapterFolder(adapter_folder) if isinstance(adapter_folder, Path) else adapter_folder
        )
        self._safety_strength = safety_strength
        self._safety_floor = safety_floor
        # One at a time: a complex form takes a core for up to a second.
        self._preparing = asyncio.Semaphore()

    @property
    def context_tokens(self) -> int:
        """Limit of prompt and output together, in tokens."""
        return self._engine.context_tokens

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters, sorted by name."""
        return self._engine.adapters()

    def rejected_adapters(self) -> list[RejectedAdapter]:
        """Return the folders that are not served, sorted by name."""
        return self._folder.rejected()

    def find_adapter(self, model: str) -> LoadedAdapter | None:
        """Return the adapter that ``model`` names; None for the base model.

        Raises:
            AdapterNotFoundError: Neither the base model nor a loaded adapter has this name.
        """
        if model in ("", self.backbone.name):
            return None
        return self._require_adapter(model, self.backbone.name)

    def _require_adapter(self, name: str, *others: str) -> LoadedAdapter:
        if adapter := self._engine.adapter(name):
            return adapter
        names = [*others, *(adapter.name for adapter in self._engine.adapters())]
        raise AdapterNotFoundError(name, names)

    def model_version(self, adapter_version: str) -> str:
        """Return the short digest of base model and adapter version that responses carry.

        Args:
            adapter_version: Digest of an adapter version; empty for the base model.
        """
        return self.backbone.model_version(adapter_version)

    def tokenize(self, request: pb.GenerateRequest) -> list[int]:
        """Return the token ids of a request's rendered prompt, of any length.

        Raises:
            AdapterNotFoundError: The model is not loaded.
            InvalidRequestError: The input is malformed.
        """
        self.find_adapter(request.model)
        return self._parser.prompts.prompt_ids(request)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids.

        Raises:
            InvalidRequestError: The model has no such token.
        """
        return self._parser.prompts.text_of(ids)

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token."""
        return [self._token_bytes(token) for token in ids]

    def parse(
        self,
        request: pb.GenerateRequest,
        deadline: float | None,
        safety_strength: RequestedStrength = DEFAULT_STRENGTH,
    ) -> GenerationRequest:
        """Validate a wire request and render its prompt.

        Args:
            request: Request as received.
            deadline: Value of ``time.monotonic()`` at which the caller stops waiting, or None.
            safety_strength: Strength that the caller requests. The operator's floor applies to it.

        Raises:
            AdapterNotFoundError: The model is not loaded.
            InvalidRequestError: A field is out of its limit.
        """
        adapter = self.find_adapter(request.model)
        for one in request.adapters:
            if one.name:  # the parser refuses an empty name
                self._require_adapter(one.name)
        own = safety_strength.value
        strength = self._safety_strength if own is None else own
        parsed = self._parser.parse(
            request,
            adapter=adapter.name if adapter else None,
            safety_strength=max(strength, safety_strength.minimum, self._safety_floor),
            deadline=deadline,
        )
        return replace(parsed, client=principal.get().name, yields=yields.get())

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[OutputDelta]:
        """Yield the output deltas of a request; closing the iterator early frees its slot.

        Raises:
            BemError: The request is refused or dropped.
        """
        await self._prepare(request)
        output = stream_output(self._engine, request, self.backbone.name)
        async with aclosing(output) as deltas:
            async for delta in deltas:
                yield delta

    async def complete(self, request: GenerationRequest) -> OutputDelta:
        """Return one delta with the complete output; the event loop wakes up once, at its end.

        Raises:
            BemError: The request is refused or dropped.
        """
        await self._prepare(request)
        deltas = await collect_output(self._engine, request, self.backbone.name)
        return replace(
            deltas[-1],
            text="".join(one.text for one in deltas),
            logprobs=tuple(token for one in deltas for token in one.logprobs),
        )

    async def _prepare(self, request: GenerationRequest) -> None:
        if request.form:
            async with self._preparing:
                await asyncio.to_thread(self._engine.prepare, request.form)

    async def load_adapter(self, name: str) -> LoadedAdapter:
        """Load an adapter of the adapter folder.

        Raises:
            InvalidRequestError: ``name`` is no adapter name.
            NotFoundError: The folder has no such adapter.
            BemError: The adapter cannot be served.
        """
        valid_adapter_name(name)
        return await self._folder.load(self._llm_engine(), name)

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter; running requests finish with it.

        Raises:
            AdapterNotFoundError: The adapter is not loaded.
            InvalidRequestError: ``name`` is no adapter name.
        """
        valid_adapter_name(name)
        await asyncio.wrap_future(self._llm_engine().unload_adapter(name))
        _LOG.info("adapter unloaded", adapter=name)

    async def run_until_closed(self) -> None:
        """Export the engine's metrics until it ends; raise the exception that broke it."""
        engine = self._llm_engine()
        ENGINE_METRICS.attach(engine, self.backbone.name)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        engine.ended.add_done_callback(lambda _: call_on_loop(loop, ended.set))
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
