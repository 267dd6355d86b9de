"""Execute: every side answers every item once; what was answered before is read back."""

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
    """An answer and what it cost.

    Attributes:
        response: Response of the system.
        seconds: Time since the side's previous answer when it was made; over a side's answers
            they add up to the wall time that the side took.
        cached: Whether it was made by an earlier run.
    """

    response: Response
    seconds: float
    cached: bool


class ResponseCache:
    """Answers by model, adapter version, prompt, seed and decoding.

    Every answer is on disk as soon as it is there, so that a run that is killed goes on where it
    was.

    Args:
        path: A JSONL file that is added to, or None to remember in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._journal = Journal(path) if path else None
        self._known: dict[str, tuple[Response, float]] = {}
        for row in self._journal.rows() if self._journal is not None else ():
            self._known[row["key"]] = (Response(**row["answer"]), row["seconds"])

    def find(self, key: str) -> TimedResponse | None:
        """Return the answer of an earlier run."""
        known = self._known.get(key)
        return TimedResponse(*known, cached=True) if known else None

    def add(self, key: str, answer: Response, seconds: float) -> None:
        """Remember an answer."""
        self._known[key] = (answer, seconds)
        if self._journal is not None:
            self._journal.add({"key": key, "answer": asdict(answer), "seconds": seconds})


def collect_responses(
    side: ComparisonSide, items: Sequence[EvaluationItem], decoding: Decoding, cache: ResponseCache
) -> list[list[TimedResponse]]:
    """Return a side's answers, [runs][items].

    Raises:
        EvaluationError: A system fails, or answers a place twice or not at all.
    """
    chats = [side.chat(item) for item in items]
    return [_collect_run(side.name, run, chats, decoding, cache) for run in side.runs]


def _collect_run(
    title: str, run: SystemRun, chats: Sequence[Chat], decoding: Decoding, cache: ResponseCache
) -> list[TimedResponse]:
    # Greedy answers do not depend on the seed, so that all seeds share them.
    seed = run.seed if decoding.temperature else 0
    keys = [_response_key(run.system.digest, chat, seed, decoding) for chat in chats]
    given = {key: found for key in keys if (found := cache.find(key))}
    fresh = dict.fromkeys(key for key in keys if key not in given)
    asked = dict(zip(keys, chats, strict=True))
    wanted = list(fresh)
    arrived = run.system.respond([asked[key] for key in wanted], decoding, seed) if wanted else ()
    bar = tqdm(arrived, total=len(keys), initial=len(given), desc=title, unit="item")
    for key, answer, seconds in _time_arrivals(wanted, bar):
        if key in given:
            raise EvaluationError(f"{run.system.name} answered an item twice")
        cache.add(key, answer, seconds)
        given[key] = TimedResponse(answer, seconds, cached=False)
    if missing := len(set(keys)) - len(given):
        raise EvaluationError(f"{run.system.name} left {missing} of {len(keys)} items unanswered")
    return [given[key] for key in keys]


def _time_arrivals(
    wanted: Sequence[str], arrived: Iterable[tuple[int, Response]]
) -> Iterable[tuple[str, Response, float]]:
    last = time.perf_counter()
    for place, answer in arrived:
        now = time.perf_counter()
        yield wanted[place], answer, now - last
        last = now


def _response_key(digest: str, chat: Chat, seed: int, decoding: Decoding) -> str:
    prompt = json.dumps([asdict(turn) for turn in chat])
    return content_key(digest, prompt, str(seed), json.dumps(asdict(decoding)))
