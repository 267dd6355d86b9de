"""From logits to the next token, each row with its own settings and random numbers."""

import secrets
from collections import Counter

import torch
from torch import Tensor

from bem.engine.requests import Sampling


class Sampler:
    """Chooses the tokens of one request.

    Args:
        sampling: The request's settings.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        self._generator.manual_seed(seed % 2**63)

    def choose(self, logits: Tensor) -> int:
        """Return the next token for ``logits [V]``, float32."""
        chosen = self._choose(self._penalised(logits.cpu()))
        self._counts[chosen] += 1
        return chosen

    def _penalised(self, logits: Tensor) -> Tensor:
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if not self._counts or (presence == 0 and frequency == 0):
            return logits
        tokens = torch.tensor(list(self._counts))
        counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype)
        lowered = logits.clone()
        lowered[tokens] -= presence + frequency * counts
        return lowered

    def _choose(self, logits: Tensor) -> int:
        settings = self._sampling
        if settings.temperature == 0:
            return int(logits.argmax())
        scaled = logits / settings.temperature
        order = scaled.argsort(descending=True, stable=True)
        probabilities = scaled[order].softmax(0)
        if settings.top_k:
            probabilities[settings.top_k :] = 0
        if settings.top_p < 1:
            # A token stays if the mass before it is below top_p: the first always does.
            before = probabilities.cumsum(0) - probabilities
            probabilities[before >= settings.top_p] = 0
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(order[drawn])
