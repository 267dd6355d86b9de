"""Tests of attention records against the attention of transformers."""

from pathlib import Path

import pytest
import torch
from bem.cache_policy import EVICTION_POLICIES
from bem.engine import LLMEngine
from bem.testing import tiny_backbone
from bem_fleet.recipes.cache_policy.attention_records import RecordedText, record_attention

from tests.unit.bem.engine.engines import encode, make_engine, write_adapters

TEXT = RecordedText(encode("the cat sat on the mat"), encode(" and ate"), "passage")


def test_targets_are_the_replys_attention() -> None:
    """A record's target is the attention of transformers, summed over a group and the reply."""
    engine = LLMEngine(tiny_backbone(), max_sequences=1, prefix_bytes=0)
    engine.start()
    (record,) = record_attention(engine, [TEXT], window=8, adapter=None)
    engine.close(drain=True)
    model, prompt = tiny_backbone().model, len(TEXT.prompt)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        ids = torch.tensor([[*TEXT.prompt, *TEXT.reply]])
        attention = model(ids, output_attentions=True).attentions
    rows = torch.stack([one[0, :, prompt:, :prompt].sum(1) for one in attention])  # [L, Q, P]
    grouped = rows.view(4, 2, 2, prompt).sum(2)

    assert record.features.shape == (4, 2, prompt, 10)
    assert torch.allclose(record.targets, grouped / grouped.sum(-1, keepdim=True), atol=1e-5)
    assert engine.core.compressor is None


def test_an_adapters_prompt_is_recorded_with_its_codes(tmp_path: Path) -> None:
    """The adapter changes what the upper layers attend to."""
    engine = make_engine(tiny_backbone(), write_adapters(tmp_path), rows=1, prefix_bytes=0)
    engine.start()
    base, adapted = (
        record_attention(engine, [TEXT], window=8, adapter=adapter)[0]
        for adapter in (None, "alpha")
    )
    engine.close(drain=True)

    assert torch.allclose(base.targets[0], adapted.targets[0], atol=1e-6)
    assert not torch.allclose(base.targets[-1], adapted.targets[-1], atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_each_text_has_a_record(count: int) -> None:
    """Records come in the order of the texts, and the engine's own policy is gone."""
    engine = LLMEngine(tiny_backbone(), max_sequences=1, prefix_bytes=0)
    engine.start()
    texts = [RecordedText(TEXT.prompt[: 12 + 2 * at], TEXT.reply, str(at)) for at in range(count)]
    records = record_attention(engine, texts, window=8, adapter=None)
    engine.close(drain=True)

    assert [one.cluster for one in records] == [str(at) for at in range(count)]
    assert [one.targets.shape[2] for one in records] == [12 + 2 * at for at in range(count)]
    assert "recorder" not in EVICTION_POLICIES
