"""Sampler: penalties, temperature, top-k and nucleus sampling of one request's tokens."""

import math
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bem.engine.api import Sampling

# Sorting the vocabulary takes milliseconds; a nucleus is nearly always smaller than this.
NUCLEUS_CANDIDATES = 512
_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


@dataclass(frozen=True)
class SampledToken:
    """A sampled token.

    Attributes:
        token: Token id.
        logprob: Log-probability before penalties and temperature; 0 when not requested.
        top: Ids and log-probabilities of the most probable tokens, most probable first.
    """

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Samples the tokens of one request with its own random numbers.

    Every token id has a random number of its own in every step, so a token that gains or loses a
    last bit of its logit, because other rows ran beside it, changes the draw only where it would
    nearly have been drawn itself.

    Args:
        sampling: Sampling settings of the request.
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
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(64)
        self._key = _mix_number(seed)
        self._draws = 0

    def sample(
        self, logits: Tensor, banned: Collection[int] = (), allowed: Tensor | None = None
    ) -> SampledToken:
        """Return the next token for ``logits [V]``, float32.

        Args:
            logits: Logits of the model.
            banned: Tokens that must not be sampled; bias does not lift this.
            allowed: ``[V]`` bool, the only tokens that may be sampled; None for all.
        """
        logits = logits.cpu()
        adjusted = self._apply_penalties(logits)
        if banned:
            adjusted = adjusted.index_fill(0, torch.tensor(sorted(banned)), -math.inf)
        if allowed is not None:
            adjusted = adjusted.where(allowed, -math.inf)
        token = self._sample_id(adjusted)
        self._counts[token] += 1
        if self._sampling.repetition_penalty != 1:
            self._seen.add(token)
        top_count = self._sampling.logprobs
        return SampledToken(token) if top_count is None else with_logprobs(logits, token, top_count)

    def _apply_penalties(self, logits: Tensor) -> Tensor:
        """Apply repetition, presence and frequency penalties and the logit bias."""
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

    def _sample_id(self, logits: Tensor) -> int:
        settings = self._sampling
        if settings.temperature == 0:
            return int(logits.numpy().argmax())  # a twelfth of the time of torch's
        scaled = logits / settings.temperature
        if settings.min_p:
            least = scaled.max() + math.log(settings.min_p)
            scaled = scaled.masked_fill(scaled < least, -math.inf)
        if settings.top_k:
            values, order = scaled.topk(min(settings.top_k, len(scaled)))
            return self._draw(_nucleus(values.softmax(0), settings.top_p), order)
        if settings.top_p == 1:
            return self._draw(scaled.softmax(0), torch.arange(len(scaled)))
        values, order = scaled.topk(min(NUCLEUS_CANDIDATES, len(scaled)))
        probabilities = (values - scaled.logsumexp(0)).exp()
        if float(probabilities.sum()) < settings.top_p:
            values, order = scaled.sort(descending=True, stable=True)
            probabilities = values.softmax(0)
        return self._draw(_nucleus(probabilities, settings.top_p), order)

    def _draw(self, probabilities: Tensor, tokens: Tensor) -> int:
        """Draw one of ``tokens [n]`` in proportion to ``probabilities [n]``, not sorted or scaled.

        With e drawn from the exponential distribution, the token of the largest p / e has this
        distribution. Its e belongs to the token id, not to its rank: two tokens with almost the
        same logit swap ranks by rounding alone.
        """
        self._draws += 1
        noise = exponentials(tokens.numpy(), _mix_number(self._key + self._draws * _GAMMA))
        return int(tokens[int((probabilities.numpy() / noise).argmax())])


def exponentials(tokens: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Return numbers of the exponential distribution with mean 1, one per token id.

    Args:
        tokens: ``[n]`` token ids, at least 0.
        key: 64 random bits; the same key and id have the same number.

    Returns:
        ``[n]`` positive numbers.
    """
    counters = tokens.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(key)
    # 52 bits: with 53 the half is rounded away at the upper end, and the logarithm of 1 is 0.
    uniform = ((_mix(counters) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    exponential: NDArray[np.float64] = -np.log(uniform)
    return exponential


def _mix_number(state: int) -> int:
    return int(_mix(np.array([state & _MASK], np.uint64))[0])


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the output function of SplitMix64 (Steele, Lea, Flood 2014) for each state."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def with_logprobs(logits: Tensor, token: int, top_count: int) -> SampledToken:
    """Return ``token`` with its log-probability and those of the most probable tokens.

    Args:
        logits: ``[V]`` float32 logits of the model.
        token: Sampled token id.
        top_count: Number of most probable tokens.
    """
    total = float(logits.logsumexp(0))
    values, order = logits.topk(min(top_count, len(logits)))
    pairs = zip(order.tolist(), values.tolist(), strict=True)
    # Rounding can lift the logarithm of a probability near 1 above 0.
    top = tuple((index, min(0.0, value - total)) for index, value in pairs)
    return SampledToken(token, min(0.0, float(logits[token]) - total), top)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero the probabilities outside the nucleus.

    A token is kept if the mass of the more probable tokens is below ``top_p``.
    """
    if top_p == 1:
        return probabilities
    before = probabilities.cumsum(0) - probabilities
    return probabilities.masked_fill(before >= top_p, 0)
