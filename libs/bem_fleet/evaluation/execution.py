"""Collection of responses: each side answers each item once, cached across evaluation runs."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bem.errors import EvaluationError
from bem.journal import Journal
from tqdm import tqdm

from bem_fleet.evaluation.systems import (
    Chat,
    ComparisonSide,
    Decoding,
    EvaluationItem,
    Response,
    SystemRun,
)
from bem_fleet.scores.cache import content_key


@dataclass(frozen=True)
class TimedResponse:
    """Response with its time.

    Attributes:
        response: Response of the system.
        seconds: Time since the previous response of the side, so that the sum over its responses
            is the wall time of the side.
        cached: Whether an earlier evaluation run collected it.
    """

    response: Response
    seconds: float
    cached: bool


class ResponseCache:
    """Cache of responses by model, adapter version, prompt, seed and decoding settings.

    Each response is written to disk on arrival, so that a killed run resumes where it stopped.

    Args:
        path: JSONL file that new responses are appended to; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._journal = Journal(path) if path else None
        self._known: dict[str, tuple[Response, float]] = {}
        for row in self._journal.rows() if self._journal is not None else ():
            self._known[row["key"]] = (Response(**row["answer"]), row["seconds"])

    def find(self, key: str) -> TimedResponse | None:
        """Return the response of an earlier run; None if there is none."""
        known = self._known.get(key)
        return TimedResponse(*known, cached=True) if known else None

    def add(self, key: str, response: Response, seconds: float) -> None:
        """Add a response."""
        self._known[key] = (response, seconds)
        if self._journal is not None:
            self._journal.add({"key": key, "answer": asdict(response), "seconds": seconds})


def collect_responses(
    side: ComparisonSide, items: Sequence[EvaluationItem], decoding: Decoding, cache: ResponseCache
) -> list[list[TimedResponse]]:
    """Return the responses of a side, [runs][items].

    Raises:
        EvaluationError: A system fails, or answers an item twice or not at all.
    """
    chats = [side.chat(item) for item in items]
    return [_collect_run(side.name, run, chats, decoding, cache) for run in side.runs]


def _collect_run(
    title: str, run: SystemRun, chats: Sequence[Chat], decoding: Decoding, cache: ResponseCache
) -> list[TimedResponse]:
    # Greedy responses do not depend on the sampling seed, so all seeds share one cache entry.
    seed = run.seed if decoding.temperature else 0
    keys = [_response_key(run.system.digest, chat, seed, decoding) for chat in chats]
    responses = {key: cached for key in keys if (cached := cache.find(key))}
    fresh = dict.fromkeys(key for key in keys if key not in responses)
    chat_of = dict(zip(keys, chats, strict=True))
    missing_keys = list(fresh)
    arrived = (
        run.system.respond([chat_of[key] for key in missing_keys], decoding, seed)
        if missing_keys
        else ()
    )
    bar = tqdm(arrived, total=len(keys), initial=len(responses), desc=title, unit="item")
    for key, response, seconds in _time_arrivals(missing_keys, bar):
        if key in responses:
            raise EvaluationError(f"{run.system.name} answered an item twice")
        cache.add(key, response, seconds)
        responses[key] = TimedResponse(response, seconds, cached=False)
    if missing := len(set(keys)) - len(responses):
        raise EvaluationError(f"{run.system.name} left {missing} of {len(keys)} items unanswered")
    return [responses[key] for key in keys]


def _time_arrivals(
    keys: Sequence[str], arrived: Iterable[tuple[int, Response]]
) -> Iterable[tuple[str, Response, float]]:
    last = time.perf_counter()
    for index, response in arrived:
        now = time.perf_counter()
        yield keys[index], response, now - last
        last = now


def _response_key(digest: str, chat: Chat, seed: int, decoding: Decoding) -> str:
    prompt = json.dumps([asdict(turn) for turn in chat])
    return content_key(digest, prompt, str(seed), json.dumps(asdict(decoding)))
