"""Embedding head: maps pooled states to embeddings of length 1, and its artifact.

States of a language model share a large common part. The head subtracts their mean and maps them to
directions in which texts differ, in the order of their variance, so that leading dimensions are an
embedding of their own.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from bem import card_schema
from bem.artifacts import ArtifactFormat, SealedCard, fill_module

TENSORS_FILE = "embedding.safetensors"
CARD_FILE = "embedding.json"
_MAX_WIDTH = 65_536


class EmbeddingHead(nn.Module):
    """Linear map of centred pooled states.

    Args:
        width: Width F of a pooled state.
        dimensions: Dimensions D of an embedding.
    """

    mean: Tensor

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.weight = nn.Parameter(torch.eye(dimensions, width))

    @property
    def dimensions(self) -> int:
        """Dimensions of an embedding."""
        return self.weight.shape[0]

    def forward(self, pooled: Tensor, dimensions: int | None = None) -> Tensor:
        """Return the embeddings ``[N, D]`` of pooled states ``[N, F]``, each of length 1.

        Args:
            pooled: Means of the states of texts.
            dimensions: Leading dimensions that are kept; None for all.
        """
        embeddings = (pooled - self.mean) @ self.weight.T
        return f.normalize(embeddings[:, :dimensions], dim=-1)


@dataclass(frozen=True, kw_only=True)
class EmbeddingCard(SealedCard):
    """Card of an embedding head; ``feature_layer`` is the number of layers behind which it reads.

    Attributes:
        width: Width of a pooled state.
        dimensions: Dimensions of an embedding.
        front: Version of the front with which the states were pooled; empty without one.
    """

    width: int = field(metadata=card_schema.integer(1, _MAX_WIDTH))
    dimensions: int = field(metadata=card_schema.integer(1, _MAX_WIDTH))
    front: str = field(metadata=card_schema.text(64))


EMBEDDING_FORMAT = ArtifactFormat(EmbeddingCard, CARD_FILE, TENSORS_FILE)


def save_head(folder: Path, card: EmbeddingCard, head: EmbeddingHead) -> EmbeddingCard:
    """Write a head and return its card with its hashes.

    Raises:
        ArtifactFormatError: A field of the card is out of its range.
    """
    tensors = {name: tensor.detach().float() for name, tensor in head.state_dict().items()}
    return EMBEDDING_FORMAT.write(folder, card, tensors)


def load_head(folder: Path, *, base_digest: str) -> tuple[EmbeddingHead, EmbeddingCard]:
    """Read a head and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The head was trained for another base model.
    """
    card = EMBEDDING_FORMAT.read_card(folder)
    tensors = EMBEDDING_FORMAT.read_tensors(
        folder, card, label="the embedding head", base_digest=base_digest
    )
    head = EmbeddingHead(card.width, card.dimensions)
    fill_module(
        head,
        tensors,
        f"{folder.name}/{TENSORS_FILE}: its tensors are not those of a head from {card.width} to "
        f"{card.dimensions} dimensions; train it again",
    )
    return head, card
