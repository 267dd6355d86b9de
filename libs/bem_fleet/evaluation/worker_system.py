"""Evaluation of a base model or adapter in this process, by the serving engine."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bem.engine import GenerationRequest, LLMEngine, Sampling, stream
from bem.errors import BemError, EvaluationError
from bem.prompt_encoding import PromptEncoder

from bem_fleet.evaluation.systems import Chat, Decoding, Response


class WorkerSystem:
    """System that responds with a model worker of this process.

    Args:
        worker: Started worker; it may serve other callers too.
        adapter: Name of a loaded adapter; None for the base model.
        safety_strength: Scale of the worker's safety adapter, 0 to 1.

    Raises:
        EvaluationError: The adapter is not loaded, or the worker has no safety adapter.
    """

    def __init__(
        self, worker: LLMEngine, adapter: str | None = None, *, safety_strength: float = 0.0
    ) -> None:
        self._worker = worker
        self._adapter = adapter
        self._strength = safety_strength
        versions = {loaded.name: loaded.version for loaded in worker.adapters()}
        if adapter is not None and adapter not in versions:
            raise EvaluationError(
                f"adapter {adapter!r} is not loaded; loaded: {', '.join(versions) or 'none'}"
            )
        base = worker.backbone
        self.name = adapter or base.name
        self.digest = f"{base.digest}+{versions[adapter]}" if adapter else base.digest
        if safety_strength:
            if worker.safety is None:
                raise EvaluationError(
                    f"safety_strength: {safety_strength:g}; this worker has no safety adapter"
                )
            self.digest += f"+{safety_strength:g}*{worker.safety.version}"

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Submit all conversations and yield (index, response) in order of completion.

        Raises:
            EvaluationError: The engine rejects or drops a conversation.
        """
        requests = [
            GenerationRequest(
                prompt_ids=encode_chat(self._worker.backbone.tokenizer, chat),
                sampling=Sampling(temperature=decoding.temperature, seed=seed),
                max_tokens=decoding.max_tokens,
                adapter=self._adapter,
                safety_strength=self._strength,
            )
            for chat in chats
        ]
        with closing(stream(self._worker, requests)) as completions:
            try:
                for index, completion in completions:
                    tokens = completion.prompt_tokens, completion.completion_tokens
                    yield index, Response(completion.text, *tokens)
            except BemError as err:
                raise EvaluationError(f"{self.name}: no response: {err}") from err


def encode_chat(tokenizer: Any, chat: Chat) -> tuple[int, ...]:
    """Return the token ids of a conversation up to the start of the assistant's reply."""
    turns = [{"role": turn.role, "content": turn.content} for turn in chat]
    return tuple(PromptEncoder(tokenizer).encode_chat(turns))
