"""The safety adapter as serving uses it: in a slot of the bank, scaled row by row."""

from pathlib import Path

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.errors import ArtifactFormatError
from bem.safety.artifact import SafetyArtifact, read_safety
from bem.safety.value import ValueHead


class SafetyOverlay:
    """Takes a slot of a bank that holds no adapter yet, and its basis out of every later adapter.

    An adapter that may write everywhere, whose basis is the whole space, reserves nothing.

    Args:
        bank: Its sites get the adapter; later adapters are projected out of the basis.
        artifact: What to load.

    Raises:
        ArtifactFormatError: It does not fit the bank or has no value head.
        SlotsFullError: The bank has no free slot.
    """

    def __init__(self, bank: AdapterBank, artifact: SafetyArtifact) -> None:
        card = artifact.card
        if card.feature_layer != bank.feature_layer:
            raise ArtifactFormatError(
                f"the safety adapter's value head reads layer {card.feature_layer}, "
                f"this bank's features are of layer {bank.feature_layer}"
            )
        self.value = value_head_of(artifact).to(bank.device)
        self.rank, self.version = card.rank, artifact.version
        bases = artifact.site_bases()
        if all(q.shape[1] < q.shape[0] for q in bases.values()):
            bank.reserve(bases)
        self.slot = bank.place("safety", artifact.site_factors(), scale=card.scale)

    @torch.no_grad()
    def strength(self, features: Tensor, strength: float) -> float:
        """Return what the adapter's code is multiplied with for a request.

        Args:
            features: ``[F]``, mean state of the feature layer over the prompt.
            strength: In [0, 1].

        Returns:
            ``strength * value`` in [0, 1]; exactly 0 at strength 0 and for requests below the threshold.
        """
        if strength == 0:
            return 0.0
        return strength * float(self.value(features.unsqueeze(0))[0])


def value_head_of(artifact: SafetyArtifact) -> ValueHead:
    """Return an adapter's value head, frozen.

    Raises:
        ArtifactFormatError: It has none.
    """
    weight = artifact.value.get("linear.weight")
    if weight is None:
        raise ArtifactFormatError("the safety adapter has no value head")
    head = ValueHead(weight.shape[1])
    head.load_state_dict(artifact.value)
    return head.requires_grad_(requires_grad=False)


def load_overlay(bank: AdapterBank, folder: Path, *, base_digest: str) -> SafetyOverlay:
    """Read the safety adapter in ``folder`` and put it into a bank without adapters.

    Raises:
        ArtifactFormatError: A file is missing, malformed or does not fit.
        ArtifactTamperedError: The tensors are not those of the card.
        BaseMismatchError: It belongs to another base model.
        SlotsFullError: The bank has no free slot.
    """
    return SafetyOverlay(bank, read_safety(folder, base_digest=base_digest))
