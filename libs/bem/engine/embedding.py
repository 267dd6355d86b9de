"""Pooled states of texts: the mean of normalised states behind the lower half of the model.

The lower half has no adapter sites, so that a pooled state does not depend on adapters, and half of
the forward pass is all that it costs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.engine.decoder import Decoder
from bem.errors import InvalidRequestError


class Embedder:
    """Pools the states of batches of texts; running sequences are not touched.

    Args:
        decoder: Forward pass in two halves.
        context_tokens: Most tokens of a text.
        device: Device of the model.
    """

    def __init__(self, decoder: Decoder, context_tokens: int, device: torch.device) -> None:
        self._decoder, self._context_tokens, self._device = decoder, context_tokens, device

    def pooled(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the means ``[N, F]`` of the texts' states of length 1, float32 on the CPU.

        Texts are padded at their end, where no token before can attend, so that a text's state does
        not depend on its batch.

        Args:
            texts: Token ids of each text, at least one text.

        Raises:
            InvalidRequestError: A text is empty or longer than the context.
        """
        longest = max(len(ids) for ids in texts)
        if longest > self._context_tokens or not all(texts):
            raise InvalidRequestError(
                "inputs",
                f"a text has {longest if all(texts) else 0} tokens; 1 to {self._context_tokens} "
                "are allowed; shorten it",
            )
        padded = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, ids in enumerate(texts):
            padded[row, : len(ids)] = torch.tensor(ids)
        plan = self._decoder.plan_full_texts(len(texts), longest)
        states, _ = self._decoder.lower(padded.to(self._device), plan, transient=True)
        lengths = torch.tensor([len(ids) for ids in texts], device=self._device)
        is_text = torch.arange(longest, device=self._device) < lengths[:, None]
        directions = f.normalize(states.float(), dim=-1) * is_text[..., None]
        return (directions.sum(1) / lengths[:, None]).cpu()
