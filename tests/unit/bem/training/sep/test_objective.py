"""Objective: the arm's terms, their weights, and a teacher that gets no gradient."""

import dataclasses

import pytest
import torch
from bem.sep.arms import ARMS, Arm
from bem.sep.character_model import CharacterModel
from bem.sep.divergences import position_weights, prediction_kl
from bem.sep.invariance import CipherAdversary
from bem.training.sep.objective import objective_terms, total_loss
from bem.training.sep.views import draw_texts, draw_views, step_generator
from torch import Tensor

from tests.support.tiny_character_training import TINY, tiny_text

WEIGHTS = (2, 6)


def terms_of(
    arm: Arm, model: CharacterModel, teacher: CharacterModel | None = None
) -> dict[str, Tensor]:
    """Return the terms of a step of six texts."""
    torch.manual_seed(1)
    adversary = CipherAdversary(TINY.width, TINY.alphabet, torch.arange(1, 4))
    generator = step_generator(0, 0)
    texts = draw_texts(tiny_text(), 6, 12, generator)
    views = draw_views(model, arm, texts, strength=1.0, seed=0, generator=generator)
    return objective_terms(model, adversary, arm, views, weights=WEIGHTS, teacher=teacher)


def tiny_model(seed: int = 0) -> CharacterModel:
    """Return a random model."""
    torch.manual_seed(seed)
    return CharacterModel(TINY)


@pytest.mark.parametrize("name", ARMS)
def test_terms_are_those_of_the_arm(name: str) -> None:
    """A term is there if it has a weight, and is finite."""
    arm = ARMS[name]
    terms = terms_of(arm, tiny_model())
    weights = ("kl", "invariance", "variance", "covariance", "adversary")

    assert set(terms) == {"cross_entropy", *(one for one in weights if getattr(arm, one))}
    assert all(torch.isfinite(term) for term in terms.values())
    torch.autograd.backward(total_loss(arm, terms))


def test_loss_is_the_weighted_sum() -> None:
    """Cross entropy has weight 1."""
    arm = Arm(keys="fresh", kl=2.0, variance=0.5)
    terms = {
        "cross_entropy": torch.tensor(3.0),
        "kl": torch.tensor(1.0),
        "variance": torch.tensor(4.0),
    }

    assert total_loss(arm, terms).item() == 7


def test_divergence_is_from_the_clean_view_over_the_ciphered_alphabet() -> None:
    """The term is the KL of the rows' predictions, mapped by their keys."""
    arm, model = Arm(keys="fresh", kl=1.0), tiny_model()
    generator = step_generator(0, 0)
    texts = draw_texts(tiny_text(), 6, 12, generator)
    views = draw_views(model, arm, texts, strength=1.0, seed=0, generator=generator)
    logits = model(views.inputs).logits
    assert views.cipher is not None
    expected = prediction_kl(
        logits[6:], views.cipher.scramble_logits(logits[:6]), position_weights(12, *WEIGHTS)
    )

    torch.testing.assert_close(terms_of(arm, model)["kl"], expected)


def test_teacher_gets_no_gradient() -> None:
    """With a frozen teacher the divergence is from it, and the teacher has no gradient."""
    arm, model, teacher = Arm(keys="fresh", kl=1.0), tiny_model(), tiny_model(7)
    terms = terms_of(arm, model, teacher)
    torch.autograd.backward(terms["kl"])

    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in model.parameters())
    assert not torch.equal(terms["kl"], terms_of(arm, model)["kl"])
    assert terms_of(dataclasses.replace(arm, keys="pool"), model, model)["kl"] > 0
