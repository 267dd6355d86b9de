"""Engine host: one engine and its adapters, for the mission contract and a mission's own RPCs."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import torch
from bem.adapters.loaded import LoadedAdapter
from bem.backbone import Backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.prompt_encoding import PromptEncoder
from fleet import logs
from fleet.access import principal
from fleet.call_priority import yields
from fleet.errors import UnavailableError
from fleet.mission import AdapterInfo, ProbeAnswer, RejectedAdapter

from bem_fleet.serving.adapter_folder import AdapterFolder
from bem_fleet.serving.engine_outputs import collect_output, stream_output
from bem_fleet.serving.model_loading import load_verified_backbone, model_warnings, open_bank
from bem_fleet.serving.settings import EngineSettings

_LOG = logs.get("serving")


@dataclass(frozen=True)
class GeneratedText:
    """Complete output of one request.

    Attributes:
        text: Generated text.
        completion_tokens: Tokens generated.
        model_version: Digest of the base model, and of the adapter if one was used.
    """

    text: str
    completion_tokens: int
    model_version: str


class EngineHost:
    """Generates text with the base model and its adapters, as ``fleet.mission.MissionHost`` states.

    Args:
        backbone: The base model.
        engine: Started engine that owns it.
        folder: Adapters on disk.

    Attributes:
        warnings: What the mission serves without, with the reason.
    """

    def __init__(self, backbone: Backbone, engine: LLMEngine, folder: AdapterFolder) -> None:
        self.backbone = backbone
        self.engine = engine
        self.warnings = model_warnings(backbone)
        self._folder = folder
        self._started_unix_s = int(time.time())

    @property
    def base_model(self) -> AdapterInfo:
        """The base model."""
        return AdapterInfo(
            self.backbone.name,
            self.backbone.digest,
            loaded_unix_s=self._started_unix_s,
            base=True,
            weights=self.backbone.weight_format,
        )

    @property
    def context_tokens(self) -> int:
        """Limit of prompt and output together, in tokens."""
        return self.engine.context_tokens

    @property
    def planner(self) -> AdapterInfo | None:
        """None: the engine of such a mission plans nothing."""
        return None

    def loaded_adapters(self) -> Sequence[AdapterInfo]:
        """Return the loaded adapters, sorted by name."""
        return [adapter_info(adapter) for adapter in self.engine.adapters()]

    def rejected_adapters(self) -> Sequence[RejectedAdapter]:
        """Return the folders that are not served, sorted by name."""
        return self._folder.rejected()

    async def load(self, name: str) -> AdapterInfo:
        """Load an adapter of the adapter folder; errors as in ``AdapterFolder.load``."""
        return adapter_info(await self._folder.load(self.engine, name))

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that use it finish first."""
        await asyncio.wrap_future(self.engine.unload_adapter(name))
        _LOG.info("adapter unloaded", adapter=name)

    async def probe(self, model: str, prompt: str, max_tokens: int) -> ProbeAnswer:
        """Answer one user message greedily."""
        done = await self.generate(prompt, model=model, max_tokens=max_tokens)
        return ProbeAnswer(done.text, done.model_version)

    async def generate(
        self, prompt: str, *, model: str = "", max_tokens: int = 64, deadline: float | None = None
    ) -> GeneratedText:
        """Answer one user message greedily.

        Args:
            prompt: Text of the user message.
            model: Base model or adapter; empty is the base model.
            max_tokens: Most tokens to generate.
            deadline: Value of ``time.monotonic()`` after which the request is dropped, or None.

        Raises:
            InvalidRequestError: The prompt is empty or does not fit the context.
            AdapterNotFoundError: The model is not loaded.
        """
        return await self.run(
            self.request(prompt, model=model, max_tokens=max_tokens, deadline=deadline)
        )

    def request(
        self, prompt: str, *, model: str = "", max_tokens: int = 64, deadline: float | None = None
    ) -> GenerationRequest:
        """Return the greedy request of a user message; arguments and errors as in ``generate``."""
        adapter = self._adapter(model)
        return GenerationRequest(
            prompt_ids=tuple(self.prompt_ids(prompt, max_tokens)),
            sampling=Sampling(temperature=0.0),
            max_tokens=max_tokens,
            adapter=adapter.name if adapter else None,
            deadline=deadline,
            client=principal.get().name,
            yields=yields.get(),
        )

    def stream(self, request: GenerationRequest) -> AsyncGenerator[OutputDelta]:
        """Yield the output deltas of a request; closing the iterator early frees its slot.

        Raises:
            BemError: The request is refused or dropped.
        """
        return stream_output(self.engine, request, self.backbone.name)

    def joined(self, deltas: Sequence[OutputDelta]) -> GeneratedText:
        """Return the complete output of a request from all of its deltas."""
        last = deltas[-1]
        # The engine knows the version: an adapter may be reloaded while its request is queued.
        version = self.backbone.model_version(last.adapter_version)
        text = "".join(one.text for one in deltas)
        return GeneratedText(text, last.completion_tokens, version)

    def prompt_ids(self, prompt: str, max_tokens: int) -> list[int]:
        """Return the token ids of a user message in the chat template, ready for an answer.

        Args:
            prompt: Text of the user message.
            max_tokens: Tokens of the answer that must fit beside it.

        Raises:
            InvalidRequestError: The prompt is empty or does not fit the context.
        """
        if not prompt.strip():
            raise InvalidRequestError("prompt", "is empty; write one user message")
        encoder = PromptEncoder(self.backbone.tokenizer)
        if self.backbone.tokenizer.chat_template:
            ids = encoder.encode_chat([{"role": "user", "content": prompt}])
        else:  # a model without a template continues the prompt as it is
            ids = encoder.encode_text(prompt, begins_sequence=True)
        limit = self.context_tokens - max_tokens
        if len(ids) > limit:
            raise InvalidRequestError(
                "prompt",
                f"has {len(ids)} tokens; at most {limit} fit beside max_tokens; shorten it",
            )
        return ids

    async def close(self) -> None:
        """Finish accepted requests, then end the engine's thread."""
        await asyncio.to_thread(self.engine.close, drain=True)

    async def wait(self) -> None:
        """Return when the engine ends; raises the exception that broke it."""
        # Cancelling this task must not cancel the future, which the engine's thread completes.
        await asyncio.shield(asyncio.wrap_future(self.engine.ended))

    async def run(self, request: GenerationRequest) -> GeneratedText:
        """Return the complete output of a request; the event loop wakes up once, at its end.

        Cancelling the task cancels the request.

        Raises:
            BemError: The request is refused or dropped.
        """
        return self.joined(await collect_output(self.engine, request, self.backbone.name))

    def _adapter(self, model: str) -> LoadedAdapter | None:
        if model in ("", self.backbone.name):
            return None
        if adapter := self.engine.adapter(model):
            return adapter
        known = [self.backbone.name, *(adapter.name for adapter in self.engine.adapters())]
        raise AdapterNotFoundError(model, known)


