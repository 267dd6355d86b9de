"""What the base model and its safety adapters say to the same prompts: both sides of a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bem.backbone import Backbone
from bem.safety import SafetyArtifact
from bem.safety.overlay import value_head_of
from torch import Tensor

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.recipes.safety.examples import mean_states
from bem_fleet.studies.safety.reply_cache import Arm, asked

# An engine's mean state may differ in the last bits: nearer than this to the threshold is asked.
NEAR = 2e-2


@dataclass(frozen=True)
class Trained:
    """One training seed's adapter.

    Attributes:
        folder: Of its artifact.
        artifact: As read.
    """

    folder: Path
    artifact: SafetyArtifact


@dataclass(frozen=True)
class Said:
    """Greedy replies.

    Attributes:
        plain: Of the base model and its adapters, by prompt.
        guarded: With the adapter, ``[seeds][prompts]``.
        touched: Whether the value head gives the adapter any strength, ``[seeds][prompts]``.
    """

    plain: list[str]
    guarded: list[list[str]]
    touched: list[list[bool]]


def both_sides(
    backbone: Backbone,
    trained: Sequence[Trained],
    prompts: Sequence[RedTeamPrompt | BenignText],
    *,
    tokens: int,
    strength: float,
    cache: Path,
    folder: Path,
    adapters: Sequence[Path] = (),
) -> Said:
    """Ask the base model, and then each adapter where it has any strength.

    A prompt whose value lies clearly below the threshold has strength 0, which is the base
    model bit for bit (``tests/unit/bem/safety/test_overlay.py``): its reply is not made twice.

    Args:
        backbone: Without sites; for the value heads' features.
        trained: One adapter a seed.
        prompts: What is asked.
        tokens: Longest reply.
        strength: In [0, 1].
        cache: With the base model, and for features.
        folder: For the replies, out of git.
        adapters: Folders of the adapters that prompts may name.
    """
    ask = [asked(prompt) for prompt in prompts]
    base = Arm(cache, name="base", adapters=adapters)
    plain = base.replies(ask, tokens=tokens, strength=0.0, folder=folder)
    base.close()
    guarded, touched = [], []
    for one, risk in zip(trained, margins(backbone, trained, prompts, cache), strict=True):
        again = [p for p, r in zip(ask, risk, strict=True) if r > -NEAR]
        seed = one.artifact.card.seed
        arm = Arm(cache, name="basis", adapter=one.folder, adapters=adapters, seed=seed)
        made = arm.replies(again, tokens=tokens, strength=strength, folder=folder)
        arm.close()
        changed = dict(zip([p.key for p in again], made, strict=True))
        guarded.append([changed.get(p.key, said) for p, said in zip(ask, plain, strict=True)])
        touched.append((risk > 0).tolist())
    return Said(plain, guarded, touched)


@torch.no_grad()
def margins(
    backbone: Backbone,
    trained: Sequence[Trained],
    prompts: Sequence[RedTeamPrompt | BenignText],
    cache: Path,
) -> list[Tensor]:
    """Return how far each prompt's risk lies above each value head's threshold, ``[S]`` a seed."""
    layer = trained[0].artifact.card.feature_layer
    features = mean_states(backbone, [prompt.text for prompt in prompts], layer, cache / "safety")
    heads = [value_head_of(one.artifact) for one in trained]
    return [head.logit(features) - head.threshold for head in heads]
