"""Adapter artifacts: card and tensors of one trained adapter on disk."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bem import card_schema
from bem.adapters.site import LINEAR_MODULES
from bem.adapters.site_variants import VARIANTS
from bem.artifacts import ArtifactCard, ArtifactFormat, FileStamp, artifact_version, strip_prefix
from bem.controller import Controller
from bem.errors import ArtifactFormatError

TENSORS_FILE = "adapter.safetensors"
CARD_FILE = "card.json"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONTROLLER_PREFIX = "controller."
_MAX_CONTROLLER_WIDTH = 65_536
_MAX_ACTIVE_RANKS = 4096
_MAX_TOKEN, _MAX_INVOCATION_TOKENS = 2**31 - 1, 1024
_SHOWN_NAMES = 4
Factors = tuple[Tensor, Tensor]
"""Low-rank factors of one site, ``A [r, d_in]`` and ``B [d_out, r]``."""


@dataclass(frozen=True, kw_only=True)
class AdapterCard(ArtifactCard):
    """Card of an adapter; the controller reads ``feature_layer``.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``; at most 64 characters.
        kinds: Linear layers that are adapted in each of its layers.
        exact: Whether the factors are served as they are where a safety basis is reserved, instead
            of projected outside it. The outputs are those of the training then, and the safety
            adapter no longer has its directions to itself.
        variant: Parameterisation that the factors were trained in; they are served as factors.
        active_ranks: Largest gates of a code that are kept, the others being 0; 0 keeps all.
        invocation_tokens: Tokens that activate the adapter: it runs from their last occurrence in
            the prompt on, and the base model before (activated LoRA, arXiv 2504.12397). Empty for
            an adapter that runs on the whole prompt.
    """

    name: str = field(metadata=card_schema.text(64, NAME_PATTERN))
    kinds: list[str] = field(metadata=card_schema.distinct_names(LINEAR_MODULES))
    exact: bool = field(default=False, metadata=card_schema.boolean())
    variant: str = field(
        default="plain",
        metadata=card_schema.optional(card_schema.text(16, re.compile("|".join(VARIANTS)))),
    )
    active_ranks: int = field(
        default=0, metadata=card_schema.optional(card_schema.integer(0, _MAX_ACTIVE_RANKS))
    )
    invocation_tokens: list[int] = field(
        default_factory=list,
        metadata=card_schema.optional(card_schema.integers(0, _MAX_TOKEN, _MAX_INVOCATION_TOKENS)),
    )


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
        ArtifactFormatError: The name is not allowed, or a field is out of its range.
    """
    if not NAME_PATTERN.fullmatch(card.name):
        raise ArtifactFormatError(
            f"adapter name: {card.name!r} is not allowed; it must match {NAME_PATTERN.pattern}"
        )
    return ADAPTER_FORMAT.write(folder, card, tensors)


def record_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write measured figures into the card of a saved adapter.

    NaN and infinity, such as the bounds of an interval that does not exist, become null: JSON has
    neither.
    """
    card = ADAPTER_FORMAT.read_card(folder)
    ADAPTER_FORMAT.write_card(folder, replace(card, metrics=_with_nulls(metrics)))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_adapter_card(folder: Path) -> AdapterCard:
    """Read the card of an adapter without its tensors.

    Raises:
        ArtifactFormatError: The card is missing, malformed, or out of its schema.
        ArtifactTamperedError: The card was edited.
    """
    return ADAPTER_FORMAT.read_card(folder)


def read_adapter(folder: Path, *, base_digest: str) -> Adapter:
    """Read an adapter and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The card or the tensors do not have the hash on the card.
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
    """Return the factors of the card's sites; no tensor is missing, unknown or of another shape."""
    label = f"{folder.name}/{TENSORS_FILE}"
    sites = [
        f"model.layers.{layer}.{LINEAR_MODULES[kind]}"
        for layer in card.layers
        for kind in card.kinds
    ]
    expected = {f"{site}.{factor}" for site in sites for factor in "AB"}
    expected |= {f"{CONTROLLER_PREFIX}{name}" for name in Controller(1, 1, 1).state_dict()}
    if set(tensors) != expected:
        missing, unknown = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
        raise ArtifactFormatError(
            f"{label}: tensors do not match the card; missing {_first(missing)}, unknown "
            f"{_first(unknown)}; train or import the adapter again"
        )
    _check_controller(label, card, strip_prefix(tensors, CONTROLLER_PREFIX))
    factors = {}
    for site in sites:
        a, b = tensors[f"{site}.A"], tensors[f"{site}.B"]
        if a.dim() != 2 or b.dim() != 2 or (a.shape[0], b.shape[1]) != (card.rank, card.rank):
            raise ArtifactFormatError(
                f"{label}: {site} has A {tuple(a.shape)} and B {tuple(b.shape)}; the card states "
                f"rank {card.rank}; train or import the adapter again"
            )
        factors[site] = (a, b)
    return factors


def _check_controller(label: str, card: AdapterCard, controller: dict[str, Tensor]) -> None:
    """Check that all tensors of the controller have the shapes that one network gives them."""
    inner = controller["inner.weight"]
    if inner.dim() != 2 or not all(1 <= size <= _MAX_CONTROLLER_WIDTH for size in inner.shape):
        raise ArtifactFormatError(
            f"{label}: controller.inner.weight has the shape {tuple(inner.shape)}; two dimensions "
            f"of at most {_MAX_CONTROLLER_WIDTH} are allowed"
        )
    hidden, width = inner.shape
    for name, like in Controller(width, card.rank, hidden).state_dict().items():
        if controller[name].shape != like.shape:
            raise ArtifactFormatError(
                f"{label}: controller.{name} has the shape {tuple(controller[name].shape)}; with "
                f"rank {card.rank} it is {tuple(like.shape)}; train or import the adapter again"
            )


def _first(names: list[str]) -> str:
    """Return the first names of a list, which may be long."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{names[:_SHOWN_NAMES]}{more}"
