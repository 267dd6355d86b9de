"""The safety adapter on disk: basis, factors in it and value head, bound to base and origin."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bem.adapters.site import KINDS
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

TENSORS = "safety.safetensors"
# Not a skill's card: nobody asks for this adapter by name.
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
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{TENSORS}.{os.getpid()}"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch)
    stated = SafetyCard(**{**asdict(card), "tensors_sha256": _sha256(scratch)})
    scratch.replace(folder / TENSORS)
    (folder / CARD).write_text(json.dumps(asdict(stated), indent=2, sort_keys=True) + "\n")
    return stated


def read_safety(folder: Path, *, base_digest: str) -> SafetyArtifact:
    """Read a safety adapter and check all that its card promises.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors are not those of the card.
        BaseMismatchError: It belongs to another base model.
    """
    card = _read_card(folder)
    if card.base_digest != base_digest:
        raise BaseMismatchError(
            f"the safety adapter was trained for base {card.base_digest[:12]} "
            f"({card.base_name}); loaded is {base_digest[:12]}"
        )
    path = folder / TENSORS
    if not path.is_file():
        raise ArtifactFormatError(f"{folder.name} has no {TENSORS}")
    if (actual := _sha256(path)) != card.tensors_sha256:
        raise ArtifactTamperedError(
            f"{folder.name}/{TENSORS} has hash {actual[:12]}, its card says "
            f"{card.tensors_sha256[:12]}"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as err:
        raise ArtifactFormatError(f"{folder.name}/{TENSORS} is not a safetensors file") from err
    stated = json.dumps(asdict(card), sort_keys=True).encode()
    return SafetyArtifact(
        card=card,
        bases={layer: _tensor(folder, tensors, f"{layer}.Q") for layer in card.layers},
        factors=_factors(folder, card, tensors),
        value={
            name.removeprefix(VALUE_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(VALUE_PREFIX)
        },
        version=hashlib.sha256(stated).hexdigest(),
    )


def _read_card(folder: Path) -> SafetyCard:
    try:
        stated = json.loads((folder / CARD).read_text())
    except FileNotFoundError as err:
        raise ArtifactFormatError(f"{folder.name} has no {CARD}") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ArtifactFormatError(f"{folder.name}/{CARD} is not JSON: {err}") from err
    known = {entry.name for entry in fields(SafetyCard)}
    if not isinstance(stated, dict) or set(stated) != known:
        given = set(stated) if isinstance(stated, dict) else set()
        raise ArtifactFormatError(
            f"{folder.name}/{CARD}: missing {sorted(known - given)}, "
            f"unknown {sorted(given - known)}"
        )
    return SafetyCard(**stated)


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
