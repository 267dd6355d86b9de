"""Weights of PEFT folders: broken files, pickles, tensors that no option names."""

from pathlib import Path

import pytest
import torch
from bem.adapters.peft_config import parse_config
from bem.adapters.peft_weights import WEIGHTS, load_tensors, read_factors
from bem.errors import ArtifactFormatError
from bem.testing import tiny_backbone
from safetensors.torch import save_file
from torch import Tensor

CONFIG = parse_config(
    "x",
    {"peft_type": "LORA", "r": 2, "target_modules": ["o_proj"], "layers_to_transform": [3]},
)
SITE = "base_model.model.model.layers.3.self_attn.o_proj"


def tensors(**changes: Tensor) -> dict[str, Tensor]:
    """Return the two factors of the one site."""
    factors = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)} | changes
    return {f"{SITE}.{name}.weight": tensor for name, tensor in factors.items()}


def test_factors_hold_the_scale(tmp_path: Path) -> None:
    """With alpha 8 and rank 2, B is multiplied by 4."""
    save_file(tensors(), tmp_path / WEIGHTS)
    ((site, (a, b)),) = read_factors(tmp_path, CONFIG, tiny_backbone()).items()

    assert site == "model.layers.3.self_attn.o_proj"
    assert (float(a[0, 0]), float(b[0, 0])) == (1, 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora_A": torch.ones(3, 32)}, r"A \(3, 32\)"),
        ({"lora_A": torch.ones(2, 31)}, r"A \(2, 31\)"),
        ({"lora_B": torch.ones(31, 2)}, r"B \(31, 2\)"),
        ({"lora_A": torch.ones(2)}, r"A \(2,\)"),
        ({"lora_B": torch.full((32, 2), float("nan"))}, "magnitude is nan"),
        ({"lora_B": torch.full((32, 2), 900.0)}, "scaled.*3600"),
        ({"lora_A": torch.ones(2, 32, dtype=torch.int8)}, "int8"),
        ({"lora_magnitude_vector": torch.ones(32)}, "lora_magnitude_vector"),
    ],
)
def test_wrong_tensor_is_named(tmp_path: Path, changes: dict[str, Tensor], named: str) -> None:
    """Shapes, numbers and data types are checked before anything is written."""
    save_file(tensors(**changes), tmp_path / WEIGHTS)
    with pytest.raises(ArtifactFormatError, match=named):
        read_factors(tmp_path, CONFIG, tiny_backbone())


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (SITE.replace(".3.", ".2."), "name different modules"),
        (SITE.replace(".3.", ".9."), "has no such module"),
        ("base_model.model.lm_head", "lm_head; only the linear layers of decoder layers"),
        (SITE.replace("o_proj", "k_proj"), "name different modules"),
    ],
)
def test_tensors_are_those_that_the_configuration_names(
    tmp_path: Path, key: str, named: str
) -> None:
    """PEFT would ignore a tensor of another module without a word."""
    more = {f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.ones(32, 2)}
    save_file(tensors() | more, tmp_path / WEIGHTS)
    with pytest.raises(ArtifactFormatError, match=named):
        read_factors(tmp_path, CONFIG, tiny_backbone())


def test_missing_module_is_named(tmp_path: Path) -> None:
    """A module of the configuration without tensors was lost."""
    both = parse_config(
        "x",
        {"peft_type": "LORA", "r": 2, "target_modules": ["o_proj"], "layers_to_transform": [2, 3]},
    )
    save_file(tensors(), tmp_path / WEIGHTS)
    with pytest.raises(ArtifactFormatError, match=r"layers\.2\.self_attn"):
        read_factors(tmp_path, both, tiny_backbone())


def test_pickle_is_refused_with_the_conversion(tmp_path: Path) -> None:
    """A pickle beside the safetensors file is not read, and alone it is not either."""
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ArtifactFormatError, match=r"is a pickle.*safe_serialization"):
        load_tensors(tmp_path, WEIGHTS)
    save_file(tensors(), tmp_path / WEIGHTS)
    assert len(load_tensors(tmp_path, WEIGHTS)) == 2
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-5])
    with pytest.raises(ArtifactFormatError, match="no readable"):
        load_tensors(tmp_path, WEIGHTS)
