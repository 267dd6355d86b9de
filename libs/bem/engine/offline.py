"""Offline generation and scoring: many prompts at once, with the engine's queue kept full."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from torch import Tensor
from tqdm import tqdm

from bem.engine.api import (
    FinishReason,
    GenerationRequest,
    OutputDelta,
    RequestHandle,
    Sampling,
    TokenLogprob,
)
from bem.engine.engine import LLMEngine
from bem.engine.scoring import ScoreRequest
from bem.errors import InvalidRequestError, QueueFullError
from bem.prompt_encoding import PromptEncoder

_Arrived = SimpleQueue[tuple[int, OutputDelta | Exception]]
# Tokens scored together; larger batches are no faster on a CPU and delay running requests.
BATCH_TOKENS = 1024
# A batch of this many tokens is fast enough to refuse texts that need more padding than a share.
FAST_BATCH_TOKENS, PADDING_SHARE = 256, 8
_GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Completion:
    """A complete output.

    Attributes:
        text: Generated text.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, without the end token.
        finish: Finish reason.
        logprobs: Log-probabilities of the generated tokens, if requested.
        cached_tokens: Prompt tokens whose keys and values came from the prefix cache.
        prompt_state: ``[F]`` mean state of the prompt, if requested.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    prompt_state: Tensor | None = None


def generate(
    engine: LLMEngine,
    prompts: Sequence[str | Sequence[int]],
    adapters: Sequence[str | None] | str | None = None,
    *,
    sampling: Sampling = _GREEDY,
    max_tokens: int = 256,
    stop: Sequence[str] = (),
    progress: bool = True,
) -> list[Completion]:
    """Complete all prompts and return the completions in their order.

    Args:
        engine: Started engine; other clients may use it too.
        prompts: Raw texts or token ids; a control token spelled in a text is text.
        adapters: One adapter for all prompts, or one per prompt; None is the base model.
        sampling: Sampling settings of all prompts; greedy by default.
        max_tokens: Limit of each completion.
        stop: Stop strings.
        progress: Whether to show a progress bar.

    Raises:
        BemError: A request is refused or dropped.
        InvalidRequestError: The numbers of adapters and prompts differ.
    """
    names = (
        [adapters] * len(prompts)
        if adapters is None or isinstance(adapters, str)
        else list(adapters)
    )
    if len(names) != len(prompts):
        raise InvalidRequestError(
            "adapters", f"{len(names)} for {len(prompts)} prompts; give one, or one per prompt"
        )
    encode = PromptEncoder(engine.backbone.tokenizer).encode_text
    requests = [
        GenerationRequest(
            prompt_ids=tuple(encode(prompt) if isinstance(prompt, str) else prompt),
            sampling=sampling,
            max_tokens=max_tokens,
            stop=tuple(stop),
            adapter=adapter,
        )
        for prompt, adapter in zip(prompts, names, strict=True)
    ]
    # The longest prompts first, so that no long one runs alone at the end.
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt_ids))
    completions: dict[int, Completion] = {}
    with tqdm(total=len(requests), unit="prompt", disable=not progress) as bar:
        for index, completion in stream(engine, [requests[index] for index in order]):
            completions[order[index]] = completion
            bar.update()
    return [completions[index] for index in range(len(requests))]


def stream(
    engine: LLMEngine, requests: Sequence[GenerationRequest]
) -> Generator[tuple[int, Completion]]:
    """Keep the engine's queue full and yield (index, completion) as requests finish.

    Closing the generator early cancels the remaining requests.

    Raises:
        BemError: A request is refused or dropped.
        QueueFullError: Other clients keep the queue full.
    """
    arrived: _Arrived = SimpleQueue()
    deltas: list[list[OutputDelta]] = [[] for _ in requests]
    in_flight: dict[int, RequestHandle] = {}
    submitted = finished = 0
    try:
        while finished < len(requests):
            while submitted < len(requests):
                try:
                    callback = partial(_enqueue, arrived, submitted)
                    in_flight[submitted] = engine.submit(requests[submitted], callback)
                except QueueFullError:
                    if not in_flight:
                        raise
                    break
                submitted += 1
            index, delta = arrived.get()
            if isinstance(delta, Exception):
                raise delta
            deltas[index].append(delta)
            if delta.finish:
                finished += 1
                del in_flight[index]
                yield index, _completion(requests[index], deltas[index])
    finally:
        for handle in in_flight.values():
            handle.cancel()


def score(
    engine: LLMEngine,
    requests: Sequence[ScoreRequest],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
) -> list[list[float]]:
    """Return the log-probabilities of all target tokens, in nats, in the requests' order.

    Args:
        engine: Started engine; it serves other clients between two batches.
        requests: Texts to score.
        batch_tokens: Limit of the tokens computed together, padding included; a longer text is
            computed alone.
        progress: Whether to show a progress bar.

    Raises:
        BemError: A text cannot be scored, or the engine is closing.
    """
    scores: dict[int, list[float]] = {}
    in_flight: deque[tuple[list[int], Future[list[list[float]]]]] = deque()
    with tqdm(total=len(requests), unit="text", disable=not progress) as bar:
        for indices in (*_batches(requests, batch_tokens), []):
            if indices:
                batch = [requests[index] for index in indices]
                in_flight.append((indices, engine.score(batch)))
            # One batch waits while another runs, so that the engine's thread never idles.
            while in_flight and (len(in_flight) > 2 or not indices):
                scored, future = in_flight.popleft()
                scores |= zip(scored, future.result(), strict=True)
                bar.update(len(scored))
    return [scores[index] for index in range(len(requests))]


def _batches(requests: Sequence[ScoreRequest], limit: int) -> Iterator[list[int]]:
    """Yield indices of the same adapters and similar length, at most ``limit`` tokens together."""
    order = sorted(
        range(len(requests)),
        key=lambda index: (
            [(one.name, one.scale) for one in requests[index].adapters],
            -requests[index].tokens,
        ),
    )
    batch: list[int] = []
    for index in order:
        if batch and not _fits(requests[batch[0]], len(batch), requests[index], limit):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _fits(longest: ScoreRequest, count: int, request: ScoreRequest, limit: int) -> bool:
    """Return whether a text fits a batch of ``count`` texts with the given longest text."""
    if longest.adapters != request.adapters:
        return False
    if longest.tokens * (count + 1) > limit:
        return False
    # A batch that is large enough to be fast takes only texts that need little padding.
    padding = longest.tokens - request.tokens
    small = longest.tokens * count < FAST_BATCH_TOKENS
    return small or padding * PADDING_SHARE <= longest.tokens


def _completion(request: GenerationRequest, deltas: Sequence[OutputDelta]) -> Completion:
    last = deltas[-1]
    return Completion(
        text="".join(delta.text for delta in deltas),
        prompt_tokens=len(request.prompt_ids),
        completion_tokens=last.completion_tokens,
        finish=last.finish or "stop",
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
        cached_tokens=last.cached_tokens,
        prompt_state=deltas[0].prompt_state,
    )


def _enqueue(arrived: _Arrived, index: int, delta: OutputDelta | Exception) -> None:
    arrived.put((index, delta))
