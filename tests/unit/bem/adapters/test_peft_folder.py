"""Tests of PEFT folders: written by PEFT, imported as adapters, and read by PEFT again."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters import AdapterBank, read_adapter
from bem.adapters.artifact import AdapterCard
from bem.adapters.peft_config import CONFIG
from bem.adapters.peft_folder import BEM_CONFIG, BankLimits, export_lora, import_lora
from bem.adapters.peft_weights import WEIGHTS
from bem.backbone import Backbone
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.safety.basis import reserve_basis
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's advice on the options
        return _save_random_lora(folder, given | config)


def _save_random_lora(folder: Path, config: dict[str, Any]) -> Tensor:
    model = get_peft_model(tiny_backbone().model, LoraConfig(**config))
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
    "config",
    [
        # A pattern with alternatives is one group, and the first pattern that matches wins.
        {"alpha_pattern": {"o_proj|nothing": 11, "down_proj": 3}},
        {"alpha_pattern": {r"layers\.(2|9)\..*_proj": 5, "o_proj": 2}, "lora_alpha": 1},
        {"rank_pattern": {"nothing|down_proj": 1}, "alpha_pattern": {".*": 6}},
        {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 9}, "use_rslora": True},
        {
            "target_modules": r".*\.3\.(self_attn\.o_proj|mlp\.down_proj)",
            "layers_to_transform": None,
        },
        {"target_modules": ["o_proj"], "layers_pattern": "layers", "layers_to_transform": 2},
        {"exclude_modules": ["3.mlp.down_proj"]},
        {"exclude_modules": r".*\.2\..*"},
        {"target_modules": ["model.layers.2.mlp.down_proj"], "layers_to_transform": None},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.4},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
        {"init_lora_weights": "eva"},
    ],
    ids=str,
)
def test_option_that_is_accepted_is_exact(tmp_path: Path, config: dict[str, Any]) -> None:
    """Patterns, exclusions and initialisations have PEFT's own meaning."""
    expected = save_random_lora(tmp_path / "peft", **config)
    import_as_adapter(tmp_path / "peft", tmp_path / "adapter")

    torch.testing.assert_close(adapter_logits(tmp_path / "adapter"), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"target_modules": ["lm_head"], "layers_to_transform": None}, "lm_head.*target_modules="),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 3], [2, 4]]}, "layer_replication"),
        ({"init_lora_weights": "olora"}, "olora.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa"}, "pissa.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_2"}, "pissa_niter_2"),
        ({"target_modules": ["embed_tokens"], "layers_to_transform": None}, "embed_tokens"),
    ],
    ids=str,
)
def test_unsupported_option_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    """A LoRA that PEFT wrote with such an option is not imported in part."""
    save_random_lora(tmp_path / "peft", **config)
    with pytest.raises(ArtifactFormatError, match=named):
        import_as_adapter(tmp_path / "peft", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_another_base_needs_consent(tmp_path: Path) -> None:
    """A LoRA of another model of the same shape computes nonsense without an error."""
    save_random_lora(tmp_path / "peft")
    change_config(tmp_path / "peft", base_model_name_or_path="acme/Other-32")
    with pytest.raises(BaseMismatchError, match=r"acme/Other-32.*'tiny'.*--force"):
        import_as_adapter(tmp_path / "peft", tmp_path / "adapter")
    import_lora(
        tmp_path / "peft",
        tmp_path / "adapter",
        backbone=tiny_backbone(),
        name="x",
        feature_layer=FEATURE_LAYER,
        other_base=True,
    )
    change_config(tmp_path / "peft", base_model_name_or_path="acme/Tiny")
    import_as_adapter(tmp_path / "peft", tmp_path / "same")

    assert read_adapter(tmp_path / "same", base_digest=tiny_backbone().digest).card.name == "x"


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (BankLimits(RANK - 1, 2), f"the mission takes {RANK - 1}; set BEM_ROUTER_RANK={RANK}"),
    ],
)
def test_beyond_the_missions_limits_names_the_setting(
    tmp_path: Path, limits: BankLimits, named: str
) -> None:
    """What the mission would refuse at load is refused at import."""
    save_random_lora(tmp_path / "peft")
    with pytest.raises(ArtifactFormatError, match=named):
        import_lora(
            tmp_path / "peft",
            tmp_path / "adapter",
            backbone=tiny_backbone(),
            name="x",
            feature_layer=FEATURE_LAYER,
            limits=limits,
        )


def test_controller_drives_its_own_layers_only(tmp_path: Path) -> None:
    """An adapter with a controller needs sites of the mission; without one it may adapt all."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "moving", seed=1)
    export_lora(read_adapter(tmp_path / "moving", base_digest=backbone.digest), tmp_path / "peft")
    with pytest.raises(ArtifactFormatError, match="set BEM_ROUTER_FIRST_LAYER=2"):
        import_lora(
            tmp_path / "peft",
            tmp_path / "adapter",
            backbone=backbone,
            name="x",
            feature_layer=FEATURE_LAYER,
            limits=BankLimits(RANK, 3),
        )


def test_projection_is_measured_and_can_be_declined(tmp_path: Path) -> None:
    """The card holds what the safety basis changes, and whether the bank applies it."""
    save_random_lora(tmp_path / "peft")
    backbone = tiny_backbone()
    width = backbone.model.config.hidden_size
    sites = [f"model.layers.{n}.{p}" for n in LAYERS for p in ("self_attn.o_proj", "mlp.down_proj")]
    reserved = {site: reserve_basis(width, 6, seed=4) for site in sites}

    def imported(out: str, *, exact: bool) -> AdapterCard:
        return import_lora(
            tmp_path / "peft",
            tmp_path / out,
            backbone=backbone,
            name="x",
            feature_layer=FEATURE_LAYER,
            reserved=reserved,
            exact=exact,
        )

    projected, exact = imported("projected", exact=False), imported("exact", exact=True)

    assert projected.metrics["peft"]["projection_logit_difference"] > 0.1
    assert projected.metrics == exact.metrics
    assert (projected.exact, exact.exact) == (False, True)


@pytest.mark.parametrize("name", ["tiny", "../x", "", "a b"])
def test_name_must_be_one_that_requests_can_use(tmp_path: Path, name: str) -> None:
    """The base model's name, paths and spaces are refused before anything is written."""
    save_random_lora(tmp_path / "peft")
    with pytest.raises(ArtifactFormatError, match=r"^name: "):
        import_lora(
            tmp_path / "peft",
            tmp_path / "adapter",
            backbone=tiny_backbone(),
            name=name,
            feature_layer=FEATURE_LAYER,
        )
    assert not (tmp_path / "adapter").exists()


def change_config(folder: Path, **values: Any) -> None:
    """Change options in ``adapter_config.json``."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_broken_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    """A missing file, no JSON, layers that the base lacks, changed weights, another base."""
    with pytest.raises(ArtifactFormatError, match=CONFIG):
        import_as_adapter(tmp_path, tmp_path / "adapter")
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ArtifactFormatError, match="not JSON"):
        import_as_adapter(tmp_path, tmp_path / "adapter")
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "target_modules": ["o_proj"]}))
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
