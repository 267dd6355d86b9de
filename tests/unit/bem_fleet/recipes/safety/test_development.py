"""Development figures of a safety adapter: which requests, and shares with intervals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bem.safety import SafetyArtifact, SafetyCard, ValueHead
from bem.testing import tiny_backbone
from bem.training.safety import refusal_probe
from bem.training.safety.examples import opening_ids
from bem.training.safety.trainer import SafetyTrainer
from bem_fleet.data.guard_texts import HARMLESS, written_texts
from bem_fleet.data.held_out import inspection
from bem_fleet.recipes.safety.development import (
    DevelopmentRequest,
    development_requests,
    measure_refusals,
)
from bem_fleet.recipes.safety.examples import written_requests

from tests.support.text_digests import shared_texts
from tests.support.tiny_safety_training import ATTACKS, CONFIG, safety_examples


def test_requests_are_those_of_the_development_split() -> None:
    """Harmful and harmless ones, none of which was fitted on or is held out."""
    found = development_requests(40)
    with inspection():
        closed = {one.text for one in written_texts("held_out")}
    fitted = {
        one.text
        for harmless in (True, False)
        for one in written_requests("train", 10_000, harmless=harmless)
    }
    harmful = {one.family for one in written_texts("dev") if one.label != HARMLESS}

    assert [one.harmful for one in found] == [True] * 40 + [False] * 40
    assert {one.family for one in found if one.harmful} <= harmful
    texts = {one.text for one in found}
    assert not shared_texts(fitted | closed, texts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SafetyTrainer:
    """A safety adapter that learned to refuse two attacks."""
    backbone = tiny_backbone()
    trainer = SafetyTrainer(backbone, CONFIG, tmp_path_factory.mktemp("curves"))
    trainer.run(safety_examples(backbone))
    return trainer


def test_shares_are_those_of_each_setting(
    trained: SafetyTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed value head serves the base model, an open one the adapter."""
    backbone = tiny_backbone()
    # The tiny model learns the refusal's first byte, not all sixteen of its opening.
    first = opening_ids(backbone)[:1]
    monkeypatch.setattr(refusal_probe, "opening_ids", lambda _: first)
    requests = [
        *(DevelopmentRequest(text, "f/harm", harmful=True) for text in ATTACKS["harm"]),
        DevelopmentRequest("what is 2 + 2", "asdiv", harmful=False),
    ]

    def measure(bias: float) -> dict[str, Any]:
        head = ValueHead(32)
        with torch.no_grad():
            head.linear.weight.zero_()
            head.linear.bias.fill_(bias)
        tensors = {path: (a.detach(), c.detach()) for path, (a, c) in trained.factors.items()}
        artifact = SafetyArtifact(_card(trained), trained.bases, tensors, head.state_dict(), "")
        return measure_refusals(backbone, artifact, requests, tmp_path)

    closed, opened = measure(-9.0), measure(9.0)

    assert closed["harmful"]["items"] == 2
    assert closed["harmful"]["above_threshold"][0] == 0
    assert opened["harmful"]["above_threshold"][0] == 1
    for kind in ("harmful", "harmless"):
        assert closed[kind]["served"] == closed[kind]["base"]
        assert opened[kind]["served"] == opened[kind]["adapter_alone"]
        share, low, high = opened[kind]["served"]
        assert low <= share <= high
    assert opened["harmful"]["served"][0] > closed["harmful"]["served"][0]


def _card(trainer: SafetyTrainer) -> SafetyCard:
    config = trainer.config
    return SafetyCard(
        base_name="tiny",
        base_digest="0" * 64,
        layers=list(config.layers),
        kinds=list(config.kinds),
        rank=config.rank,
        scale=config.scale,
        basis=trainer.bases[2].shape[1],
        epsilon=config.epsilon,
        feature_layer=config.feature_layer,
        command="test",
        data_digest="0",
        seed=0,
    )
