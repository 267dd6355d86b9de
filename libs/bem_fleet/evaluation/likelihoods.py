"""Likelihood evaluation: text perplexity, and multiple choice with calibrated confidence."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bem.engine import LLMEngine, ScoreRequest, score
from bem.errors import EvaluationError
from bem.journal import Journal
from bem.prompt_encoding import PromptEncoder

from bem_fleet.evaluation.systems import Chat
from bem_fleet.evaluation.worker_system import encode_chat
from bem_fleet.scores.cache import content_key
from bem_fleet.scores.calibration import expected_calibration_error
from bem_fleet.scores.perplexity import corpus_perplexity

# Requests between two writes of the journal: an interrupted study loses minutes, not an hour.
_STORED_TOGETHER = 512


@dataclass(frozen=True)
class MultipleChoiceQuestion:
    """Conversation with alternative replies.

    Attributes:
        chat: Conversation up to the reply.
        replies: Two or more different replies.
        right: Index of the correct reply.
    """

    chat: Chat
    replies: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class ChoiceResult:
    """Reply with the highest likelihood per token.

    Attributes:
        index: Index of the chosen reply.
        confidence: Share of its per-token likelihood in the sum over all replies, 0 to 1.
        correct: 1 if the reply is the correct one, else 0.
    """

    index: int
    confidence: float
    correct: float


class LikelihoodCache:
    """Cache of log-likelihoods by model, adapter version and tokens.

    Args:
        path: JSONL file that new values are appended to; None keeps them in memory only.
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
        """Return the log-probabilities of all target tokens, [requests][tokens].

        Only requests that are not cached are scored.

        Raises:
            BemError: ``bem.engine.score`` failed.
        """
        versions = {loaded.name: loaded.version for loaded in worker.adapters()}
        keys = [
            _likelihood_key(worker, one, versions.get(one.adapter or "", "")) for one in requests
        ]
        fresh = {
            key: one for key, one in zip(keys, requests, strict=True) if key not in self._known
        }
        wanted = list(fresh)
        for start in range(0, len(wanted), _STORED_TOGETHER):
            part = wanted[start : start + _STORED_TOGETHER]
            scored = score(worker, [fresh[key] for key in part], progress=progress)
            for key, values in zip(part, scored, strict=True):
                self._known[key] = values
                self.computed += 1
                if self._journal is not None:
                    self._journal.add({"key": key, "log_likelihoods": values})
        return [self._known[key] for key in keys]


def _likelihood_key(worker: LLMEngine, request: ScoreRequest, version: str) -> str:
    tokens = (json.dumps(ids) for ids in (request.prompt_ids, request.target_ids))
    parts = [worker.backbone.digest, version, str(request.adapter_scale)]
    if request.further_adapters:
        raise EvaluationError("further_adapters: compositions are not cached; score them directly")
    if request.safety_strength and worker.safety:
        parts.append(f"{request.safety_strength:g}*{worker.safety.version}")
    return content_key(*parts, *tokens)


def text_log_likelihoods(
    worker: LLMEngine,
    texts: Sequence[str],
    adapter: str | None = None,
    *,
    cache: LikelihoodCache | None = None,
    progress: bool = False,
) -> list[list[float]]:
    """Return the log-probability in nats of each token after the first, [texts][tokens].

    Args:
        worker: Started worker.
        texts: Texts of two tokens or more. A text that exceeds the context is cut into windows
            that overlap by one token, which is context and not scored.
        adapter: Name of a loaded adapter; None for the base model.
        cache: Cache of earlier values; None scores everything.
        progress: Whether to show a progress bar.

    Raises:
        EvaluationError: A text has fewer than two tokens.
    """
    encoder = PromptEncoder(worker.backbone.tokenizer)
    begin_ids = tuple(encoder.begin_ids)
    window = worker.context_tokens - len(begin_ids)
    requests: list[ScoreRequest] = []
    owners: list[int] = []
    for index, text in enumerate(texts):
        ids = tuple(encoder.encode_text(text))
        if len(ids) < 2:
            raise EvaluationError(f"text {index}: {len(ids)} tokens; a perplexity needs two")
        for begin in range(0, len(ids) - 1, window - 1):
            window_ids = ids[begin : begin + window]
            requests.append(ScoreRequest(begin_ids + window_ids[:1], window_ids[1:], adapter))
            owners.append(index)
    by_text: list[list[float]] = [[] for _ in texts]
    scored = (cache or LikelihoodCache()).score(worker, requests, progress=progress)
    for owner, values in zip(owners, scored, strict=True):
        by_text[owner] += values
    return by_text


def text_perplexity(
    worker: LLMEngine,
    texts: Sequence[str],
    adapter: str | None = None,
    *,
    cache: LikelihoodCache | None = None,
) -> float:
    """Return the perplexity over all tokens of all texts.

    Raises:
        EvaluationError: A text has fewer than two tokens.
    """
    return corpus_perplexity(text_log_likelihoods(worker, texts, adapter, cache=cache))


def answer_multiple_choice(
    worker: LLMEngine,
    questions: Sequence[MultipleChoiceQuestion],
    adapter: str | None = None,
    *,
    safety_strength: float = 0.0,
    cache: LikelihoodCache | None = None,
    progress: bool = False,
) -> list[ChoiceResult]:
    """Return the reply with the highest likelihood for each question.

    Replies are compared by their mean log-probability per token, so that long replies are not at a
    disadvantage (the normalisation of arXiv 2005.14165, section 2.4). The confidence is the
    softmax over these means.

    Args:
        worker: Started worker.
        questions: Questions to answer.
        adapter: Name of a loaded adapter; None for the base model.
        safety_strength: Factor of the worker's safety adapter, in [0, 1].
        cache: Cache of earlier values; None scores everything.
        progress: Whether to show a progress bar.

    Raises:
        EvaluationError: A question has fewer than two replies or an empty one, or a worker without
            a safety adapter got a safety strength.
    """
    if safety_strength and worker.safety is None:
        raise EvaluationError(
            f"safety_strength: {safety_strength:g}; this worker has no safety adapter"
        )
    tokenizer = worker.backbone.tokenizer
    encode = PromptEncoder(tokenizer).encode_text
    requests = []
    for index, question in enumerate(questions):
        prompt = encode_chat(tokenizer, question.chat)
        if len(question.replies) < 2 or not all(question.replies):
            raise EvaluationError(f"question {index}: two replies or more are needed, none empty")
        requests += [
            ScoreRequest(prompt, tuple(encode(reply)), adapter, safety_strength=safety_strength)
            for reply in question.replies
        ]
    scored = iter((cache or LikelihoodCache()).score(worker, requests, progress=progress))
    return [
        _likeliest_reply(question, [next(scored) for _ in question.replies])
        for question in questions
    ]


def choice_calibration_error(choices: Sequence[ChoiceResult], *, bins: int = 15) -> float:
    """Return the expected calibration error of choices, in [0, 1].

    Raises:
        InvalidScoresError: There is no choice.
    """
    confidences = [choice.confidence for choice in choices]
    return expected_calibration_error(
        confidences, [choice.correct for choice in choices], bins=bins
    )


def _likeliest_reply(
    question: MultipleChoiceQuestion, scored: Sequence[Sequence[float]]
) -> ChoiceResult:
    means = np.array([math.fsum(values) / len(values) for values in scored])
    shares = np.exp(means - means.max())
    index = int(means.argmax())
    confidence = float(shares[index] / shares.sum())
    return ChoiceResult(index, confidence, float(index == question.right))
