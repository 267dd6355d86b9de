"""A base model or an adapter in this process, by the engine that also serves it."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bem.engine import GenerationRequest, LLMEngine, Sampling, stream
from bem.errors import BemError, EvaluationError

from bem_fleet.evaluation.systems import Answer, Chat, Decoding


class WorkerSystem:
    """Answers by a running worker.

    Args:
        worker: Started; may serve others too.
        adapter: A loaded adapter's name, or None for the base model.
        strength: How much of the worker's safety adapter, in [0, 1].

    Raises:
        EvaluationError: The adapter is not loaded, or there is no safety adapter to turn up.
    """

    def __init__(
        self, worker: LLMEngine, adapter: str | None = None, *, strength: float = 0.0
    ) -> None:
        self._worker = worker
        self._adapter = adapter
        self._strength = strength
        versions = {loaded.name: loaded.version for loaded in worker.adapters()}
        if adapter is not None and adapter not in versions:
            raise EvaluationError(
                f"adapter {adapter!r} is not loaded; loaded: {', '.join(versions) or 'none'}"
            )
        base = worker.backbone
        self.name = adapter or base.name
        self.digest = f"{base.digest}+{versions[adapter]}" if adapter else base.digest
        if strength:
            if worker.safety is None:
                raise EvaluationError(f"strength {strength:g}: this worker has no safety adapter")
            self.digest += f"+{strength:g}*{worker.safety.version}"

    def answer(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Answer]]:
        """Keep the worker's queue full and yield answers as they end.

        Raises:
            EvaluationError: The engine refuses or drops a conversation.
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
        with closing(stream(self._worker, requests)) as answers:
            try:
                for place, said in answers:
                    tokens = said.prompt_tokens, said.completion_tokens
                    yield place, Answer(said.text, *tokens)
            except BemError as err:
                raise EvaluationError(f"{self.name} did not answer: {err}") from err


def encode_chat(tokenizer: Any, chat: Chat) -> tuple[int, ...]:
    """Return the tokens of a conversation that the assistant is to answer."""
    turns = [{"role": turn.role, "content": turn.content} for turn in chat]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer.encode(text, add_special_tokens=False))
