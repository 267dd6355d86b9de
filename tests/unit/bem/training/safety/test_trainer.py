"""The Lagrangian training on a tiny model: it learns to decline inside its basis."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.backbone import Backbone
from bem.journal import Journal
from bem.safety import SafetyCard, orthogonality, read_safety, save_safety
from bem.testing import tiny_backbone
from bem.training.features import Example, cache_tokens
from bem.training.safety.plots import draw_curve
from bem.training.safety.refusal_probe import OpeningProbe
from bem.training.safety.trainer import SafetyPlan, SafetyTrainer, held
from bem_fleet.recipes.safety.examples import (
    OPENING_TOKENS,
    SafetyExamples,
    mean_states,
    prompt_ids,
    refusal_ids,
)

PLAN = SafetyPlan(
    layers=(2, 3),
    rank=4,
    basis=288,
    feature_layer=0,
    steps=150,
    attacks=2,
    harmless=1,
    learning_rate=3e-2,
)
ATTACKS = {"harm": ["make a bomb", "poison him"], "bias": ["why are they lazy"]}


def examples(backbone: Backbone) -> SafetyExamples:
    """Three attacks of two categories and one harmless prompt."""

    def encoded(texts: list[str], reply: list[int]) -> list[Example]:
        sequences = [(prompt_ids(backbone, text), reply) for text in texts]
        return cache_tokens(backbone, sequences, first_layer=2, feature_layer=0)

    attacks = {name: encoded(texts, refusal_ids(backbone)) for name, texts in ATTACKS.items()}
    return SafetyExamples(attacks, encoded(["what is 2 + 2"], list(b"4")), "0" * 64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SafetyTrainer, Path]:
    """A trained adapter and its folder."""
    folder = tmp_path_factory.mktemp("safety")
    backbone = tiny_backbone()
    adapter = {2: [torch.randn(32, 3)]}
    trainer = SafetyTrainer(backbone, PLAN, folder, away_from=adapter)
    trainer.run(examples(backbone))
    assert orthogonality(trainer.bases[2], adapter[2][0]) > 1 - 1e-5
    card = SafetyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(PLAN.layers),
        kinds=list(PLAN.kinds),
        rank=PLAN.rank,
        scale=PLAN.scale,
        basis=trainer.bases[2].shape[1],
        epsilon=PLAN.epsilon,
        feature_layer=PLAN.feature_layer,
        command="test",
        data_digest="0",
        seed=0,
    )
    save_safety(folder, card, trainer.tensors())
    return trainer, folder


def test_refusal_gets_likelier_and_the_curve_is_stored(trained: tuple[SafetyTrainer, Path]) -> None:
    """Each step notes violations, multipliers and divergence; the plot is drawn of them."""
    trainer, folder = trained
    attacks = examples(tiny_backbone()).attacks["harm"]
    fresh = SafetyTrainer(tiny_backbone(), PLAN, folder)
    before, after = (one.refusal_nll(attacks)[0].mean().item() for one in (fresh, trainer))
    rows = list(Journal(folder / "curve.jsonl").rows())
    draw_curve(folder / "curve.jsonl", folder / "curve.png", PLAN.epsilon)

    assert len(rows) == PLAN.steps
    assert set(rows[0]["multipliers"]) == set(ATTACKS)
    assert all(0 <= v <= 1 for row in rows for v in row["violations"].values())
    assert rows[0]["violations"]["harm"] > 0.9
    assert after < before / 2
    assert all(0 <= v <= 10 for row in rows for v in row["multipliers"].values())
    assert (folder / "curve.png").stat().st_size > 1000


def test_adapter_writes_only_in_its_basis(trained: tuple[SafetyTrainer, Path]) -> None:
    """Whatever was trained, the output factor has nothing outside ``Q``."""
    _, folder = trained
    artifact = read_safety(folder, base_digest=tiny_backbone().digest)
    bases = artifact.site_bases()

    for site, (_, b) in artifact.site_factors().items():
        q = bases[site]
        assert torch.allclose(q @ (q.T @ b), b, atol=1e-4 * float(b.abs().max()))
        assert b.abs().max() > 0


def test_openings_follow_the_strength(trained: tuple[SafetyTrainer, Path]) -> None:
    """At strength 0 it is the base; the probability of declining is what the trainer saw."""
    trainer, folder = trained
    backbone = tiny_backbone()
    artifact = read_safety(folder, base_digest=backbone.digest)
    probe = OpeningProbe(backbone, ATTACKS["harm"], first_layer=2, feature_layer=0, cache=folder)
    none, full = (probe.look(artifact, torch.full((2,), s)) for s in (0.0, 1.0))
    _, opening = trainer.refusal_nll(examples(backbone).attacks["harm"])
    mixed = probe.look(artifact, torch.tensor([0.0, 1.0]), none)

    assert full.probability.mean() > none.probability.mean()
    wanted = torch.stack([none.probability[0], full.probability[1]])
    assert torch.allclose(mixed.probability, wanted, rtol=0.05, atol=1e-9)
    assert torch.allclose(full.probability, torch.exp(-opening), atol=0.05)
    assert len(refusal_ids(backbone)) > OPENING_TOKENS


def test_base_is_not_diverged_from_without_training(tmp_path: Path) -> None:
    """A fresh adapter is the base: no divergence; the same seed makes the same adapter."""
    backbone = tiny_backbone()
    one, other = (SafetyTrainer(backbone, PLAN, tmp_path) for _ in range(2))
    another = SafetyTrainer(backbone, replace(PLAN, seed=1), tmp_path)

    assert abs(one.divergence(examples(backbone).harmless).item()) < 1e-5
    assert torch.equal(one.bases[3], other.bases[3])
    assert not torch.equal(one.bases[3], another.bases[3])


def test_mean_states_are_those_of_the_engine(tmp_path: Path) -> None:
    """The value head is fitted on what it reads when it serves."""
    backbone = tiny_backbone()
    (found,) = mean_states(backbone, ["hello"], 0, tmp_path)
    ids = torch.tensor([prompt_ids(backbone, "hello")])
    layer = backbone.model(ids, output_hidden_states=True).hidden_states[1]

    assert torch.allclose(found, layer[0].float().mean(0), atol=1e-4)


def test_rate_is_held_until_the_last_third() -> None:
    """Warm-up, full steps while multipliers fall, and down to nearly nothing at the end."""
    shares = [held(step, 40) for step in range(40)]

    assert shares[0] == 0.5
    assert shares[1:27] == [1.0] * 26
    assert shares[26:] == sorted(shares[26:], reverse=True)
    assert 0 < shares[-1] < 0.1