class HostHolder:
    """Engine host of a service that is reachable before its model is loaded."""

    def __init__(self) -> None:
        self.host: EngineHost | None = None

    def get(self) -> EngineHost:
        """Return the host.

        Raises:
            UnavailableError: The model is still loading.
        """
        if self.host is None:
            raise UnavailableError("the model is still loading; retry later", retry_after_s=2.0)
        return self.host


def load_host(
    settings: EngineSettings, prepare: Callable[[Backbone], Backbone] = lambda loaded: loaded
) -> EngineHost:
    """Load base model and adapters and start the engine; blocks for seconds.

    Args:
        settings: Settings of model and engine.
        prepare: Changes the verified base model before adapter sites are installed in it.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    backbone = load_verified_backbone(
        settings.backbone,
        device=settings.device,
        cache=settings.cache,
        context_tokens=settings.context_tokens,
    )
    backbone = prepare(backbone)
    bank = open_bank(
        backbone,
        first_layer=settings.first_layer,
        feature_layer=settings.feature_layer,
        rank=settings.rank,
        slots=settings.slots,
    )
    folder = AdapterFolder(settings.adapter_folder)
    folder.load_all(bank)
    engine = LLMEngine(
        backbone,
        bank,
        max_sequences=settings.rows,
        max_waiting=settings.queue,
        max_wait_s=settings.queue_s,
        guests=settings.guests,
        context_tokens=settings.context_tokens,
        prefix_bytes=settings.prefix_mib * 2**20,
    )
    engine.start()
    return EngineHost(backbone, engine, folder)


def adapter_info(adapter: LoadedAdapter) -> AdapterInfo:
    """Return an adapter as the mission contract describes it."""
    measured = adapter.card.metrics.get("peft")
    difference = measured.get("projection_logit_difference") if isinstance(measured, dict) else None
    return AdapterInfo(
        adapter.name,
        adapter.version,
        adapter.rank,
        int(adapter.loaded_unix_s),
        projection=adapter.projection,
        projection_logit_difference=difference if isinstance(difference, float) else 0.0,
    )
