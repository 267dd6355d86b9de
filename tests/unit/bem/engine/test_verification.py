"""Comparison with transformers: exact where it is supported, refused where it is not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.engine import verification
from bem.engine.verification import verify_backbone
from bem.errors import UnsupportedBackboneError
from bem.testing import tiny_backbone

from tests.support.family_models import VARIANTS
from tests.support.tiny_models import backbone_of, tiny_model


def rope(kind: str, **values: float) -> dict[str, Any]:
    """Return rope parameters of one type."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("llama", {"head_dim": 16, "num_key_value_heads": 1}),
        ("llama", rope("linear", factor=3.0)),
        ("llama", rope("dynamic", factor=2.0)),
        ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
        (
            "llama",
            rope(
                "llama3",
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        *VARIANTS.values(),
    ],
    ids=str,
)
def test_supported_variants_are_exact(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    """Prefill and cached decode have transformers' logits to 1e-4."""
    backbone = backbone_of(tiny_model(model_type, **changes))

    assert verify_backbone(backbone, context_tokens=256, cache=tmp_path) < 1e-4


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("mistral", {"hidden_act": "relu"}),
        ("mixtral", {"num_local_experts": 2}),
    ],
    ids=str,
)
def test_unknown_variant_is_refused_by_its_outputs(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    """Without the list of architectures, the comparison alone would refuse each of these."""
    backbone = backbone_of(tiny_model(model_type, **changes), "variant")
    with pytest.raises(UnsupportedBackboneError, match=r"variant.*choose"):
        verify_backbone(backbone, context_tokens=256, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    """NaN equals nothing."""
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UnsupportedBackboneError, match="differ from transformers' by nan"):
        verify_backbone(backbone, context_tokens=64, cache=tmp_path)


def test_result_is_remembered_by_digest_and_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second start compares nothing; another digest or a broken memo is compared again."""
    compared = []
    engine_logits = verification._engine_logits

    def counted(*arguments: Any) -> torch.Tensor:
        compared.append(arguments)
        return engine_logits(*arguments)

    monkeypatch.setattr(verification, "_engine_logits", counted)
    backbone = tiny_backbone()
    first = verify_backbone(backbone, context_tokens=64, cache=tmp_path)
    assert verify_backbone(backbone, context_tokens=64, cache=tmp_path) == first
    assert len(compared) == 1
    verify_backbone(replace(backbone, digest="1" * 64), context_tokens=64, cache=tmp_path)
    verify_backbone(backbone, context_tokens=32, cache=tmp_path)
    assert len(compared) == 3
    (memo,) = tmp_path.iterdir()
    assert len(json.loads(memo.read_text())) == 3
    memo.write_text("{")
    verify_backbone(backbone, context_tokens=64, cache=tmp_path)

    assert len(compared) == 4


def test_read_only_cache_is_no_error(tmp_path: Path) -> None:
    """The comparison is made at every start then."""
    (tmp_path / "file").write_text("")

    assert verify_backbone(tiny_backbone(), context_tokens=64, cache=tmp_path / "file") < 1e-4
