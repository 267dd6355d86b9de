"""Artifact of the learned cache policy: a scorer bound to a card, for one base model."""

from dataclasses import dataclass, field
from pathlib import Path

from bem import card_schema
from bem.artifacts import ArtifactFormat, SealedCard, fill_module
from bem.cache_policy.learned import CacheScorer

TENSORS_FILE = "cache_policy.safetensors"
# Requests never name a cache policy: a scan of the adapters folder must not load it.
CARD_FILE = "cache_policy.json"


@dataclass(frozen=True, kw_only=True)
class CachePolicyCard(SealedCard):
    """Card of a learned cache policy.

    Attributes:
        layers: Layers of the base model.
        kv_heads: KV heads of a layer.
        window: Last queries that the features read.
    """

    layers: int = field(metadata=card_schema.integer(1, 4096))
    kv_heads: int = field(metadata=card_schema.integer(1, 4096))
    window: int = field(metadata=card_schema.integer(1, 4096))


CACHE_POLICY_FORMAT = ArtifactFormat(CachePolicyCard, CARD_FILE, TENSORS_FILE)


def save_scorer(folder: Path, card: CachePolicyCard, scorer: CacheScorer) -> CachePolicyCard:
    """Write a scorer and return its card with its hashes.

    Raises:
        ArtifactFormatError: A field of the card is out of its range.
    """
    tensors = {name: tensor.detach().float() for name, tensor in scorer.state_dict().items()}
    return CACHE_POLICY_FORMAT.write(folder, card, tensors)


def load_scorer(folder: Path, *, base_digest: str) -> tuple[CacheScorer, CachePolicyCard]:
    """Read a scorer and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The scorer was trained for another base model.
    """
    card = CACHE_POLICY_FORMAT.read_card(folder)
    tensors = CACHE_POLICY_FORMAT.read_tensors(
        folder, card, label="the cache policy", base_digest=base_digest
    )
    scorer = CacheScorer(card.layers, card.kv_heads, card.window)
    fill_module(
        scorer,
        tensors,
        f"{folder.name}/{TENSORS_FILE}: its tensors are not those of a scorer of {card.layers} "
        f"layers and {card.kv_heads} KV heads; train it again",
    )
    return scorer, card
