"""Safety adapter artifacts: reserved bases, factors inside them, and the value head."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bem.adapters.site import TARGET_MODULES
from bem.artifacts import ArtifactCard, ArtifactFormat, artifact_version, strip_prefix
from bem.errors import ArtifactFormatError

TENSORS_FILE = "safety.safetensors"
# The file name differs from an adapter's card because requests never name this adapter: a scan
# of the adapters folder must not load it.
CARD_FILE = "safety.json"
VALUE_PREFIX = "value."


@dataclass(frozen=True, kw_only=True)
class SafetyCard(ArtifactCard):
    """Card of a safety adapter; the value head reads ``feature_layer``.

    Attributes:
        basis: Dimensions of each layer's reserved basis.
        epsilon: Violation that training allowed in each category, in (0, 1).
    """

    basis: int
    epsilon: float


SAFETY_FORMAT = ArtifactFormat(SafetyCard, CARD_FILE, TENSORS_FILE)


@dataclass(frozen=True)
class SafetyArtifact:
    """A safety adapter whose files were read and verified.

    Attributes:
        card: Card of the safety adapter.
        bases: ``{layer: Q [d_out, k]}``.
        factors: ``{site path: (A [r, d_in], C [k, r])}``; the output factor is ``B = Q C``.
        value_head: State dict of the value head.
        version: SHA-256 over card and tensors, hexadecimal.
    """

    card: SafetyCard
    bases: dict[int, Tensor]
    factors: dict[str, tuple[Tensor, Tensor]]
    value_head: dict[str, Tensor]
    version: str

    def site_bases(self) -> dict[str, Tensor]:
        """Return the basis of each site, ``{site path: Q [d_out, k]}``."""
        return {
            f"model.layers.{layer}.{path}": self.bases[layer]
            for layer in self.card.layers
            for path in TARGET_MODULES.values()
        }

    def site_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return ``{site path: (A [r, d_in], B [d_out, r])}`` with ``B = Q C`` in float32."""
        bases = self.site_bases()
        return {
            path: (a.float(), bases[path].float() @ c.float())
            for path, (a, c) in self.factors.items()
        }


def save_safety(folder: Path, card: SafetyCard, tensors: dict[str, Tensor]) -> SafetyCard:
    """Write a safety adapter and return its card with the hash of the tensors.

    Args:
        folder: Created if missing; an older safety adapter in it is replaced.
        card: Card to write.
        tensors: ``<layer>.Q``, ``<site>.A``, ``<site>.C`` and ``value.*``.
    """
    return SAFETY_FORMAT.write(folder, card, tensors)


def read_safety(folder: Path, *, base_digest: str) -> SafetyArtifact:
    """Read a safety adapter and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The safety adapter belongs to another base model.
    """
    card = SAFETY_FORMAT.read_card(folder)
    tensors = SAFETY_FORMAT.read_tensors(
        folder, card, label="the safety adapter", base_digest=base_digest
    )
    return SafetyArtifact(
        card=card,
        bases={layer: _require(folder, tensors, f"{layer}.Q") for layer in card.layers},
        factors=_extract_factors(folder, card, tensors),
        value_head=strip_prefix(tensors, VALUE_PREFIX),
        version=artifact_version(card),
    )


def _extract_factors(
    folder: Path, card: SafetyCard, tensors: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    factors = {}
    for layer in card.layers:
        for kind in card.kinds:
            site = f"model.layers.{layer}.{TARGET_MODULES[kind]}"
            a = _require(folder, tensors, f"{site}.A")
            c = _require(folder, tensors, f"{site}.C")
            if a.shape[0] != card.rank or tuple(c.shape) != (card.basis, card.rank):
                raise ArtifactFormatError(
                    f"{folder.name}: {site} has A {tuple(a.shape)} and C {tuple(c.shape)}; the "
                    f"card states rank {card.rank} and basis {card.basis}"
                )
            factors[site] = (a, c)
    return factors


def _require(folder: Path, tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ArtifactFormatError(f"{folder.name}/{TENSORS_FILE} has no tensor {name}")
    return tensors[name]
