"""Paired replies of base model and safety adapters to the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bem.backbone import Backbone
from bem.safety import SafetyArtifact
from bem.safety.overlay import load_value_head
from bem.training.activation_cache import mean_prompt_states
from torch import Tensor

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.multiple_choice import ChoiceQuestion
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.studies.safety.reply_cache import StudyArm, study_prompt

# The engine's features may differ from the cached ones in the last bits. A prompt that is below the
# threshold by less than this margin (in logits) is therefore generated rather than skipped.
LOGIT_TOLERANCE = 2e-2


@dataclass(frozen=True)
class TrainedAdapter:
    """Safety adapter of one training seed.

    Attributes:
        folder: Folder of the artifact.
        artifact: Artifact that was read from it.
    """

    folder: Path
    artifact: SafetyArtifact


@dataclass(frozen=True)
class PairedReplies:
    """Greedy replies without and with the safety adapter.

    Attributes:
        baseline: Replies without the safety adapter, by prompt.
        with_safety: Replies with it, ``[seeds][prompts]``.
        above_threshold: Whether the value head lets the safety adapter act,
            ``[seeds][prompts]``.
    """

    baseline: list[str]
    with_safety: list[list[str]]
    above_threshold: list[list[bool]]


def paired_replies(
    backbone: Backbone,
    trained: Sequence[TrainedAdapter],
    prompts: Sequence[RedTeamPrompt | BenignText],
    *,
    tokens: int,
    strength: float,
    cache: Path,
    folder: Path,
    adapters: Sequence[Path] = (),
) -> PairedReplies:
    """Return replies of the base model, and of each safety adapter where it can act.

    A prompt whose risk is clearly below the threshold has strength 0, and strength 0 is the base
    model bit for bit (``tests/unit/bem/safety/test_overlay.py``), so its reply is not generated
    again.

    Args:
        backbone: Base model without sites, for the features of the value heads.
        trained: Safety adapters, one per training seed.
        prompts: Attacks or harmless prompts.
        tokens: Longest reply, tokens.
        strength: Safety strength, in [0, 1].
        cache: Cache folder with the base model and cached activations.
        folder: Folder of the reply journal, outside the repository.
        adapters: Folders of the adapters that prompts may name.
    """
    study_prompts = [study_prompt(prompt) for prompt in prompts]
    base = StudyArm(cache, name="base", adapters=adapters)
    baseline = base.replies(study_prompts, tokens=tokens, strength=0.0, folder=folder)
    base.close()
    with_safety, above_threshold = [], []
    for one, margin in zip(trained, risk_margins(backbone, trained, prompts, cache), strict=True):
        active = [p for p, m in zip(study_prompts, margin, strict=True) if m > -LOGIT_TOLERANCE]
        seed = one.artifact.card.seed
        arm = StudyArm(cache, name="basis", safety_adapter=one.folder, adapters=adapters, seed=seed)
        replies = arm.replies(active, tokens=tokens, strength=strength, folder=folder)
        arm.close()
        changed = dict(zip([p.key for p in active], replies, strict=True))
        with_safety.append([
            changed.get(p.key, reply) for p, reply in zip(study_prompts, baseline, strict=True)
        ])  # fmt: skip
        above_threshold.append((margin > 0).tolist())
    return PairedReplies(baseline, with_safety, above_threshold)


@torch.no_grad()
def risk_margins(
    backbone: Backbone,
    trained: Sequence[TrainedAdapter],
    prompts: Sequence[RedTeamPrompt | BenignText | ChoiceQuestion],
    cache: Path,
) -> list[Tensor]:
    """Return the distance of each prompt's risk logit above the threshold, ``[S]`` per seed."""
    layer = trained[0].artifact.card.feature_layer
    features = mean_prompt_states(
        backbone, [prompt.text for prompt in prompts], layer, cache / "safety" / "features"
    )
    heads = [load_value_head(one.artifact) for one in trained]
    return [head.logit(features) - head.threshold for head in heads]
