"""Safety overlay: the safety adapter in a pinned slot of the bank, scaled for each request."""

from pathlib import Path

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.errors import ArtifactFormatError
from bem.safety.artifact import SafetyArtifact, read_safety
from bem.safety.value_head import ValueHead


class SafetyOverlay:
    """Safety adapter and value head, installed in a bank that has no adapters yet.

    The bank projects every adapter that is loaded later outside the safety basis. A safety
    adapter whose basis is the whole output space reserves nothing.

    Args:
        bank: Bank whose sites get the safety adapter.
        artifact: Safety adapter to install.

    Raises:
        ArtifactFormatError: The artifact does not fit the bank or has no value head.
        SlotsFullError: The bank has no free slot.
    """

    def __init__(self, bank: AdapterBank, artifact: SafetyArtifact) -> None:
        card = artifact.card
        if card.feature_layer != bank.feature_layer:
            raise ArtifactFormatError(
                f"the safety adapter's value head reads layer {card.feature_layer}; the bank's "
                f"feature layer is {bank.feature_layer}"
            )
        self.value_head = load_value_head(artifact).to(bank.device)
        self.rank, self.version = card.rank, artifact.version
        bases = artifact.site_bases()
        if all(q.shape[1] < q.shape[0] for q in bases.values()):
            bank.reserve_subspace(bases)
        self.slot = bank.pin("safety", artifact.site_factors(), scale=card.scale)

    @torch.no_grad()
    def request_strength(self, features: Tensor, strength: float) -> float:
        """Return the factor of the safety adapter's code for one request.

        Args:
            features: ``[F]``, mean state of the feature layer over the prompt.
            strength: Safety strength of the request, in [0, 1].

        Returns:
            ``strength * value`` in [0, 1]; exactly 0 at strength 0 and for prompts below the value
            head's threshold.
        """
        if strength == 0:
            return 0.0
        return strength * float(self.value_head(features.unsqueeze(0))[0])


def load_value_head(artifact: SafetyArtifact) -> ValueHead:
    """Return the value head of a safety adapter, without gradients.

    Raises:
        ArtifactFormatError: The artifact has no value head.
    """
    weight = artifact.value_head.get("linear.weight")
    if weight is None:
        raise ArtifactFormatError("the safety adapter has no value head; train it again")
    head = ValueHead(weight.shape[1])
    head.load_state_dict(artifact.value_head)
    return head.requires_grad_(requires_grad=False)


def load_overlay(bank: AdapterBank, folder: Path, *, base_digest: str) -> SafetyOverlay:
    """Read the safety adapter in ``folder`` and install it in a bank without adapters.

    Args:
        bank: Bank whose sites get the safety adapter.
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed, or does not fit the bank.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The safety adapter belongs to another base model.
        SlotsFullError: The bank has no free slot.
    """
    return SafetyOverlay(bank, read_safety(folder, base_digest=base_digest))
