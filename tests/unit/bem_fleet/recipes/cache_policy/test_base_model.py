"""Tests of the base model of the cache policy's recipe."""

from pathlib import Path

from bem_fleet.recipes.cache_policy.base_model import CONTEXT_TOKENS, TINY, open_base_model


def test_the_tiny_model_needs_no_file(tmp_path: Path) -> None:
    """It has room for a passage, and nothing is written."""
    backbone = open_base_model(TINY, "int4", tmp_path)

    assert backbone.context_tokens == CONTEXT_TOKENS
    assert list(tmp_path.iterdir()) == []
