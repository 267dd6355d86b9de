"""Effect of the projection outside a safety basis on a model's logits."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bem.adapters.artifact import Factors
from bem.backbone import Backbone
from bem.prompt_encoding import PromptEncoder

PROMPTS = (
    "The capital of Norway is",
    "Name three fruits that grow in a cold climate.",
    "Translate to French: good morning",
    "def median(values):",
    "What is 17 times 23?",
    "Once upon a time there was a lighthouse keeper who",
    "Write one sentence about rain.",
    "Passage: The bridge was opened in 1932. Question: When was it opened?",
    "List the planets from the sun outwards.",
    "A polite reply to a late invoice:",
    "The opposite of generous is",
    "SELECT name FROM ships WHERE",
    "Explain in one line what a compiler does.",
    "Water boils at a lower temperature on a mountain because",
    '{"city": "Lisbon", "country":',
    "Summarise: The committee met twice and agreed to wait.",
    "Which is heavier, a litre of oil or a litre of water?",
    "Roses are red,",
    "Give a synonym of rapid.",
    "1, 1, 2, 3, 5, 8,",
)
"""Prompts of the measurement: questions, text, code and data."""


@torch.no_grad()
def largest_logit_difference(
    backbone: Backbone,
    one: Mapping[str, Factors],
    other: Mapping[str, Factors],
    prompts: Sequence[str] = PROMPTS,
) -> float:
    """Return the largest absolute difference of the logits at any position of the prompts.

    Args:
        backbone: Base model; its layers are changed during the call only.
        one: ``{site path: (A [r, d_in], B [d_out, r])}`` with the scale in B.
        other: Factors to compare with.
        prompts: Raw texts.
    """
    largest = 0.0
    for prompt in prompts:
        ids = PromptEncoder(backbone.tokenizer).encode_text(prompt, begins_sequence=True)
        inputs = torch.tensor([ids[: backbone.context_tokens]], device=backbone.model.device)
        logits = []
        for factors in (one, other):
            with _adapted(backbone.model, factors):
                logits.append(backbone.model(inputs).logits.float())
        largest = max(largest, float((logits[0] - logits[1]).abs().max()))
    return largest


@contextmanager
def _adapted(model: nn.Module, factors: Mapping[str, Factors]) -> Iterator[None]:
    """Add the low-rank products to the outputs of the layers."""

    def hook(a: Tensor, b: Tensor) -> "torch.utils.hooks.RemovableHandle":
        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]
            return output + (x @ a.to(x).T) @ b.to(x).T

        return module.register_forward_hook(add)

    handles = []
    try:
        for path, (a, b) in factors.items():
            module = model.get_submodule(path)
            handles.append(hook(a, b))
        yield
    finally:
        for handle in handles:
            handle.remove()
