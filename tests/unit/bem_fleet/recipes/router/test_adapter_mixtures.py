"""Tests of X-LoRA and Arrow over adapters of the tiny base model."""

from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError, InvalidSettingError
from bem.testing import tiny_backbone
from bem_fleet.recipes.router.adapter_mixtures import (
    XLoraTraining,
    export_tasks,
    open_arrow,
    open_xlora,
    prototype,
    read_xlora,
    save_xlora,
    train_xlora,
)
from bem_fleet.recipes.router.step_examples import PLAN_TASKS

from tests.support.random_adapters import LAYERS, write_adapter

# peft asks transformers under a name that transformers renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SETTINGS = XLoraTraining(epochs=4, batch=2, learning_rate=0.05, width=8)
SEQUENCES = [([5, 9, 20 + place], [7, 7, 3]) for place in range(4)]
IDS = torch.tensor([[5, 9, 20, 31, 8]])


def exported(folder: Path, *, constant_code: bool = True) -> list[Path]:
    """Return four random adapters as folders of peft."""
    backbone = tiny_backbone()
    for seed, task in enumerate(PLAN_TASKS):
        write_adapter(folder, backbone, task, seed=seed, constant_code=constant_code)
    return export_tasks(backbone, folder, folder / "peft")


def test_the_classifier_trains(tmp_path: Path) -> None:
    """Its gradients are not zero, its weights move, and the loss falls."""
    model = open_xlora(tiny_backbone(), exported(tmp_path), SETTINGS)

    found = train_xlora(model, SEQUENCES, SETTINGS)

    assert found["first_gradient"] > 0
    assert found["moved"] > 0
    assert found["last_loss"] < found["first_loss"]


def test_a_frozen_classifier_is_refused(tmp_path: Path) -> None:
    """A baseline that does not train would make the router look better than it is."""
    frozen = open_xlora(tiny_backbone(), exported(tmp_path), SETTINGS).requires_grad_(
        requires_grad=False
    )
    still = open_xlora(tiny_backbone(), exported(tmp_path), SETTINGS)

    with pytest.raises(InvalidSettingError, match="not exactly the classifier"):
        train_xlora(frozen, SEQUENCES, SETTINGS)
    with pytest.raises(InvalidSettingError, match="moved by 0"):
        train_xlora(still, SEQUENCES, XLoraTraining(epochs=1, learning_rate=0.0, width=8))


def test_a_trained_mixture_is_read_again(tmp_path: Path) -> None:
    """The classifier is stored; a missing file is an error with the folder's name."""
    folders = exported(tmp_path)
    model = open_xlora(tiny_backbone(), folders, SETTINGS)
    found = train_xlora(model, SEQUENCES, SETTINGS)
    save_xlora(tmp_path / "xlora", model, SETTINGS, command="x", measured=found)

    again = read_xlora(tiny_backbone(), folders, tmp_path / "xlora")

    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, again(input_ids=IDS).logits)
    with pytest.raises(ArtifactFormatError, match="nothing"):
        read_xlora(tiny_backbone(), folders, tmp_path / "nothing")


def test_a_prototype_is_the_first_right_singular_vector() -> None:
    """It is that of the product, up to its sign."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((3, 12), (9, 3)))

    expected = torch.linalg.svd(b @ a).Vh[0]

    assert abs(float(prototype(a, b) @ expected)) == pytest.approx(1, abs=1e-5)


def test_arrow_weighs_the_adapters_of_each_token(tmp_path: Path) -> None:
    """The output of a site is the mixture that the paper's formula gives."""
    folders = exported(tmp_path)
    model = open_arrow(tiny_backbone(), folders, top_k=2, temperature=0.5)
    site = model.get_submodule(f"base_model.model.model.layers.{LAYERS[0]}.self_attn.o_proj")
    states = torch.randn(1, 5, site.in_features, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        mixed = site(states) - site.base_layer(states)
        pairs = [
            (site.lora_A[f"task_{place}"].weight, site.lora_B[f"task_{place}"].weight)
            for place in range(4)
        ]
        likeness = torch.stack([(states[0] @ prototype(a, b)).abs() for a, b in pairs], 1)
        kept, places = likeness.topk(2, dim=1)
        weights = torch.zeros_like(likeness).scatter(1, places, (kept / 0.5).softmax(1))
        updates = torch.stack([states[0] @ a.T @ b.T for a, b in pairs], 1)

        assert torch.allclose(mixed[0], (weights[..., None] * updates).sum(1), atol=1e-4)
        assert model(input_ids=IDS).logits.isfinite().all()


def test_peft_cannot_compute_codes(tmp_path: Path) -> None:
    """An adapter whose code depends on the input would be another adapter there."""
    with pytest.raises(ArtifactFormatError, match="without a controller"):
        exported(tmp_path, constant_code=False)
