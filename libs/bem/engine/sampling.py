"""From logits to the next token, each row with its own settings and random numbers."""

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.engine.requests import Sampling

# Sorting a whole vocabulary costs milliseconds; a nucleus is nearly always smaller than this.
NUCLEUS = 512


@dataclass(frozen=True)
class Choice:
    """A chosen token.

    Attributes:
        token: Its id.
        logprob: The model's own, before penalties and temperature; 0 when not asked for.
        top: Ids and log-probabilities of the likeliest tokens, likeliest first.
    """

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one request.

    Args:
        sampling: The request's settings.
        prompt: Token ids of the prompt, for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._bias = (
            torch.tensor([token for token, _ in sampling.logit_bias], dtype=torch.long),
            torch.tensor([value for _, value in sampling.logit_bias], dtype=torch.float32),
        )
        self._generator = torch.Generator()
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        self._generator.manual_seed(seed % 2**63)

    def choose(self, logits: Tensor) -> Choice:
        """Return the next token for ``logits [V]``, float32."""
        logits = logits.cpu()
        token = self._choose(self._changed(logits))
        self._counts[token] += 1
        if self._sampling.repetition_penalty != 1:
            self._seen.add(token)
        wanted = self._sampling.logprobs
        return Choice(token) if wanted is None else report(logits, token, wanted)

    def _changed(self, logits: Tensor) -> Tensor:
        """Apply repetition penalty, presence and frequency penalties, and bias."""
        settings = self._sampling
        penalised = bool(self._counts) and (settings.presence_penalty or settings.frequency_penalty)
        if not (penalised or self._seen or settings.logit_bias):
            return logits
        changed = logits.clone()
        if self._seen:
            tokens = torch.tensor(sorted(self._seen))
            values, factor = changed[tokens], settings.repetition_penalty
            changed[tokens] = torch.where(values > 0, values / factor, values * factor)
        if penalised:
            tokens = torch.tensor(list(self._counts))
            counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype)
            changed[tokens] -= settings.presence_penalty + settings.frequency_penalty * counts
        if settings.logit_bias:
            changed[self._bias[0]] += self._bias[1]
        return changed

    def _choose(self, logits: Tensor) -> int:
        settings = self._sampling
        if settings.temperature == 0:
            return int(logits.argmax())
        scaled = logits / settings.temperature
        if settings.top_k:
            values, order = scaled.topk(min(settings.top_k, len(scaled)))
            return int(order[self._draw(_nucleus(values.softmax(0), settings.top_p))])
        if settings.top_p == 1:
            return self._draw(scaled.softmax(0))
        values, order = scaled.topk(min(NUCLEUS, len(scaled)))
        probabilities = (values - scaled.logsumexp(0)).exp()
        if float(probabilities.sum()) < settings.top_p:
            values, order = scaled.sort(descending=True, stable=True)
            probabilities = values.softmax(0)
        return int(order[self._draw(_nucleus(probabilities, settings.top_p))])

    def _draw(self, probabilities: Tensor) -> int:
        """Draw a place in proportion to ``probabilities [n]``, which need not sum to one.

        The largest of p / e with e exponential is distributed so, and needs no cumulative sum.
        """
        waits = torch.empty_like(probabilities).exponential_(generator=self._generator)
        return int((probabilities / waits).argmax())


def report(logits: Tensor, token: int, count: int) -> Choice:
    """Return ``token`` with its log-probability and those of the ``count`` likeliest."""
    whole = float(logits.logsumexp(0))
    values, order = logits.topk(min(count, len(logits)))
    pairs = zip(order.tolist(), values.tolist(), strict=True)
    top = tuple((index, min(0.0, value - whole)) for index, value in pairs)
    return Choice(token, min(0.0, float(logits[token]) - whole), top)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero what lies beyond the nucleus; a token stays if the mass before it is below top_p."""
    if top_p == 1:
        return probabilities
    before = probabilities.cumsum(0) - probabilities
    return probabilities.masked_fill(before >= top_p, 0)
