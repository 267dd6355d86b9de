"""Artifact of the surface front: factors bound to a card, for one base model."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from bem import card_schema
from bem.adapters.site import TARGET_MODULES
from bem.artifacts import ArtifactCard, ArtifactFormat
from bem.errors import ArtifactFormatError
from bem.sep.surface_front import FrontFactors

TENSORS_FILE = "front.safetensors"
# Requests never name the front, and its layers are below those of adapters: a scan of the adapters
# folder must not load it.
CARD_FILE = "front.json"


@dataclass(frozen=True, kw_only=True)
class FrontCard(ArtifactCard):
    """Card of a surface front; ``feature_layer`` is the layer whose states it was matched at.

    Attributes:
        objective: What it was trained to: ``self_teaching`` or ``augmentation``.
    """

    objective: str = field(metadata=card_schema.text(32))


FRONT_FORMAT = ArtifactFormat(FrontCard, CARD_FILE, TENSORS_FILE)


def save_front(folder: Path, card: FrontCard, factors: FrontFactors) -> FrontCard:
    """Write a front and return its card with its hashes.

    Raises:
        ArtifactFormatError: A field of the card is out of its range.
    """
    tensors: dict[str, Tensor] = {}
    for path, (a, b) in factors.items():
        tensors |= {f"{path}.A": a.detach().float(), f"{path}.B": b.detach().float()}
    return FRONT_FORMAT.write(folder, card, tensors)


def load_front(folder: Path, *, base_digest: str) -> tuple[FrontFactors, FrontCard]:
    """Read a front and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed, or a tensor that the card states.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The front was trained for another base model.
    """
    card = FRONT_FORMAT.read_card(folder)
    tensors = FRONT_FORMAT.read_tensors(folder, card, label="the front", base_digest=base_digest)
    factors = {
        path: (_factor(tensors, f"{path}.A", folder), _factor(tensors, f"{path}.B", folder))
        for path in _paths(card)
    }
    return factors, card


def _paths(card: FrontCard) -> list[str]:
    return [
        f"model.layers.{layer}.{TARGET_MODULES[kind]}"
        for layer in card.layers
        for kind in card.kinds
    ]


def _factor(tensors: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in tensors or tensors[name].dim() != 2:
        raise ArtifactFormatError(
            f"{folder.name}/{TENSORS_FILE}: it has no matrix {name}, which the card states; train "
            "the front again"
        )
    return tensors[name].float()
