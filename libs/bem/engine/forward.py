"""The forward pass in two halves, split where the sites begin."""

import torch
from torch import Tensor

from bem.adapters.bank import SkillBank
from bem.backbone import Backbone
from bem.engine.kv import SlotCache


class Decoder:
    """Runs a Llama-like backbone over the slots of a cache.

    The lower half has no sites, so it does not depend on any code: a prompt passes through it
    first, the controller reads it, and only then the upper half runs with the code.

    Args:
        backbone: The model.
        bank: The skills in its sites, or None.
        cache: Where keys and values lie.
    """

    def __init__(self, backbone: Backbone, bank: SkillBank | None, cache: SlotCache) -> None:
        self._inner = backbone.model.model
        self._head = backbone.model.lm_head
        self._cache = cache
        self._split = bank.first_layer if bank else 0
        self._feature_layer = bank.feature_layer if bank else -1

    def lower(self, ids: Tensor, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Run ``ids [R, T]`` through the lower half.

        Args:
            ids: Token ids.
            rows: ``[R]`` slots of the cache.
            positions: ``[R, T]`` places in each slot.

        Returns:
            The state before the first site and the state that controllers read, ``[R, T, F]``.
        """
        hidden = self._inner.embed_tokens(ids)
        features = hidden
        self._cache.aim(rows, positions)
        mask, rotary = self._attention(hidden, positions)
        for index in range(self._split):
            hidden = self._layer(index, hidden, positions, mask, rotary)
            if index == self._feature_layer:
                features = hidden
        return hidden, features

    def upper(self, hidden: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Run ``hidden [R, T, F]`` through the upper half; arguments as in ``lower``."""
        self._cache.aim(rows, positions)
        mask, rotary = self._attention(hidden, positions)
        for index in range(self._split, len(self._inner.layers)):
            hidden = self._layer(index, hidden, positions, mask, rotary)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits ``[R, V]`` of the last position of ``hidden [R, T, F]``."""
        out: Tensor = self._head(self._inner.norm(hidden[:, -1])).float()
        return out

    def _attention(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self._cache.mask(hidden.dtype), self._inner.rotary_emb(hidden, positions)

    def _layer(
        self,
        index: int,
        hidden: Tensor,
        positions: Tensor,
        mask: Tensor,
        rotary: tuple[Tensor, Tensor],
    ) -> Tensor:
        out: Tensor | tuple[Tensor, ...] = self._inner.layers[index](
            hidden,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            position_embeddings=rotary,
        )
        return out[0] if isinstance(out, tuple) else out


def one_token(decoder: Decoder, token: int, device: torch.device) -> Tensor:
    """Run a real forward of one token in slot 0; proves that the model answers."""
    at = torch.zeros(1, 1, dtype=torch.int64, device=device)
    with torch.inference_mode():
        hidden, _ = decoder.lower(at + token, at[0], at)
        return decoder.logits(decoder.upper(hidden, at[0], at))
