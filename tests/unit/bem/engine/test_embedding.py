"""Pooled states without an engine's thread."""

from pathlib import Path

import pytest
import torch
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone

from tests.support.random_adapters import LAYERS
from tests.unit.bem.engine.engines import encode, make_engine, write_adapters


def test_pooled_states_of_a_padded_batch_are_those_of_transformers(tmp_path: Path) -> None:
    """Texts of unequal length in one batch are pooled as each alone, behind the lower half."""
    embedder = make_engine(tiny_backbone(), write_adapters(tmp_path)).core.embedder
    texts = [encode("hello there"), encode("hi")]
    with torch.inference_mode():
        pooled = embedder.pooled(texts)
        for ids, state in zip(texts, pooled, strict=True):
            given = tiny_backbone().model(torch.tensor([ids]), output_hidden_states=True)
            states = given.hidden_states[min(LAYERS)][0]
            wanted = torch.nn.functional.normalize(states, dim=-1).mean(0)
            assert torch.allclose(state, wanted, atol=1e-4)


def test_empty_and_long_texts_are_refused(tmp_path: Path) -> None:
    """The error names the field and the limit."""
    engine = make_engine(tiny_backbone(), write_adapters(tmp_path))
    for texts in ([[1], []], [[1] * (engine.context_tokens + 1)]):
        with pytest.raises(InvalidRequestError, match="inputs: a text has"):
            engine.core.embedder.pooled(texts)
