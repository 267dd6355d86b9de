"""The safety adapter on disk: basis, factors in it and value head, bound to base and origin."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bem.adapters.folder import ArtifactFolder, version_of
from bem.adapters.site import KINDS
from bem.errors import ArtifactFormatError

TENSORS = "safety.safetensors"
# Not an adapter's card: nobody asks for this adapter by name.
CARD = "safety.json"
VALUE_PREFIX = "value."


@dataclass(frozen=True)
class SafetyCard:
    """What a safety adapter is and where it comes from.

    Attributes:
        base_name: Name of the base model.
        base_digest: SHA-256 of the base model's source.
        layers: Decoder layers with a basis.
        kinds: Kinds of sites.
        rank: Rank of the factors.
        scale: Factor s of the low-rank step.
        basis: Dimensions of each layer's basis.
        epsilon: The violation that training allowed in each category.
        feature_layer: Decoder layer whose output the value head reads.
        command: What trained it.
        data_digest: SHA-256 of the training prompts.
        seed: Of the training.
        metrics: What was measured, by name.
        tensors_sha256: Hash of the tensor file; filled in by ``save_safety``.
    """

    base_name: str
    base_digest: str
    layers: list[int]
    kinds: list[str]
    rank: int
    scale: float
    basis: int
    epsilon: float
    feature_layer: int
    command: str
    data_digest: str
    seed: int
    metrics: dict[str, Any] = field(default_factory=dict)
    tensors_sha256: str = ""


FOLDER = ArtifactFolder(SafetyCard, CARD, TENSORS)


@dataclass(frozen=True)
class SafetyArtifact:
    """A safety adapter that was read and checked.

    Attributes:
        card: Its card.
        bases: Layer to ``Q [d_out, k]``.
        factors: ``{site path: (A [r, d_in], C [k, r])}``; the output factor is ``Q C``.
        value: State of the value head.
        version: SHA-256 over card and tensors, hexadecimal.
    """

    card: SafetyCard
    bases: dict[int, Tensor]
    factors: dict[str, tuple[Tensor, Tensor]]
    value: dict[str, Tensor]
    version: str

    def site_bases(self) -> dict[str, Tensor]:
        """Return each site's basis by module path."""
        return {
            f"model.layers.{layer}.{path}": self.bases[layer]
            for layer in self.card.layers
            for path in KINDS.values()
        }

    def site_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return ``{site path: (A [r, d_in], B [d_out, r])}`` with ``B = Q C`` in float32."""
        bases = self.site_bases()
        return {
            path: (a.float(), bases[path].float() @ c.float())
            for path, (a, c) in self.factors.items()
        }


def save_safety(folder: Path, card: SafetyCard, tensors: dict[str, Tensor]) -> SafetyCard:
    """Write a safety adapter; returns its card with the tensors' hash.

    Args:
        folder: Made if missing; an older adapter in it is replaced.
        card: What to state.
        tensors: ``<layer>.Q``, ``<site>.A``, ``<site>.C`` and ``value.*``.
    """
    return FOLDER.write(folder, card, tensors)


def read_safety(folder: Path, *, base_digest: str) -> SafetyArtifact:
    """Read a safety adapter and check all that its card promises.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors are not those of the card.
        BaseMismatchError: It belongs to another base model.
    """
    card = FOLDER.read_card(folder)
    what = "the safety adapter"
    tensors = FOLDER.read_tensors(folder, card, what=what, base_digest=base_digest)
    return SafetyArtifact(
        card=card,
        bases={layer: _tensor(folder, tensors, f"{layer}.Q") for layer in card.layers},
        factors=_factors(folder, card, tensors),
        value={
            name.removeprefix(VALUE_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(VALUE_PREFIX)
        },
        version=version_of(card),
    )


def _factors(
    folder: Path, card: SafetyCard, tensors: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    factors = {}
    for layer in card.layers:
        for kind in card.kinds:
            site = f"model.layers.{layer}.{KINDS[kind]}"
            a = _tensor(folder, tensors, f"{site}.A")
            c = _tensor(folder, tensors, f"{site}.C")
            if a.shape[0] != card.rank or tuple(c.shape) != (card.basis, card.rank):
                raise ArtifactFormatError(
                    f"{folder.name}: {site} has A {tuple(a.shape)} and C {tuple(c.shape)}; the "
                    f"card says rank {card.rank} and basis {card.basis}"
                )
            factors[site] = (a, c)
    return factors


def _tensor(folder: Path, tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ArtifactFormatError(f"{folder.name}/{TENSORS} lacks {name}")
    return tensors[name]
