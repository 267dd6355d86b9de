"""Tests of PEFT folders: written by PEFT, imported as adapters, and read by PEFT again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters import AdapterBank, read_adapter
from bem.adapters.peft_folder import BEM_CONFIG, CONFIG, WEIGHTS, export_lora, import_lora
from bem.backbone import Backbone
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.testing import tiny_backbone
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter

# PEFT uses an attribute of transformers that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(5, 17).unsqueeze(0)


def save_random_lora(folder: Path, **config: Any) -> Tensor:
    """Save a LoRA with random factors as PEFT does; returns PEFT's logits."""
    given = {"r": RANK, "target_modules": ["o_proj", "down_proj"], "layers_to_transform": LAYERS}
    model = get_peft_model(tiny_backbone().model, LoraConfig(**(given | config)))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return compute_logits(model)


@torch.no_grad()
def compute_logits(model: Any) -> Tensor:
    """Return the logits of the test's tokens."""
    found: Tensor = model.eval()(IDS).logits
    return found


def adapter_logits(folder: Path) -> Tensor:
    """Return the logits of the base with the adapter in ``folder`` at its constant code."""
    backbone = tiny_backbone()
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER)
    loaded = bank.load(folder)
    code = loaded.controller.prefix(torch.zeros(1, backbone.model.config.hidden_size))
    padded = torch.zeros(1, 1, RANK)
    padded[0, 0, : loaded.rank] = code[0]
    bank.row_codes.set(torch.tensor([[loaded.slot]]), padded)
    return compute_logits(backbone.model)


def import_as_adapter(folder: Path, out: Path, backbone: Backbone | None = None) -> None:
    """Import a folder as adapter ``x``."""
    base = backbone or tiny_backbone()
    import_lora(folder, out, backbone=base, name="x", feature_layer=FEATURE_LAYER)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"lora_alpha": 7},
        {"use_rslora": True, "lora_alpha": 3},
        {"target_modules": ["down_proj"], "layers_to_transform": [3]},
        {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"layers.3.mlp.down_proj": 9}},
    ],
)
def test_lora_has_the_logits_of_peft_and_comes_back(tmp_path: Path, config: dict[str, Any]) -> None:
    """Imported, a LoRA has PEFT's logits; exported again, PEFT has them once more."""
    expected = save_random_lora(tmp_path / "peft", **config)
    import_as_adapter(tmp_path / "peft", tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter", base_digest=tiny_backbone().digest)
    same = export_lora(adapter, tmp_path / "back")
    again = compute_logits(PeftModel.from_pretrained(tiny_backbone().model, str(tmp_path / "back")))

    assert same
    torch.testing.assert_close(adapter_logits(tmp_path / "adapter"), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)


def test_controller_survives_the_round_trip(tmp_path: Path) -> None:
    """What PEFT cannot express lies beside it: the round trip keeps every tensor to 1e-5."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "moving", seed=1)
    adapter = read_adapter(tmp_path / "moving", base_digest=backbone.digest)
    same = export_lora(adapter, tmp_path / "peft")
    import_as_adapter(tmp_path / "peft", tmp_path / "back")
    back = read_adapter(tmp_path / "back", base_digest=backbone.digest)

    assert not same
    assert back.card.feature_layer == adapter.card.feature_layer
    torch.testing.assert_close(back.controller, adapter.controller)
    for site, (a, b) in adapter.factors.items():
        torch.testing.assert_close(back.factors[site][0], a, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            back.factors[site][1] * back.card.scale, b * adapter.card.scale, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"target_modules": ["q_proj"]}, "q_proj"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
    ],
)
def test_unsupported_option_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    """An adapter of other layers or another kind is not imported in part."""
    save_random_lora(tmp_path / "peft", **config)
    with pytest.raises(ArtifactFormatError, match=named):
        import_as_adapter(tmp_path / "peft", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_broken_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    """A missing file, no JSON, layers that the base lacks, changed weights, another base."""
    with pytest.raises(ArtifactFormatError, match=CONFIG):
        import_as_adapter(tmp_path, tmp_path / "adapter")
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ArtifactFormatError, match="not JSON"):
        import_as_adapter(tmp_path, tmp_path / "adapter")
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ArtifactFormatError, match=WEIGHTS):
        import_as_adapter(tmp_path, tmp_path / "adapter")

    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "moving", seed=1)
    adapter = read_adapter(tmp_path / "moving", base_digest=backbone.digest)
    export_lora(adapter, tmp_path / "peft")
    with pytest.raises(BaseMismatchError, match="exported for base"):
        import_as_adapter(tmp_path / "peft", tmp_path / "adapter", tiny_backbone(seed=1))
    save_random_lora(tmp_path / "other")
    (tmp_path / "peft" / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    with pytest.raises(ArtifactTamperedError, match=BEM_CONFIG):
        import_as_adapter(tmp_path / "peft", tmp_path / "adapter")
