"""What the frozen lower layers make of an example: computed once, read in every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from bem.backbone import Backbone
from bem.controller import pool
from bem.data.passage_qa import Item


@dataclass(frozen=True)
class Example:
    """An item as the upper layers see it.

    Attributes:
        hidden: ``[T, F]``, input of the first layer with sites.
        feature: ``[F]`` float32, mean state of the feature layer over the prompt.
        labels: ``[T]`` int64, the next token, -100 outside the reply.
    """

    hidden: Tensor
    feature: Tensor
    labels: Tensor


def tokenise(backbone: Backbone, item: Item) -> tuple[list[int], list[int]]:
    """Return the token ids of the rendered prompt and of the reply with its end of turn."""
    chat = [{"role": "user", "content": item.prompt()}]
    text = backbone.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    encode = backbone.tokenizer.encode
    reply = item.reply() + backbone.tokenizer.decode([min(backbone.end_token_ids)])
    return encode(text, add_special_tokens=False), encode(reply, add_special_tokens=False)


@torch.no_grad()
def cache_examples(
    backbone: Backbone,
    items: Sequence[Item],
    *,
    first_layer: int,
    feature_layer: int,
    max_tokens: int = 512,
) -> list[Example]:
    """Run the lower layers over every item that fits ``max_tokens``.

    Args:
        backbone: Its layers below ``first_layer`` must be frozen and without sites.
        items: What to encode.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output the controller reads.
        max_tokens: Longer examples are left out.
    """
    examples = []
    for item in tqdm(items, desc="lower layers", unit="item"):
        prompt, reply = tokenise(backbone, item)
        if len(prompt) + len(reply) > max_tokens:
            continue
        ids = torch.tensor([prompt + reply], device=backbone.model.device)
        states = lower_states(backbone, ids, first_layer)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, : len(prompt)] = True
        feature = pool(states[feature_layer + 1].float(), mask)[0]
        labels = torch.full_like(ids[0], -100)
        labels[len(prompt) - 1 : -1] = ids[0, len(prompt) :]
        examples.append(Example(states[first_layer][0].clone(), feature, labels))
    return examples


def lower_states(backbone: Backbone, ids: Tensor, first_layer: int) -> list[Tensor]:
    """Return the inputs ``[R, T, F]`` of layers 0 to ``first_layer``."""
    inner = backbone.model.model
    hidden = inner.embed_tokens(ids)
    states = [hidden]
    for layer in backbone.layers[:first_layer]:
        hidden = run_layer(backbone, layer, hidden)
        states.append(hidden)
    return states


def run_layer(backbone: Backbone, layer: torch.nn.Module, hidden: Tensor) -> Tensor:
    """Run one decoder layer over whole sequences, causally; pads at the end do no harm."""
    positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
    rotary = backbone.model.model.rotary_emb(hidden, positions)
    out: Tensor | tuple[Tensor, ...] = layer(
        hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary
    )
    return out[0] if isinstance(out, tuple) else out
