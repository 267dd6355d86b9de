"""What a model finds likely: perplexity of texts, and choices with their confidence."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bem.engine import LLMEngine, ScoreRequest, score
from bem.errors import EvaluationError
from bem.journal import Journal

from bem_fleet.evaluation.in_process import encode_chat
from bem_fleet.evaluation.systems import Chat
from bem_fleet.scores.cache import content_key
from bem_fleet.scores.calibration import expected_calibration_error
from bem_fleet.scores.likelihood import corpus_perplexity


@dataclass(frozen=True)
class Question:
    """A conversation with replies to choose from.

    Attributes:
        chat: Up to the reply.
        replies: At least two, different.
        right: Place of the right one.
    """

    chat: Chat
    replies: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Choice:
    """The reply that a model finds likeliest a token.

    Attributes:
        place: Of the chosen reply.
        confidence: Its share of the likelihoods a token of all replies, in [0, 1].
        correct: 1 if it is the right one, else 0.
    """

    place: int
    confidence: float
    correct: float


class LikelihoodCache:
    """Log-likelihoods by model, adapter version and tokens, so that no text is scored twice.

    Args:
        path: A JSONL file that is added to, or None to remember in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._journal = Journal(path) if path else None
        self._known: dict[str, list[float]] = {}
        self.computed = 0
        for row in self._journal.rows() if self._journal is not None else ():
            self._known[row["key"]] = row["log_likelihoods"]

    def score(
        self, worker: LLMEngine, requests: Sequence[ScoreRequest], *, progress: bool = False
    ) -> list[list[float]]:
        """Return the log-probabilities of all target tokens, asking only for what is new.

        Raises:
            BemError: As of ``bem.engine.score``.
        """
        versions = {loaded.name: loaded.version for loaded in worker.adapters()}
        keys = [_key(worker, one, versions.get(one.adapter or "", "")) for one in requests]
        fresh = {
            key: one for key, one in zip(keys, requests, strict=True) if key not in self._known
        }
        scored = score(worker, list(fresh.values()), progress=progress) if fresh else []
        for key, values in zip(fresh, scored, strict=True):
            self._known[key] = values
            self.computed += 1
            if self._journal is not None:
                self._journal.add({"key": key, "log_likelihoods": values})
        return [self._known[key] for key in keys]


def _key(worker: LLMEngine, asked: ScoreRequest, version: str) -> str:
    tokens = (json.dumps(ids) for ids in (asked.prompt_ids, asked.target_ids))
    return content_key(worker.backbone.digest, version, str(asked.adapter_scale), *tokens)


def text_log_likelihoods(
    worker: LLMEngine,
    texts: Sequence[str],
    adapter: str | None = None,
    *,
    cache: LikelihoodCache | None = None,
    progress: bool = False,
) -> list[list[float]]:
    """Return each text's log-probabilities a token in nats, those after its first token.

    Args:
        worker: Started.
        texts: Each of at least two tokens; what exceeds the context is cut into pieces, each of
            which begins with one token that is not scored.
        adapter: A loaded adapter's name, or None for the base model.
        cache: What is known already; None scores everything.
        progress: Whether to show a bar.

    Raises:
        EvaluationError: A text has fewer than two tokens.
    """
    encode = worker.backbone.tokenizer.encode
    window = worker.context_tokens
    requests: list[ScoreRequest] = []
    owners: list[int] = []
    for place, text in enumerate(texts):
        ids = tuple(encode(text, add_special_tokens=False))
        if len(ids) < 2:
            raise EvaluationError(f"text {place} has {len(ids)} tokens; a perplexity needs two")
        for begin in range(0, len(ids) - 1, window - 1):
            piece = ids[begin : begin + window]
            requests.append(ScoreRequest(piece[:1], piece[1:], adapter))
            owners.append(place)
    found: list[list[float]] = [[] for _ in texts]
    scored = (cache or LikelihoodCache()).score(worker, requests, progress=progress)
    for owner, values in zip(owners, scored, strict=True):
        found[owner] += values
    return found


def text_perplexity(
    worker: LLMEngine,
    texts: Sequence[str],
    adapter: str | None = None,
    *,
    cache: LikelihoodCache | None = None,
) -> float:
    """Return the perplexity over all tokens of all texts.

    Raises:
        EvaluationError: As of ``text_log_likelihoods``.
    """
    return corpus_perplexity(text_log_likelihoods(worker, texts, adapter, cache=cache))


def choose(
    worker: LLMEngine,
    questions: Sequence[Question],
    adapter: str | None = None,
    *,
    cache: LikelihoodCache | None = None,
    progress: bool = False,
) -> list[Choice]:
    """Return the reply that the model finds likeliest, a question each.

    Replies are compared by their mean log-probability a token, so that long ones are not at a
    disadvantage (the normalisation of arXiv 2005.14165, section 2.4); the confidence is the
    softmax over these means.

    Raises:
        EvaluationError: A question has fewer than two replies, or an empty one.
    """
    tokenizer = worker.backbone.tokenizer
    requests = []
    for place, question in enumerate(questions):
        prompt = encode_chat(tokenizer, question.chat)
        if len(question.replies) < 2 or not all(question.replies):
            raise EvaluationError(f"question {place} needs two replies or more, none empty")
        requests += [
            ScoreRequest(prompt, tuple(tokenizer.encode(reply, add_special_tokens=False)), adapter)
            for reply in question.replies
        ]
    scored = iter((cache or LikelihoodCache()).score(worker, requests, progress=progress))
    return [_choice(question, [next(scored) for _ in question.replies]) for question in questions]


def choice_calibration_error(choices: Sequence[Choice], *, bins: int = 15) -> float:
    """Return the expected calibration error of choices, in [0, 1].

    Raises:
        InvalidScoresError: No choice.
    """
    confidences = [one.confidence for one in choices]
    return expected_calibration_error(confidences, [one.correct for one in choices], bins=bins)


def _choice(question: Question, scored: Sequence[Sequence[float]]) -> Choice:
    means = np.array([math.fsum(values) / len(values) for values in scored])
    shares = np.exp(means - means.max())
    place = int(means.argmax())
    confidence = float(shares[place] / shares.sum())
    return Choice(place, confidence, float(place == question.right))
