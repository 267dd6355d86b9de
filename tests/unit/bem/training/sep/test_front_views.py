"""Clean texts with cached teacher states, and batches of their views."""

from pathlib import Path

import pytest
import torch
from bem.training.sep import front_views
from bem.training.sep.front_views import batch_views, clean_view, teach_texts

from tests.unit.bem.training.sep.fronts import LAYER, shifted_view, taught, text_ids, tiny_decoder


def test_teacher_is_the_frozen_model_and_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States and most likely tokens are those of transformers; the second call reads the file."""
    backbone, decoder = tiny_decoder()
    first = taught(tmp_path)
    with torch.no_grad():
        given = backbone.model(first[2].ids[None], output_hidden_states=True)
    likeliest = given.logits[0].argmax(-1)

    assert torch.equal(first[2].teacher.ids[:, 0], likeliest)
    assert torch.allclose(first[2].states.float(), given.hidden_states[LAYER][0], atol=0.05)

    monkeypatch.setattr(front_views, "teach_text", lambda *_, **__: 1 / 0)
    again = teach_texts(
        decoder, text_ids(), tmp_path, base_digest=backbone.digest, layer=LAYER, keep=8
    )
    assert torch.equal(again[5].states, first[5].states)


def test_batch_has_the_targets_of_aligned_tokens(tmp_path: Path) -> None:
    """Places are in the packed row; states, teacher and labels are those of the clean text."""
    texts = taught(tmp_path, 2)
    batch = batch_views(texts, [clean_view(texts[0]), shifted_view(texts, 1, 0.0, 0)])
    first, second = (len(text.ids) for text in texts)

    assert batch.lengths == (first, second + 1)
    assert torch.equal(batch.ids[batch.places], torch.cat([text.ids for text in texts]))
    assert torch.equal(batch.labels[: first - 1], texts[0].ids[1:])
    assert batch.labels[first - 1] == -1
    assert torch.equal(batch.states[first], texts[1].states[0].float())
    assert torch.equal(batch.teacher.ids[first], texts[1].teacher.ids[0])
