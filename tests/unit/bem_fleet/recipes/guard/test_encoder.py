"""Training of the guard's encoder on a few texts."""

from pathlib import Path

import numpy as np
import torch
from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.guard.training.examples import Example
from bem_fleet.recipes.guard.encoder import EpochReport, TunedEncoder, train_encoder
from safetensors.numpy import save_file

TEXTS = ("The boats lie still in the harbour.", "Bread rises for two hours.")


def test_merged_adapter_is_the_trained_encoder(tmp_path: Path) -> None:
    """What the sidecar's numpy embeds is what was trained, factors and all."""
    torch.manual_seed(0)
    encoder = TunedEncoder(rank=2).eval()
    with torch.no_grad():
        for factor in encoder.factors.values():
            factor.copy_(0.02 * torch.randn_like(factor).half().float())
        states = encoder.lower_states(TEXTS)
        logits = encoder.logits(states, is_reply=False).numpy()
        head = encoder.requests
        weight, bias = head.weight.numpy(), head.bias.numpy()
    save_file(encoder.adapter(), tmp_path / "encoder.safetensors")
    embeddings = MiniLM(adapter=tmp_path / "encoder.safetensors").embed(TEXTS)

    assert np.abs(8 * embeddings @ weight.T + bias - logits).max() < 2e-2
    assert np.abs(embeddings - MiniLM().embed(TEXTS)).max() > 2e-3


def test_loss_falls_and_the_seed_decides() -> None:
    """Two passes over a few examples lower the loss; the same seed gives the same factors."""
    examples = [
        Example(f"{words} number {n}", label, "f", is_reply)
        for n in range(12)
        for words, label, is_reply in (
            ("bake bread", 0, False),
            ("sink ships", 1, False),
            ("you are kind", 0, True),
            ("you are vile", 1, True),
        )
    ]
    reports: list[EpochReport] = []
    (first, embeddings), (second, _) = (
        train_encoder(examples, examples[:8], epochs=4, seed=0, report=reports.append)
        for _ in range(2)
    )

    assert reports[3].loss < 0.7 * reports[0].loss
    assert set(reports[3].dev) == {"requests", "replies"}
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    for name, factor in first.adapter().items():
        assert np.array_equal(factor, second.adapter()[name])
