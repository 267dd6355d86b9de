"""Objective of the character study: cross entropy of all views and losses between them."""

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.sep.arms import Arm
from bem.sep.character_model import CharacterModel, CharacterOutputs
from bem.sep.divergences import position_weights, prediction_kl
from bem.sep.invariance import (
    CipherAdversary,
    code_invariance,
    covariance_loss,
    variance_loss,
)
from bem.training.sep.views import StepViews


def objective_terms(
    model: CharacterModel,
    adversary: CipherAdversary,
    arm: Arm,
    views: StepViews,
    *,
    weights: tuple[int, int],
    teacher: CharacterModel | None = None,
) -> dict[str, Tensor]:
    """Return the unweighted terms of the arm, ``cross_entropy`` first.

    Args:
        model: Model that is trained.
        adversary: Head that reads keys from codes.
        arm: Arm of the study.
        views: Rows of the step.
        weights: Positions from which the divergence counts in part and in full.
        teacher: Frozen model that predicts the clean view; None for the trained model itself.
    """
    outputs = model(views.inputs, embeddings=views.embeddings)
    terms = {
        "cross_entropy": f.cross_entropy(outputs.logits.flatten(0, 1), views.targets.flatten())
    }
    if views.cipher is None:
        return terms
    half = len(views.inputs) // 2
    codes = outputs.codes
    clean, ciphered = codes[:half], codes[half:]
    if arm.kl:
        target = _teacher_logits(outputs, views, teacher)
        terms["kl"] = prediction_kl(
            outputs.logits[half:], target, position_weights(target.shape[1], *weights)
        )
    if arm.invariance:
        terms["invariance"] = code_invariance(clean, ciphered)
    if arm.variance:
        terms["variance"] = variance_loss(clean) + variance_loss(ciphered)
    if arm.covariance:
        terms["covariance"] = covariance_loss(clean) + covariance_loss(ciphered)
    if arm.adversary and views.cipher.symbols is not None:
        terms["adversary"] = adversary(ciphered, views.cipher.symbols)
    return terms


def total_loss(arm: Arm, terms: dict[str, Tensor]) -> Tensor:
    """Return the weighted sum of the terms; cross entropy has weight 1."""
    total = terms["cross_entropy"]
    for name, term in terms.items():
        if name != "cross_entropy":
            total = total + getattr(arm, name) * term
    return total


def _teacher_logits(
    outputs: CharacterOutputs, views: StepViews, teacher: CharacterModel | None
) -> Tensor:
    """Return the clean predictions over each row's ciphered alphabet, without gradient."""
    half = len(views.inputs) // 2
    logits = outputs.logits[:half].detach()
    if teacher is not None:
        with torch.no_grad():
            logits = teacher(views.inputs[:half]).logits
    return logits if views.cipher is None else views.cipher.scramble_logits(logits)
