"""Base model of the cache policy's recipe and study, in the format in which it is served."""

from pathlib import Path

from bem.backbone import Backbone, WeightFormat, load_backbone
from bem.engine.native.build import DEFAULT_CACHE
from bem.engine.weight_autotune import select_format
from bem.testing import tiny_backbone

WEIGHTS: tuple[WeightFormat, ...] = ("fp32", "int8", "int4")
TINY = "tiny"
CONTEXT_TOKENS = 2048
"""Limit of prompt and output together."""


def open_base_model(name: str, weights: WeightFormat, cache: Path) -> Backbone:
    """Return a base model in a weight format.

    Args:
        name: Base model, or ``tiny`` with random weights in float32.
        weights: One of ``WEIGHTS``.
        cache: Folder of de-quantised models.
    """
    if name == TINY:
        return tiny_backbone(context_tokens=CONTEXT_TOKENS)
    backbone, _ = select_format(
        load_backbone(name, cache=cache),
        weights,
        "auto",
        cache=DEFAULT_CACHE,
        perplexity_memo=cache / "perplexity.json",
    )
    return backbone
