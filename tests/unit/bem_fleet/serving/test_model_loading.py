"""Parts of a served model: layers that follow from the model, and a missing safety adapter."""

from dataclasses import replace
from pathlib import Path

import pytest
from bem.backbone import Backbone
from bem.cache_policy import EVICTION_POLICIES
from bem.errors import (
    ArtifactFormatError,
    ArtifactTamperedError,
    InvalidSettingError,
    UnsupportedBackboneError,
)
from bem.testing import tiny_backbone
from bem_fleet.serving.model_loading import (
    cache_setting,
    install_safety_adapter,
    load_verified_backbone,
    model_warnings,
    open_bank,
)

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK
from tests.support.random_safety_adapters import write_safety
from tests.support.tiny_models import backbone_of, save_folder, tiny_model


def model_of(layers: int) -> Backbone:
    """Return a Llama of some layers."""
    return backbone_of(tiny_model("llama", num_hidden_layers=layers))


@pytest.mark.parametrize(
    ("layers", "first", "feature"), [(2, 1, 0), (3, 1, 0), (4, 2, 1), (5, 2, 1), (30, 15, 8)]
)
def test_layers_follow_from_the_model(layers: int, first: int, feature: int) -> None:
    """Sites are in the upper half; a model with few layers is no error."""
    bank = open_bank(model_of(layers), first_layer=None, feature_layer=None, rank=RANK, slots=1)

    assert bank is not None
    assert (bank.first_layer, bank.feature_layer) == (first, feature)


def test_model_of_one_layer_has_no_bank() -> None:
    """There is no layer below that a controller could read."""
    assert open_bank(model_of(1), first_layer=None, feature_layer=None, rank=RANK, slots=1) is None


@pytest.mark.parametrize(
    ("first", "feature", "named"),
    [
        (4, None, "has 3 layers; set FIRST_LAYER to 1 to 2"),
        (3, None, "first_layer: 3 is out of range"),
        (1, 1, "set FEATURE_LAYER to 0 to 0"),
        (None, 2, "feature_layer: 2"),
    ],
)
def test_setting_that_does_not_fit_the_model_is_named(
    first: int | None, feature: int | None, named: str
) -> None:
    """The text says which values fit."""
    with pytest.raises(InvalidSettingError, match=named):
        open_bank(model_of(3), first_layer=first, feature_layer=feature, rank=RANK, slots=1)


def test_other_base_serves_without_the_safety_adapter(tmp_path: Path) -> None:
    """What is missing is said with what to do; an edited safety adapter is an error."""
    backbone = tiny_backbone()
    write_safety(tmp_path, backbone)

    def install(model: Backbone) -> tuple[object, str]:
        bank = open_bank(
            model, first_layer=min(LAYERS), feature_layer=FEATURE_LAYER, rank=RANK, slots=2
        )
        return install_safety_adapter(model, bank, tmp_path)

    overlay, reason = install(backbone)
    assert (overlay is not None, reason) == (True, "")
    other = replace(tiny_backbone(), digest="e" * 64)
    overlay, reason = install(other)
    assert overlay is None
    assert "trained for base" in reason
    assert "fleetctl train safety" in reason
    assert model_warnings(other, reason) == [reason]
    card = tmp_path / "safety.json"
    card.write_text(card.read_text().replace('"epsilon": 0.1', '"epsilon": 0.9'))
    with pytest.raises(ArtifactTamperedError):
        install(tiny_backbone())
    card.unlink()
    assert "has no safety.json" in install(tiny_backbone())[1]
    assert "one layer" in install_safety_adapter(backbone, None, write_path(tmp_path))[1]


def write_path(folder: Path) -> Path:
    """Write a safety adapter again and return its folder."""
    write_safety(folder, tiny_backbone())
    return folder


def test_missing_chat_template_is_said() -> None:
    """Completions are served; chats are refused."""
    backbone = tiny_backbone()
    assert model_warnings(backbone) == []
    backbone.tokenizer.chat_template = None

    assert model_warnings(backbone) == ["chat: tiny has no chat template; chats are refused"]


def test_a_context_below_the_models_own_is_said() -> None:
    """Rotary factors of long texts are not served, and status and ``model check`` name them."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    own = {"rope_parameters": rope, "original_max_position_embeddings": 64}
    (warning,) = model_warnings(backbone_of(tiny_model("phi3", sliding_window=None, **own)))
    assert warning.startswith("context: 64 of 256 tokens; rotary factors of longer texts")


def test_loaded_model_was_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is verified before it is served, and ``tiny`` needs no files."""
    save_folder(tmp_path / "small", tiny_model("llama"))

    def load(source: str) -> Backbone:
        return load_verified_backbone(
            source, device="cpu", cache=tmp_path / "cache", context_tokens=64
        )

    assert load(str(tmp_path / "small")).name == "small"
    assert (tmp_path / "cache" / "verified.json").is_file()
    assert load("tiny").name == "tiny"
    monkeypatch.setattr("bem.engine.verification.TOLERANCE", 0.0)
    (tmp_path / "cache" / "verified.json").unlink()
    with pytest.raises(UnsupportedBackboneError, match="differ from transformers'"):
        load(str(tmp_path / "small"))


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_a_cache_policy_follows_from_the_settings(tmp_path: Path, policy: str) -> None:
    """Name and share are those of the settings."""
    cache = cache_setting(tiny_backbone(), policy, 0.25, tmp_path)

    assert cache is not None
    assert (cache.policy.name, cache.share) == (policy, 0.25)


def test_a_policy_and_a_share_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """The error names both settings; without either all entries stay."""
    assert cache_setting(tiny_backbone(), "full", 1.0, tmp_path) is None
    with pytest.raises(InvalidSettingError, match=r"kv_share: is 0\.5, but kv_policy full"):
        cache_setting(tiny_backbone(), "full", 0.5, tmp_path)
    with pytest.raises(InvalidSettingError, match="kv_policy: h2o evicts nothing at kv_share 1"):
        cache_setting(tiny_backbone(), "h2o", 1.0, tmp_path)


def test_a_learned_policy_needs_its_artifact(tmp_path: Path) -> None:
    """A missing file is an error: the operator believes that the policy works."""
    with pytest.raises(ArtifactFormatError, match=r"cache_policy\.json"):
        cache_setting(tiny_backbone(), "learned", 0.5, tmp_path)
