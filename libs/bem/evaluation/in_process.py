"""A base model or a skill in this process, by the engine that also serves it."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bem.engine import GenerationRequest, ModelWorker, Sampling, stream
from bem.errors import BemError, EvaluationError
from bem.evaluation.systems import Answer, Chat, Decoding


class WorkerSystem:
    """Answers by a running worker.

    Args:
        worker: Started; may serve others too.
        skill: A loaded skill's name, or None for the base model.
        knob: How much of the worker's safety adapter, in [0, 1].

    Raises:
        EvaluationError: The skill is not loaded, or there is no safety adapter to turn up.
    """

    def __init__(self, worker: ModelWorker, skill: str | None = None, *, knob: float = 0.0) -> None:
        self._worker = worker
        self._skill = skill
        self._knob = knob
        versions = {loaded.name: loaded.version for loaded in worker.skills()}
        if skill is not None and skill not in versions:
            raise EvaluationError(
                f"skill {skill!r} is not loaded; loaded: {', '.join(versions) or 'none'}"
            )
        base = worker.backbone
        self.name = skill or base.name
        self.digest = f"{base.digest}+{versions[skill]}" if skill else base.digest
        if knob:
            if worker.safety is None:
                raise EvaluationError(f"knob {knob:g}: this worker has no safety adapter")
            self.digest += f"+{knob:g}*{worker.safety.version}"

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
                skill=self._skill,
                safety_knob=self._knob,
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
