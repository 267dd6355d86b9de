"""Tests of the refusal probe: one forward pass finds what decoding would."""

from pathlib import Path

import pytest
import torch
from bem.backbone import Backbone
from bem.safety import read_safety
from bem.testing import tiny_backbone
from bem.training.activation_cache import prompt_ids
from bem.training.safety import refusal_probe
from bem.training.safety.examples import opening_ids
from bem.training.safety.refusal_probe import RefusalProbe
from bem.training.safety.trainer import SafetyTrainer

from tests.support.tiny_safety_training import ATTACKS, safety_examples


def test_refusals_follow_the_strength(trained: tuple[SafetyTrainer, Path], tmp_path: Path) -> None:
    """Strength 0 is the base model; the probability of refusing is that of the trainer."""
    trainer, folder = trained
    backbone = tiny_backbone()
    artifact = read_safety(folder, base_digest=backbone.digest)
    probe = RefusalProbe(backbone, ATTACKS["harm"], first_layer=2, feature_layer=0, cache=tmp_path)
    none, full = (probe.measure(artifact, torch.full((2,), s)) for s in (0.0, 1.0))
    _, opening = trainer.refusal_nll(safety_examples(backbone).attacks["harm"])
    mixed = probe.measure(artifact, torch.tensor([0.0, 1.0]), none)

    assert full.probability.mean() > none.probability.mean()
    expected = torch.stack([none.probability[0], full.probability[1]])
    assert torch.allclose(mixed.probability, expected, rtol=0.05, atol=1e-9)
    assert torch.allclose(full.probability, torch.exp(-opening), atol=0.05)


def test_refused_is_what_greedy_decoding_gives(
    trained: tuple[SafetyTrainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the greedy reply of one prompt as the opening, the probe finds exactly that prompt."""
    _, folder = trained
    backbone = tiny_backbone()
    artifact = read_safety(folder, base_digest=backbone.digest)
    texts = ATTACKS["harm"] + ATTACKS["bias"]
    replies = [greedy(backbone, prompt_ids(backbone, text)) for text in texts]
    monkeypatch.setattr(refusal_probe, "opening_ids", lambda _: replies[0])
    probe = RefusalProbe(backbone, texts, first_layer=2, feature_layer=0, cache=tmp_path)
    base = probe.measure(artifact, torch.zeros(3))

    assert base.refused.tolist() == [reply == replies[0] for reply in replies]
    assert base.refused[0]
    assert base.probability[0] > 0


@torch.no_grad()
def greedy(backbone: Backbone, ids: list[int]) -> list[int]:
    """Decode as many greedy tokens as an opening has."""
    reply: list[int] = []
    for _ in opening_ids(backbone):
        logits = backbone.model(torch.tensor([ids + reply])).logits[0, -1]
        reply.append(int(logits.argmax()))
    return reply
