"""Adaptation of development families: what a code alone reaches on a trained bank.

Each family gets its first feedback as a stream of corrections. Its probes, in wordings that no
stream has, are scored before and after. The scores are likelihoods: they choose settings and are no
result of the gate, which is scored by free generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bem.backbone import Backbone
from bem.online.artifact import BankArtifact
from bem.online.feedback import FeedbackExample
from bem.online.learner import LearnerSettings, OnlineLearner
from bem.training.activation_cache import tokenise
from bem.training.online.code_likelihood import DecoderLikelihood
from torch import Tensor

from bem_fleet.data.instruction_families import FamilyItem, InstructionFamily, family_items

UPDATE_EVENTS = 32
"""Corrections of one update."""
USERS = 8
"""Users that the corrections of a family come from."""


@dataclass(frozen=True)
class AdaptationSize:
    """Size of the measurement.

    Attributes:
        corrections: Corrections of each family.
        probes: Probes of each family.
        seed: Seed of items and learner.
    """

    corrections: int = 128
    probes: int = 50
    seed: int = 0


def adaptation_metrics(
    backbone: Backbone,
    artifact: BankArtifact,
    families: Sequence[InstructionFamily],
    size: AdaptationSize,
) -> dict[str, float]:
    """Teach families one after the other and return what their probes gained.

    Args:
        backbone: Base model.
        artifact: Bank with start code, whitening and calibration prompts.
        families: Families that the bank was not trained on, at least 1.
        size: Size of the measurement.

    Returns:
        Mean negative log-likelihood a token of the probes under the base model (``probe_base``),
        the start code (``probe_start``) and the adapted codes (``probe_adapted``), nats; shares of
        probes that meet their own condition (``probe_own``) and another one (``probe_other``) after
        all families were taught.
    """
    model = DecoderLikelihood(backbone, artifact.bank, feature_layer=artifact.card.feature_layer)
    learner = OnlineLearner(
        model, artifact.empty_codebook(), artifact.start, LearnerSettings(seed=size.seed)
    )
    probes = {}
    for family in families:
        items = family_items(family, "stream", size.corrections, size.seed)
        teach(learner, model, feedback(backbone, items))
        probes[family.name] = feedback(
            backbone, family_items(family, "probe", size.probes, size.seed)
        )
    rows = [_probe_row(model, learner, artifact, name, probes[name]) for name in probes]
    names = ("probe_base", "probe_start", "probe_adapted", "probe_own", "probe_other")
    return {name: sum(row[at] for row in rows) / len(rows) for at, name in enumerate(names)}


def choose_start(
    backbone: Backbone,
    artifact: BankArtifact,
    families: Sequence[InstructionFamily],
    size: AdaptationSize,
) -> Tensor:
    """Return the better first code ``[P]``: zeros, or the mean of the trained families.

    It is chosen by the likelihood of the development streams before any learning; probes have no
    part in it.

    Args:
        backbone: Base model.
        artifact: Bank with the table of codes.
        families: Development families, at least 1.
        size: Size of the measurement.
    """
    model = DecoderLikelihood(backbone, artifact.bank, feature_layer=artifact.card.feature_layer)
    streams = [
        feedback(backbone, family_items(family, "stream", size.probes, size.seed))
        for family in families
    ]
    starts = [artifact.bank.base_code(), artifact.table.mean(0)]
    return min(starts, key=lambda code: sum(mean_nll(model, code, one) for one in streams))


def teach(
    learner: OnlineLearner, model: DecoderLikelihood, examples: Sequence[FeedbackExample]
) -> None:
    """Open the condition of a family around its first batch, and learn all its examples."""
    first = examples[:UPDATE_EVENTS]
    learner.open_condition(first[0].condition, model.states([one.prompt for one in first]))
    for start in range(0, len(examples), UPDATE_EVENTS):
        learner.learn(examples[start : start + UPDATE_EVENTS])


def feedback(backbone: Backbone, items: Sequence[FamilyItem]) -> list[FeedbackExample]:
    """Return items as corrections of several users."""
    out = []
    for number, item in enumerate(items):
        prompt, reply = tokenise(backbone, item)
        event, user = f"{item.family}:{number}", f"user-{number % USERS}"
        out.append(FeedbackExample(event, item.family, user, tuple(prompt), tuple(reply)))
    return out


def mean_nll(model: DecoderLikelihood, code: Tensor, examples: Sequence[FeedbackExample]) -> float:
    """Return the mean negative log-likelihood a token of examples, each with the same weight."""
    losses = model.losses(code, examples, [None] * len(examples), gradients=False)
    return float((losses.nll / losses.tokens).mean())


def _probe_row(
    model: DecoderLikelihood,
    learner: OnlineLearner,
    artifact: BankArtifact,
    name: str,
    probes: Sequence[FeedbackExample],
) -> tuple[float, ...]:
    codes = (artifact.bank.base_code(), artifact.start, learner.codebook[name].code)
    matches = [
        learner.codebook.match(state) for state in model.states([one.prompt for one in probes])
    ]
    met = [one.name for one in matches if one is not None]
    own = torch.tensor([float(one == name) for one in met]).sum() / len(probes)
    return (
        *(mean_nll(model, code, probes) for code in codes),
        float(own),
        len(met) / len(probes) - float(own),
    )
