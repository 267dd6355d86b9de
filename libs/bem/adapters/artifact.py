"""Adapters on disk: what their card states, and what their tensors must be."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bem.adapters.folder import ArtifactFolder, Stamp, version_of
from bem.errors import ArtifactFormatError

TENSORS = "adapter.safetensors"
CARD = "card.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONTROLLER_PREFIX = "controller."
Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter is and where it comes from.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``, at most 64.
        base_name: Name of the base model.
        base_digest: SHA-256 of the base model's source.
        layers: Decoder layers with sites.
        kinds: Kinds of sites, ``o_proj`` and ``down_proj``.
        rank: Rank of the factors.
        scale: Factor s of the low-rank step.
        feature_layer: Decoder layer whose output the controller reads.
        command: What trained it.
        data_digest: SHA-256 of the training data.
        seed: Of the training.
        metrics: What was measured, by name.
        tensors_sha256: Hash of the tensor file; filled in by ``save_adapter``.
    """

    name: str
    base_name: str
    base_digest: str
    layers: list[int]
    kinds: list[str]
    rank: int
    scale: float
    feature_layer: int
    command: str
    data_digest: str
    seed: int
    metrics: dict[str, Any] = field(default_factory=dict)
    tensors_sha256: str = ""


FOLDER = ArtifactFolder(AdapterCard, CARD, TENSORS)


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read and checked.

    Attributes:
        card: Its card.
        factors: ``{site path: (A [r, d_in], B [d_out, r])}``.
        controller: State of its controller.
        version: SHA-256 over card and tensors, hexadecimal.
        stamp: State of its files before they were read.
    """

    card: AdapterCard
    factors: dict[str, Factors]
    controller: dict[str, Tensor]
    version: str
    stamp: Stamp


def save_adapter(folder: Path, card: AdapterCard, tensors: dict[str, Tensor]) -> AdapterCard:
    """Write an adapter; returns its card with the tensors' hash.

    Args:
        folder: Made if missing; an older adapter in it is replaced.
        card: What to state.
        tensors: ``<site>.A``, ``<site>.B`` and ``controller.*``.

    Raises:
        ArtifactFormatError: The name is not allowed.
    """
    if not NAME.fullmatch(card.name):
        raise ArtifactFormatError(f"adapter name {card.name!r} does not match {NAME.pattern}")
    return FOLDER.write(folder, card, tensors)


def state_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Put what was measured into the card of a saved adapter."""
    FOLDER.write_card(folder, replace(FOLDER.read_card(folder), metrics=metrics))


def read_adapter_card(folder: Path) -> AdapterCard:
    """Read an adapter's card alone.

    Raises:
        ArtifactFormatError: It is missing or malformed.
    """
    return FOLDER.read_card(folder)


def read_adapter(folder: Path, *, base_digest: str) -> Adapter:
    """Read an adapter and check all that its card promises.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors are not those of the card.
        BaseMismatchError: It belongs to another base model.
    """
    stamp = FOLDER.stamp(folder)
    card = FOLDER.read_card(folder)
    what = f"adapter {card.name!r}"
    tensors = FOLDER.read_tensors(folder, card, what=what, base_digest=base_digest)
    return Adapter(
        card=card,
        factors=_factors(folder, card, tensors),
        controller={
            name.removeprefix(CONTROLLER_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(CONTROLLER_PREFIX)
        },
        version=version_of(card),
        stamp=stamp,
    )


def read_factors(folder: Path, card: AdapterCard, stamp: Stamp) -> dict[str, Factors] | None:
    """Read the factors of an adapter that was checked before; None if its files changed since.

    Args:
        folder: The adapter's.
        card: As it was read.
        stamp: Of the adapter as it was read.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
    """
    if FOLDER.stamp(folder) != stamp:
        return None
    tensors = FOLDER.load_tensors(folder)
    # What changed while it was read was not checked.
    return _factors(folder, card, tensors) if FOLDER.stamp(folder) == stamp else None


def _factors(folder: Path, card: AdapterCard, tensors: dict[str, Tensor]) -> dict[str, Factors]:
    sites = {name.removesuffix(".A") for name in tensors if name.endswith(".A")}
    if len(sites) != len(card.layers) * len(card.kinds):
        raise ArtifactFormatError(
            f"{folder.name}: the card promises {len(card.layers) * len(card.kinds)} sites, "
            f"the tensors have {len(sites)}"
        )
    factors = {}
    for site in sorted(sites):
        a, b = tensors[f"{site}.A"], tensors.get(f"{site}.B")
        if b is None or a.shape[0] != card.rank or b.shape[1] != card.rank:
            raise ArtifactFormatError(f"{folder.name}: {site} does not have rank {card.rank}")
        factors[site] = (a, b)
    return factors
