"""Slow reference of a Llama model in which each KV head of each layer has a mask of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Keep = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Function from layer, queries ``[Q, P, D]``, keys and values ``[H, P, D]`` of the prompt to the
entries that stay, ``[H, P]`` bool."""


@dataclass(frozen=True)
class SlowRun:
    """Results of one run.

    Attributes:
        logits: ``[T, V]`` logits of all positions.
        kept: ``[L, H, P]`` entries of the prompt that stayed.
    """

    logits: Tensor
    kept: Tensor


@torch.no_grad()
def run_with_masks(model: Any, ids: list[int], prompt_tokens: int, keep: Keep) -> SlowRun:
    """Run a text; tokens after the prompt attend only to what ``keep`` leaves of it.

    Args:
        model: Llama model of transformers, of which only the weights are used.
        ids: Prompt and output.
        prompt_tokens: Length P of the prompt.
        keep: Chooses what stays.
    """
    inner, config = model.model, model.config
    count = len(ids)
    hidden = inner.embed_tokens.weight[torch.tensor(ids)]  # [T, F]
    chosen = []
    for index, block in enumerate(inner.layers):
        normed = block.input_layernorm(hidden)
        attention = block.self_attn
        q, k, v = (
            projection(normed).view(count, -1, attention.head_dim).transpose(0, 1)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = (_rotated(one, config.rope_parameters["rope_theta"]) for one in (q, k))
        prompt = slice(0, prompt_tokens)
        kept = keep(index, q[:, prompt], k[:, prompt], v[:, prompt])
        chosen.append(kept)
        outputs = []
        for head in range(len(q)):
            kv_head = head // (len(q) // len(k))
            rows = []
            for row in range(count):
                visible = [
                    column
                    for column in range(row + 1)
                    if row < prompt_tokens or column >= prompt_tokens or kept[kv_head, column]
                ]
                logits = k[kv_head, visible] @ q[head, row] / attention.head_dim**0.5
                rows.append(logits.softmax(0) @ v[kv_head, visible])
            outputs.append(torch.stack(rows))
        hidden = hidden + attention.o_proj(torch.stack(outputs, 1).flatten(1))
        hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
    return SlowRun(model.lm_head(inner.norm(hidden)), torch.stack(chosen))


def _rotated(x: Tensor, theta: float) -> Tensor:
    """Rotate ``x [H, T, D]`` pair by pair."""
    half = x.shape[-1] // 2
    out = x.clone()
    for position in range(x.shape[1]):
        for pair in range(half):
            angle = torch.tensor(position * theta ** (-2 * pair / x.shape[-1]))
            low, high = x[:, position, pair], x[:, position, half + pair]
            out[:, position, pair] = low * angle.cos() - high * angle.sin()
            out[:, position, half + pair] = high * angle.cos() + low * angle.sin()
    return out
