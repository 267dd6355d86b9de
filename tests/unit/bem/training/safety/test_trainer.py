"""Tests of the safety trainer: the tiny model learns to refuse inside its basis."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bem.journal import Journal
from bem.safety import SafetyArtifact, read_safety
from bem.testing import tiny_backbone
from bem.training.safety.refusal_probe import RefusalProbe
from bem.training.safety.trainer import SafetyTrainer, warmup_stable_decay

from tests.support.family_models import family_backbone
from tests.support.tiny_safety_training import ATTACKS, CONFIG, safety_examples


def test_refusal_gets_likelier_and_the_curve_is_stored(
    trained: tuple[SafetyTrainer, Path], tmp_path: Path
) -> None:
    """Each step writes violations, multipliers and divergence."""
    trainer, folder = trained
    attacks = safety_examples(tiny_backbone()).attacks["harm"]
    fresh = SafetyTrainer(tiny_backbone(), CONFIG, tmp_path)
    before, after = (one.refusal_nll(attacks)[0].mean().item() for one in (fresh, trainer))
    rows = list(Journal(folder / "curve.jsonl").rows())

    assert len(rows) == CONFIG.steps
    assert set(rows[0]["multipliers"]) == set(ATTACKS)
    assert all(0 <= v <= 1 for row in rows for v in row["violations"].values())
    assert rows[0]["violations"]["harm"] > 0.9
    assert after < before / 2
    assert all(0 <= v <= 10 for row in rows for v in row["multipliers"].values())


@pytest.mark.parametrize("variant", ["gemma3", "qwen2"])
def test_other_families_are_trained_and_measured(variant: str, tmp_path: Path) -> None:
    """The trainer and the probe run the family's own layers."""
    backbone = family_backbone(variant)
    config = replace(CONFIG, layers=(2,), steps=60)
    examples = safety_examples(backbone)
    trainer = SafetyTrainer(backbone, config, tmp_path)
    before = trainer.refusal_nll(examples.attacks["harm"])[0].mean().item()
    trainer.run(examples)
    nll, opening = trainer.refusal_nll(examples.attacks["harm"])
    probe = RefusalProbe(backbone, ATTACKS["harm"], first_layer=2, feature_layer=0, cache=tmp_path)
    bases = {layer: q.float() for layer, q in trainer.bases.items()}
    artifact = SafetyArtifact(
        card=SimpleNamespace(scale=config.scale, rank=config.rank, layers=[2]),  # type: ignore[arg-type] # what the probe reads
        bases=bases,
        factors={path: (a.detach(), c.detach()) for path, (a, c) in trainer.factors.items()},
        value_head={},
        version="",
    )
    measured = probe.measure(artifact, torch.ones(2))

    assert nll.mean().item() < before - 1
    assert torch.allclose(measured.probability, torch.exp(-opening), rtol=1e-3)


def test_adapter_writes_only_in_its_basis(trained: tuple[SafetyTrainer, Path]) -> None:
    """Whatever was trained, the output factor has nothing outside ``Q``."""
    _, folder = trained
    artifact = read_safety(folder, base_digest=tiny_backbone().digest)
    bases = artifact.site_bases()

    for site, (_, b) in artifact.site_factors().items():
        q = bases[site]
        assert torch.allclose(q @ (q.T @ b), b, atol=1e-4 * float(b.abs().max()))
        assert b.abs().max() > 0


def test_base_is_not_diverged_from_without_training(tmp_path: Path) -> None:
    """A fresh adapter is the base: no divergence; the same seed makes the same adapter."""
    backbone = tiny_backbone()
    one, other = (SafetyTrainer(backbone, CONFIG, tmp_path) for _ in range(2))
    another = SafetyTrainer(backbone, replace(CONFIG, seed=1), tmp_path)

    assert abs(one.divergence(safety_examples(backbone).harmless).item()) < 1e-5
    assert torch.equal(one.bases[3], other.bases[3])
    assert not torch.equal(one.bases[3], another.bases[3])


def test_rate_is_constant_until_the_last_third() -> None:
    """Warm-up, full steps while multipliers fall, and down to nearly nothing at the end."""
    shares = [warmup_stable_decay(step, 40) for step in range(40)]

    assert shares[0] == 0.5
    assert shares[1:27] == [1.0] * 26
    assert shares[26:] == sorted(shares[26:], reverse=True)
    assert 0 < shares[-1] < 0.1
