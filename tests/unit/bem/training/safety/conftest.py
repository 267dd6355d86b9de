"""A safety adapter of the tiny base model, trained once for all tests of this folder."""

from pathlib import Path

import pytest
import torch
from bem.safety import SafetyCard, orthogonality, save_safety
from bem.testing import tiny_backbone
from bem.training.safety.trainer import SafetyTrainer

from tests.support.tiny_safety_training import CONFIG, safety_examples


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SafetyTrainer, Path]:
    """Return the trainer of a trained safety adapter, and the folder of artifact and curve."""
    folder = tmp_path_factory.mktemp("safety")
    backbone = tiny_backbone()
    committed = {2: [torch.randn(32, 3)]}
    trainer = SafetyTrainer(backbone, CONFIG, folder, orthogonal_to=committed)
    trainer.run(safety_examples(backbone))
    assert orthogonality(trainer.bases[2], committed[2][0]) > 1 - 1e-5
    card = SafetyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(CONFIG.layers),
        kinds=list(CONFIG.kinds),
        rank=CONFIG.rank,
        scale=CONFIG.scale,
        basis=trainer.bases[2].shape[1],
        epsilon=CONFIG.epsilon,
        feature_layer=CONFIG.feature_layer,
        command="test",
        data_digest="0",
        seed=0,
    )
    save_safety(folder, card, trainer.tensors())
    return trainer, folder
