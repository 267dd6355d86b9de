"""Measured effect of the projection."""

from typing import Any

import pytest
import torch
from bem.adapters.projection import project_outside
from bem.adapters.projection_effect import PROMPTS, largest_logit_difference
from bem.testing import tiny_backbone

from tests.support.begun_texts import begun_backbone

SITE = "model.layers.3.mlp.down_proj"


def test_difference_is_that_of_two_models() -> None:
    """It is zero for equal factors, and the model is unchanged afterwards."""
    backbone = tiny_backbone()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*size, generator=generator) for size in ((4, 64), (32, 4)))
    basis = torch.linalg.qr(torch.randn(32, 6, generator=generator)).Q
    ids = torch.tensor([backbone.tokenizer.encode(PROMPTS[0])])
    before = backbone.model(ids).logits
    same = largest_logit_difference(backbone, {SITE: (a, b)}, {SITE: (a, b)})
    projected = project_outside({SITE: (a, b)}, {SITE: basis})
    found = largest_logit_difference(backbone, {SITE: (a, b)}, projected, PROMPTS[:1])
    layer = backbone.model.get_submodule(SITE)
    logits = []
    for factors in ((a, b), projected[SITE]):
        weight = layer.weight.data.clone()
        layer.weight.data += factors[1] @ factors[0]
        logits.append(backbone.model(ids).logits)
        layer.weight.data = weight

    assert same == 0
    assert abs(found - float((logits[0] - logits[1]).abs().max())) < 1e-4
    assert torch.equal(backbone.model(ids).logits, before)
    assert len(set(PROMPTS)) == 20


def test_prompts_begin_as_texts_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token is the one that the tokenizer adds."""
    backbone, seen = begun_backbone(), []
    run = backbone.model.forward

    def record(ids: torch.Tensor, **options: Any) -> Any:
        seen.append(int(ids[0, 0]))
        return run(ids, **options)

    monkeypatch.setattr(backbone.model, "forward", record)
    factors = {SITE: (torch.zeros(1, 64), torch.zeros(32, 1))}
    largest_logit_difference(backbone, factors, factors, PROMPTS[:1])

    assert seen == [backbone.tokenizer.bos_token_id] * 2
