"""Adapter artifacts: card and tensors of one trained adapter on disk."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bem.artifacts import ArtifactCard, ArtifactFormat, FileStamp, artifact_version, strip_prefix
from bem.errors import ArtifactFormatError

TENSORS_FILE = "adapter.safetensors"
CARD_FILE = "card.json"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONTROLLER_PREFIX = "controller."
Factors = tuple[Tensor, Tensor]
"""Low-rank factors of one site, ``A [r, d_in]`` and ``B [d_out, r]``."""


@dataclass(frozen=True, kw_only=True)
class AdapterCard(ArtifactCard):
    """Card of an adapter; the controller reads ``feature_layer``.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``; at most 64 characters.
    """

    name: str


ADAPTER_FORMAT = ArtifactFormat(AdapterCard, CARD_FILE, TENSORS_FILE)


@dataclass(frozen=True)
class Adapter:
    """An adapter whose files were read and verified.

    Attributes:
        card: Card of the adapter.
        factors: ``{site path: (A [r, d_in], B [d_out, r])}``.
        controller: State dict of the controller.
        version: SHA-256 over card and tensors, hexadecimal.
        stamp: Stamp of the files, taken before they were read.
    """

    card: AdapterCard
    factors: dict[str, Factors]
    controller: dict[str, Tensor]
    version: str
    stamp: FileStamp


def save_adapter(folder: Path, card: AdapterCard, tensors: dict[str, Tensor]) -> AdapterCard:
    """Write an adapter and return its card with the hash of the tensors.

    Args:
        folder: Created if missing; an older adapter in it is replaced.
        card: Card to write.
        tensors: ``<site>.A``, ``<site>.B`` and ``controller.*``.

    Raises:
        ArtifactFormatError: The name is not allowed.
    """
    if not NAME_PATTERN.fullmatch(card.name):
        raise ArtifactFormatError(
            f"adapter name: {card.name!r} is not allowed; it must match {NAME_PATTERN.pattern}"
        )
    return ADAPTER_FORMAT.write(folder, card, tensors)


def record_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write measured figures into the card of a saved adapter."""
    card = ADAPTER_FORMAT.read_card(folder)
    ADAPTER_FORMAT.write_card(folder, replace(card, metrics=metrics))


def read_adapter_card(folder: Path) -> AdapterCard:
    """Read the card of an adapter without its tensors.

    Raises:
        ArtifactFormatError: The card is missing or malformed.
    """
    return ADAPTER_FORMAT.read_card(folder)


def read_adapter(folder: Path, *, base_digest: str) -> Adapter:
    """Read an adapter and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The adapter belongs to another base model.
    """
    stamp = ADAPTER_FORMAT.stamp(folder)
    card = ADAPTER_FORMAT.read_card(folder)
    label = f"adapter {card.name!r}"
    tensors = ADAPTER_FORMAT.read_tensors(folder, card, label=label, base_digest=base_digest)
    return Adapter(
        card=card,
        factors=_extract_factors(folder, card, tensors),
        controller=strip_prefix(tensors, CONTROLLER_PREFIX),
        version=artifact_version(card),
        stamp=stamp,
    )


def read_factors(folder: Path, card: AdapterCard, stamp: FileStamp) -> dict[str, Factors] | None:
    """Read the factors of a verified adapter again; None if its files changed since.

    Args:
        folder: Folder of the artifact.
        card: Card from the verified read.
        stamp: Stamp from the verified read.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
    """
    if ADAPTER_FORMAT.stamp(folder) != stamp:
        return None
    tensors = ADAPTER_FORMAT.load_tensors(folder)
    # The second comparison rejects a write that happened during the read.
    if ADAPTER_FORMAT.stamp(folder) != stamp:
        return None
    return _extract_factors(folder, card, tensors)


def _extract_factors(
    folder: Path, card: AdapterCard, tensors: dict[str, Tensor]
) -> dict[str, Factors]:
    sites = {name.removesuffix(".A") for name in tensors if name.endswith(".A")}
    expected = len(card.layers) * len(card.kinds)
    if len(sites) != expected:
        raise ArtifactFormatError(
            f"{folder.name}: the card states {expected} sites, the tensors have {len(sites)}"
        )
    factors = {}
    for site in sorted(sites):
        a, b = tensors[f"{site}.A"], tensors.get(f"{site}.B")
        if b is None or a.shape[0] != card.rank or b.shape[1] != card.rank:
            raise ArtifactFormatError(f"{folder.name}: {site} does not have rank {card.rank}")
        factors[site] = (a, b)
    return factors
