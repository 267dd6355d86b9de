"""Scores of a front on views of texts."""

from pathlib import Path

import pytest
import torch
from bem.sep.surface_front import fresh_factors
from bem.sep.token_alignment import TokenAlignment
from bem.training.sep.front_evaluation import score_views
from bem.training.sep.front_views import ScrambledView, clean_view

from tests.unit.bem.training.sep.fronts import shifted_view, taught, tiny_decoder


def test_the_clean_view_of_the_base_model_is_its_own_teacher(tmp_path: Path) -> None:
    """Divergence 0, agreement 1; a fresh front changes nothing, and a scrambled view diverges."""
    texts = taught(tmp_path, 3)
    backbone, decoder = tiny_decoder()
    clean = [clean_view(text) for text in texts]
    noisy = [shifted_view(texts, n, 0.5, n) for n in range(3)]
    own = score_views(decoder, texts, clean, None)
    fresh = score_views(decoder, texts, clean, fresh_factors(backbone, range(2), 4, 0), scale=2.0)
    far = score_views(decoder, texts, noisy, None)

    for one, same, other in zip(own, fresh, far, strict=True):
        assert one.divergence == pytest.approx(0, abs=1e-2)
        assert one.agreement == 1
        assert same.divergence == pytest.approx(one.divergence, abs=1e-6)
        assert other.divergence > one.divergence
    assert own[0].tokens == len(texts[0].ids) - 1


def test_a_text_without_an_aligned_token_is_left_out(tmp_path: Path) -> None:
    """No place, no score."""
    texts = taught(tmp_path, 1)
    _, decoder = tiny_decoder()
    none = torch.zeros(0, dtype=torch.int64)
    view = ScrambledView(texts[0].ids, TokenAlignment(none, none))

    assert score_views(decoder, texts, [view], None) == []
