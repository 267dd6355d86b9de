"""Declarations of model families: windows, rotated layers, constants and what is beyond Llama."""

from bem.model_families import FAMILIES, LLAMA

from tests.support.family_models import VARIANTS, WINDOW, every_variant, family_backbone
from tests.support.tiny_models import tiny_config


def test_every_family_is_tested() -> None:
    """Each declared family has a tiny model."""
    assert {model_type for model_type, _ in VARIANTS.values()} == set(FAMILIES)


@every_variant
def test_declared_modules_exist(variant: str) -> None:
    """A layer has the projections and norms that its family names."""
    backbone = family_backbone(variant)
    family, block = backbone.family, backbone.layers[0]
    names = [*(f"self_attn.{one}" for one in family.qkv), *(f"mlp.{one}" for one in family.gate_up)]
    norms = (family.attention_norms, family.mlp_norms)
    names += [name for one in norms for name in (one.before, one.after) if name]

    assert all(block.get_submodule(name).weight.numel() for name in names)


def test_window_is_that_of_families_that_apply_one() -> None:
    """Llama ignores the field; a Mistral without a window attends to everything."""
    llama, mistral = FAMILIES["llama"], FAMILIES["mistral"]
    plain = tiny_config("llama")
    plain.sliding_window = WINDOW

    assert llama.window(plain) is None
    assert mistral.window(tiny_config("mistral", sliding_window=None)) is None
    assert mistral.window(tiny_config("mistral", sliding_window=WINDOW)) == WINDOW


def test_llama_and_mistral_compute_nothing_beyond() -> None:
    """A sliding window is named on its own."""
    for kind in ("llama", "mistral"):
        config = tiny_config(kind, sliding_window=WINDOW)
        assert FAMILIES[kind].beyond_llama(config) == []
        assert FAMILIES[kind].constants(config) == LLAMA
