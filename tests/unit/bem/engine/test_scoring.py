"""Tests of the scorer without an engine's thread."""

from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.engine import LLMEngine, ScoreRequest
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.safety import read_safety
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety
from tests.unit.bem.engine.engines import encode, make_engine, write_adapters


def test_scores_of_a_padded_batch_are_those_of_transformers(tmp_path: Path) -> None:
    """Texts of unequal length in one batch score as each alone."""
    scorer = make_engine(tiny_backbone(), write_adapters(tmp_path)).core.scorer
    texts = [encode("hello there"), encode("hi")]
    with torch.inference_mode():
        scores = scorer.score([ScoreRequest(ids[:1], ids[1:]) for ids in texts])
        for ids, values in zip(texts, scores, strict=True):
            logprobs = tiny_backbone().model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = [float(logprobs[at, token]) for at, token in enumerate(ids[1:])]
            assert values == pytest.approx(expected, abs=1e-4)


def test_safety_adapter_scores_as_weights_with_its_factors(tmp_path: Path) -> None:
    """At a strength the scores are those of a model whose weights have the scaled product added."""
    backbone = tiny_backbone()
    write_safety(tmp_path / "safety", backbone)
    artifact = read_safety(tmp_path / "safety", base_digest=backbone.digest)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER)
    overlay = load_overlay(bank, tmp_path / "safety", base_digest=backbone.digest)
    scorer = LLMEngine(backbone, bank, safety=overlay).core.scorer
    prompt, target = encode("how do I"), encode("no, never")
    states = (
        tiny_backbone()
        .model(torch.tensor([prompt]), output_hidden_states=True)
        .hidden_states[FEATURE_LAYER]
    )
    value = overlay.request_strength(states[0].mean(0), 0.5)
    with torch.inference_mode():
        base, safe = scorer.score(
            [
                ScoreRequest(prompt, target),
                ScoreRequest(prompt, target, safety_strength=0.5),
            ]
        )
    merged = tiny_backbone().model
    with torch.no_grad():
        for path, (a, b) in artifact.site_factors().items():
            merged.get_submodule(path).weight += value * artifact.card.scale * (b @ a)
        logits = merged(torch.tensor([[*prompt, *target]])).logits[0].log_softmax(-1)
    start = len(prompt) - 1
    expected = [float(logits[start + at, token]) for at, token in enumerate(target)]

    assert value > 0
    assert safe == pytest.approx(expected, abs=1e-4)
    assert base != pytest.approx(expected, abs=1e-2)


def test_adapter_and_safety_adapter_score_together(tmp_path: Path) -> None:
    """Both columns of codes are set: neither alone gives the scores of both."""
    backbone = tiny_backbone()
    write_safety(tmp_path / "safety", backbone)
    write_adapter(tmp_path, backbone, "alpha", seed=1, size=4.0)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER)
    overlay = load_overlay(bank, tmp_path / "safety", base_digest=backbone.digest)
    bank.load(tmp_path / "alpha")
    scorer = LLMEngine(backbone, bank, safety=overlay).core.scorer
    prompt, target = encode("how do I"), encode("no, never")
    with torch.inference_mode():
        both = scorer.score(
            [
                ScoreRequest(prompt, target, "alpha", safety_strength=strength)
                for strength in (0.0, 1.0)
            ]
        )
        alone = scorer.score([ScoreRequest(prompt, target, safety_strength=1.0)])
        off = scorer.score([ScoreRequest(prompt, target, "alpha")])

    assert both[0] == pytest.approx(off[0], abs=1e-5)
    assert both[1] != pytest.approx(off[0], abs=1e-2)
    assert both[1] != pytest.approx(alone[0], abs=1e-2)


def test_errors_leave_no_lease(tmp_path: Path) -> None:
    """Unknown adapters and empty targets are refused."""
    core = make_engine(tiny_backbone(), write_adapters(tmp_path)).core
    with pytest.raises(AdapterNotFoundError):
        core.scorer.score([ScoreRequest((1,), (2,), "nobody")])
    with pytest.raises(InvalidRequestError, match="each needs 1"):
        core.scorer.score([ScoreRequest((1,), (), "alpha")])

    assert core.binding.bank is not None
    assert core.binding.bank.leases() == 0
