"""Many prompts or texts at once, for evaluation and traces: the engine's queue is kept full."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from tqdm import tqdm

from bem.engine.requests import (
    Finish,
    GenerationRequest,
    Piece,
    Sampling,
    Ticket,
    TokenLogprob,
)
from bem.engine.scoring import ScoreRequest
from bem.engine.worker import ModelWorker
from bem.errors import InvalidRequestError, QueueFullError

_Arrived = SimpleQueue[tuple[int, Piece | Exception]]
# Scored together; more does not make a CPU faster and holds up those who generate.
BATCH_TOKENS = 1024
ENOUGH_TOKENS, PADDING_SHARE = 256, 8
_GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Generated:
    """A whole answer.

    Attributes:
        text: What was said.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, the end token not counted.
        finish: Why it ended.
        logprobs: Of its tokens, if asked for.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: Finish
    logprobs: tuple[TokenLogprob, ...] = ()


def generate(
    worker: ModelWorker,
    prompts: Sequence[str | Sequence[int]],
    adapters: Sequence[str | None] | str | None = None,
    *,
    sampling: Sampling = _GREEDY,
    max_tokens: int = 256,
    stop: Sequence[str] = (),
    progress: bool = True,
) -> list[Generated]:
    """Answer all prompts, in their order.

    Args:
        worker: Started; may serve others too.
        prompts: Raw texts or token ids.
        adapters: One for all, or one a prompt; None is the base model.
        sampling: The same for all; greedy unless said otherwise.
        max_tokens: Longest answer.
        stop: Texts that end an answer.
        progress: Whether to show a bar.

    Raises:
        BemError: A request is refused or dropped.
        InvalidRequestError: There are not as many adapters as prompts.
    """
    named = (
        [adapters] * len(prompts)
        if adapters is None or isinstance(adapters, str)
        else list(adapters)
    )
    if len(named) != len(prompts):
        raise InvalidRequestError("adapters", f"are {len(named)} for {len(prompts)} prompts")
    encode = partial(worker.backbone.tokenizer.encode, add_special_tokens=False)
    asked = [
        GenerationRequest(
            prompt_ids=tuple(encode(prompt) if isinstance(prompt, str) else prompt),
            sampling=sampling,
            max_tokens=max_tokens,
            stop=tuple(stop),
            adapter=adapter,
        )
        for prompt, adapter in zip(prompts, named, strict=True)
    ]
    # The longest first, so that no long one runs alone at the end.
    order = sorted(range(len(asked)), key=lambda place: -len(asked[place].prompt_ids))
    found: dict[int, Generated] = {}
    with tqdm(total=len(asked), unit="prompt", disable=not progress) as bar:
        for place, answer in stream(worker, [asked[place] for place in order]):
            found[order[place]] = answer
            bar.update()
    return [found[place] for place in range(len(asked))]


def stream(
    worker: ModelWorker, requests: Sequence[GenerationRequest]
) -> Generator[tuple[int, Generated]]:
    """Keep the worker's queue full and yield (place, answer) as answers end.

    Leaving the iteration early frees the rows.

    Raises:
        BemError: A request is refused or dropped.
        QueueFullError: Others keep the queue full.
    """
    arrived: _Arrived = SimpleQueue()
    pieces: list[list[Piece]] = [[] for _ in requests]
    flying: dict[int, Ticket] = {}
    begun = done = 0
    try:
        while done < len(requests):
            while begun < len(requests):
                try:
                    flying[begun] = worker.submit(requests[begun], partial(_note, arrived, begun))
                except QueueFullError:
                    if not flying:
                        raise
                    break
                begun += 1
            place, piece = arrived.get()
            if isinstance(piece, Exception):
                raise piece
            pieces[place].append(piece)
            if piece.finish:
                done += 1
                del flying[place]
                yield place, _whole(requests[place], pieces[place])
    finally:
        for ticket in flying.values():
            ticket.cancel()


def score(
    worker: ModelWorker,
    requests: Sequence[ScoreRequest],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
) -> list[list[float]]:
    """Return the log-probabilities of all target tokens, in nats, in the requests' order.

    Args:
        worker: Started; serves others between two batches.
        requests: What to score.
        batch_tokens: Tokens that are computed together, padding included; a longer text alone.
        progress: Whether to show a bar.

    Raises:
        BemError: As of ``score_batch``, or the engine is closing.
    """
    found: dict[int, list[float]] = {}
    flying: deque[tuple[list[int], Future[list[list[float]]]]] = deque()
    with tqdm(total=len(requests), unit="text", disable=not progress) as bar:
        for places in (*_packed(requests, batch_tokens), []):
            if places:
                asked = [requests[place] for place in places]
                flying.append((places, worker.score(asked)))
            # One batch waits while another runs, so that the engine's thread never does.
            while flying and (len(flying) > 2 or not places):
                ended, future = flying.popleft()
                found |= zip(ended, future.result(), strict=True)
                bar.update(len(ended))
    return [found[place] for place in range(len(requests))]


def _packed(requests: Sequence[ScoreRequest], limit: int) -> Iterator[list[int]]:
    """Yield places of one adapter and about one length, together at most ``limit`` tokens."""
    places = sorted(
        range(len(requests)),
        key=lambda place: (
            requests[place].adapter or "",
            requests[place].adapter_scale,
            -requests[place].tokens,
        ),
    )
    taken: list[int] = []
    for place in places:
        if taken and not _fits(requests[taken[0]], len(taken), requests[place], limit):
            yield taken
            taken = []
        taken.append(place)
    if taken:
        yield taken


def _fits(first: ScoreRequest, taken: int, one: ScoreRequest, limit: int) -> bool:
    """Tell whether a text goes into a batch whose longest text is ``first``."""
    if (first.adapter, first.adapter_scale) != (one.adapter, one.adapter_scale):
        return False
    if first.tokens * (taken + 1) > limit:
        return False
    # A batch that is large enough to be fast takes only texts that need little padding.
    padding = first.tokens - one.tokens
    return first.tokens * taken < ENOUGH_TOKENS or padding * PADDING_SHARE <= first.tokens


def _whole(request: GenerationRequest, pieces: Sequence[Piece]) -> Generated:
    last = pieces[-1]
    return Generated(
        text="".join(piece.text for piece in pieces),
        prompt_tokens=len(request.prompt_ids),
        completion_tokens=last.completion_tokens,
        finish=last.finish or "stop",
        logprobs=tuple(one for piece in pieces for one in piece.logprobs),
    )


def _note(arrived: _Arrived, place: int, piece: Piece | Exception) -> None:
    arrived.put((place, piece))
