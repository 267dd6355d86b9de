"""A base model or a skill in this process, by the engine that also serves it."""

from collections.abc import Iterator, Sequence
from functools import partial
from queue import SimpleQueue

from bem.engine import GenerationRequest, ModelWorker, Piece, Sampling, Ticket
from bem.errors import EvaluationError, QueueFullError
from bem.evaluation.systems import Answer, Chat, Decoding

_Arrived = SimpleQueue[tuple[int, Piece | Exception]]


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
        arrived: _Arrived = SimpleQueue()
        prompts = [self._encode(chat) for chat in chats]
        texts = [""] * len(chats)
        flying: dict[int, Ticket] = {}
        begun = done = 0
        try:
            while done < len(chats):
                while begun < len(chats) and (
                    ticket := self._begin(prompts[begun], decoding, seed, arrived, begun)
                ):
                    flying[begun] = ticket
                    begun += 1
                if not flying:
                    raise EvaluationError(f"{self.name}: others keep the engine's queue full")
                place, piece = arrived.get()
                if isinstance(piece, Exception):
                    raise EvaluationError(f"{self.name} did not answer: {piece}") from piece
                texts[place] += piece.text
                if piece.finish:
                    done += 1
                    del flying[place]
                    tokens = len(prompts[place]), piece.completion_tokens
                    yield place, Answer(texts[place], *tokens)
        finally:
            for ticket in flying.values():
                ticket.cancel()

    def _begin(
        self, ids: tuple[int, ...], decoding: Decoding, seed: int, arrived: _Arrived, place: int
    ) -> Ticket | None:
        """Submit one conversation; None when the queue is full."""
        request = GenerationRequest(
            prompt_ids=ids,
            sampling=Sampling(temperature=decoding.temperature, seed=seed),
            max_tokens=decoding.max_tokens,
            skill=self._skill,
            safety_knob=self._knob,
        )
        try:
            return self._worker.submit(request, partial(_note, arrived, place))
        except QueueFullError:
            return None

    def _encode(self, chat: Chat) -> tuple[int, ...]:
        tokenizer = self._worker.backbone.tokenizer
        turns = [{"role": turn.role, "content": turn.content} for turn in chat]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return tuple(tokenizer.encode(text, add_special_tokens=False))


def _note(arrived: _Arrived, place: int, piece: Piece | Exception) -> None:
    arrived.put((place, piece))
