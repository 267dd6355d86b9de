"""Sensitivity of an answer to the surface of its message, from the answers to seeded rewrites.

Every answer is scored given every form of the message. The score is the mean Jensen-Shannon
divergence between the distribution over the answers given the message and given each rewrite
(``bem_fleet.scores.surface_sensitivity``). An answer's weight is its mean probability a token, so
that its length does not decide.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bem.engine import ScoreRequest
from bem.errors import InvalidRequestError
from bem.prompt_encoding import PromptEncoder
from bem_fleet.scores.surface_sensitivity import flip_rate, surface_sensitivity
from bem_fleet.services.sep.surface_rewrites import SurfaceRewrite, surface_rewrites
from bem_fleet.serving import EngineHost, GeneratedText

_SCORE_TOKENS = 1024


@dataclass(frozen=True)
class SensitivityInquiry:
    """A message whose answer is examined.

    Attributes:
        prompt: The message.
        model: Base model or adapter; empty is the base model.
        rewrites: Number of rewrites.
        seed: Seed of the rewrites.
        rate: Share of the words that a rewrite changes.
        max_tokens: Most tokens of each answer.
    """

    prompt: str
    model: str
    rewrites: int
    seed: int
    rate: float
    max_tokens: int


@dataclass(frozen=True)
class AnswerSensitivity:
    """How much an answer depends on the surface of its message.

    Attributes:
        score: Mean Jensen-Shannon divergence in bits, in [0, 1].
        changed: Share of the rewrites with another answer, in [0, 1].
        answer: Answer to the message as it is.
        rewrites: Rewrites of the message.
        answers: Answer to each rewrite.
        tokens: Tokens generated for all answers.
    """

    score: float
    changed: float
    answer: GeneratedText
    rewrites: Sequence[SurfaceRewrite]
    answers: Sequence[str]
    tokens: int


async def answer_sensitivity(
    host: EngineHost, inquiry: SensitivityInquiry, deadline: float | None
) -> AnswerSensitivity:
    """Return the sensitivity of the answer to a message.

    Args:
        host: Engine host.
        inquiry: The message and how it is rewritten.
        deadline: Value of ``time.monotonic()`` after which the work is dropped, or None.

    Raises:
        InvalidRequestError: The prompt is empty, does not fit the context, or has nothing that a
            rewrite could change.
        AdapterNotFoundError: The model is not loaded.
    """
    host.prompt_ids(inquiry.prompt, inquiry.max_tokens)
    rewrites = surface_rewrites(
        inquiry.prompt, inquiry.rewrites, seed=inquiry.seed, rate=inquiry.rate
    )
    if not rewrites:
        raise InvalidRequestError(
            "prompt", "has no word and no space that a rewrite could change; send a text"
        )
    prompts = [inquiry.prompt, *(one.text for one in rewrites)]
    generated = await _answers(host, inquiry, prompts, deadline)
    texts = [one.text for one in generated]
    distinct = list(dict.fromkeys(texts))
    score = 0.0
    if len(distinct) > 1:
        likelihoods = await _log_distributions(host, inquiry, prompts, distinct)
        score = surface_sensitivity(likelihoods[0], likelihoods[1:])
    return AnswerSensitivity(
        score=score,
        changed=flip_rate(texts[0], texts[1:]),
        answer=generated[0],
        rewrites=rewrites,
        answers=texts[1:],
        tokens=sum(one.completion_tokens for one in generated),
    )


async def _answers(
    host: EngineHost, inquiry: SensitivityInquiry, prompts: Sequence[str], deadline: float | None
) -> list[GeneratedText]:
    """Return the answers; if one fails, the others are cancelled and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    host.generate(
                        prompt,
                        model=inquiry.model,
                        max_tokens=inquiry.max_tokens,
                        deadline=deadline,
                    )
                )
                for prompt in prompts
            ]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def _log_distributions(
    host: EngineHost, inquiry: SensitivityInquiry, prompts: Sequence[str], answers: Sequence[str]
) -> np.ndarray:
    """Return the log-probability of each answer among the answers, ``[prompts, answers]``."""
    encoder = PromptEncoder(host.backbone.tokenizer)
    end = min(host.backbone.end_token_ids)
    targets = [tuple(encoder.encode_text(answer)) or (end,) for answer in answers]
    adapter = None if inquiry.model in {"", host.backbone.name} else inquiry.model
    requests = [
        ScoreRequest(tuple(host.prompt_ids(prompt, inquiry.max_tokens)), target, adapter)
        for prompt in prompts
        for target in targets
    ]
    means: list[float] = []
    at = 0
    while at < len(requests):
        rows = max(1, _SCORE_TOKENS // requests[at].tokens)
        scored = await asyncio.wrap_future(host.engine.score(requests[at : at + rows]))
        means += [sum(one) / len(one) for one in scored]
        at += rows
    table = np.array(means).reshape(len(prompts), len(answers))
    return np.asarray(table - np.logaddexp.reduce(table, axis=1, keepdims=True))
