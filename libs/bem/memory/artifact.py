"""Artifact of the memory modules: tensors bound to a card, for one base model."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from bem import card_schema
from bem.artifacts import ArtifactCard, ArtifactFormat, fill_module
from bem.memory.modules import MemoryModules

TENSORS_FILE = "memory.safetensors"
# Requests never name these modules: a scan of the adapters folder must not load them.
CARD_FILE = "memory.json"
STATES = ("embeddings",)
"""What pooled states may be made of."""


@dataclass(frozen=True, kw_only=True)
class MemoryCard(ArtifactCard):
    """Card of memory modules; they adapt no layer, so the fields of adapters say nothing.

    Attributes:
        states: What pooled states are made of, ``embeddings``.
        width: Width of a pooled state.
    """

    states: list[str] = field(metadata=card_schema.distinct_names(STATES))
    width: int = field(metadata=card_schema.integer(1, 65_536))


MEMORY_FORMAT = ArtifactFormat(MemoryCard, CARD_FILE, TENSORS_FILE)


def save_modules(folder: Path, card: MemoryCard, modules: MemoryModules) -> MemoryCard:
    """Write memory modules and return their card with its hashes.

    Raises:
        ArtifactFormatError: A field of the card is out of its range.
    """
    tensors = {name: tensor.detach().float() for name, tensor in modules.state_dict().items()}
    return MEMORY_FORMAT.write(folder, card, tensors)


def load_modules(folder: Path, *, base_digest: str) -> tuple[MemoryModules, MemoryCard]:
    """Read memory modules and verify all that their card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The modules were trained for another base model.
    """
    card = MEMORY_FORMAT.read_card(folder)
    tensors = MEMORY_FORMAT.read_tensors(
        folder, card, label="the memory modules", base_digest=base_digest
    )
    modules = MemoryModules(card.width)
    fill_module(
        modules,
        tensors,
        f"{folder.name}/{TENSORS_FILE}: its tensors are not those of memory modules of width "
        f"{card.width}; train them again",
    )
    return modules, card


def spread_of(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation ``[F]`` of pooled states ``[N, F]``, for ``MemoryModules``."""
    return states.mean(0), states.std(0).clamp(min=1e-4)
