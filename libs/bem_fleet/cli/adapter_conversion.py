"""Conversion of PEFT folders into adapters of the fleet, and back."""

import os
from dataclasses import dataclass
from pathlib import Path

from bem.adapters.artifact import AdapterCard, read_adapter, read_adapter_card
from bem.adapters.peft_folder import BankLimits, export_lora, import_lora
from bem.adapters.site import default_layers
from bem.backbone import Backbone, load_backbone
from bem.errors import ArtifactFormatError, BaseMismatchError
from bem.safety.artifact import CARD_FILE as SAFETY_CARD
from bem.safety.artifact import read_safety
from torch import Tensor

SETTINGS_PREFIX = "BEM_ROUTER_"
"""Prefix of the settings of the mission that will load the adapter."""
_DEFAULT_RANK = 16


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        like: Adapter whose feature layer is taken.
        backbone: Base model, as the setting ``BACKBONE`` names it.
        safety: Folder of the safety adapter, whose basis the mission reserves.
        cache: Folder of prepared models.
        exact: Whether the mission serves the factors unprojected.
        force: Whether a LoRA that names another base model is accepted.
    """

    like: Path
    backbone: str
    safety: Path
    cache: Path
    exact: bool = False
    force: bool = False


def import_folder(folder: Path, out: Path, name: str, options: ImportOptions) -> str:
    """Make an adapter from a PEFT folder and return a report of what was done.

    Args:
        folder: Folder written by PEFT.
        out: Folder of the new adapter.
        name: Name of the adapter in requests.
        options: Base model, safety basis and consents of the import.

    Raises:
        BemError: The LoRA cannot be served exactly; the text says why and what to do.
    """
    if out.resolve().name != name:
        raise ArtifactFormatError(
            f"out: the folder is {out.resolve().name!r} and the name {name!r}; they must be equal, "
            f"because requests name the folder; use --out {out.parent / name}"
        )
    backbone = load_backbone(options.backbone, cache=options.cache / "models")
    card = import_lora(
        folder,
        out,
        backbone=backbone,
        name=name,
        feature_layer=_feature_layer(backbone, options.like),
        limits=_limits(backbone),
        reserved=reserved_bases(backbone, options.safety),
        exact=options.exact,
        other_base=options.force,
    )
    size = card.metrics["peft"]["resident_bytes"] / 1e6
    kinds = ", ".join(card.kinds)
    lines = [
        f"adapter {card.name}: rank {card.rank}, {len(card.layers)} layers, {kinds}",
        f"{size:.1f} MB in float32 while it is resident, about half beside int8 and int4 kernels",
    ]
    if card.invocation_tokens:
        text = backbone.tokenizer.decode(card.invocation_tokens)
        lines.append(f"prompts must contain {text!r}, from which on it runs")
    return "\n".join([*lines, *_projection_lines(card)])


def export_folder(folder: Path, out: Path) -> str:
    """Make a PEFT folder from an adapter and return a report of what PEFT computes with it."""
    card = read_adapter_card(folder)
    exact = export_lora(read_adapter(folder, base_digest=card.base_digest), out)
    outputs = "the adapter's outputs" if exact else "its outputs at code one, without controller"
    return f"{out}: PEFT computes {outputs}"


def reserved_bases(backbone: Backbone, folder: Path) -> dict[str, Tensor]:
    """Return the basis that the mission reserves in each site, ``{site path: Q [d_out, k]}``.

    It is empty without a safety adapter of this base model, and for one that may write everywhere.
    """
    if not (folder / SAFETY_CARD).is_file():
        return {}
    try:
        bases = read_safety(folder, base_digest=backbone.digest).site_bases()
    except BaseMismatchError:
        return {}
    return bases if all(q.shape[1] < q.shape[0] for q in bases.values()) else {}


def _projection_lines(card: AdapterCard) -> list[str]:
    difference = card.metrics["peft"].get("projection_logit_difference")
    if difference is None:
        return ["the safety basis changes nothing: it is served as PEFT computes it"]
    if card.exact:
        return [
            (
                "served exactly (--exact): projecting it would change logits by up to "
                f"{difference:.3g} on 20 prompts; it also writes in the directions of the safety "
                "adapter"
            )
        ]
    return [
        (
            f"served projected outside the safety basis: logits change by up to {difference:.3g} "
            "on 20 prompts; import with --exact to serve it as PEFT computes it"
        )
    ]


def _feature_layer(backbone: Backbone, like: Path) -> int:
    stated = os.environ.get(f"{SETTINGS_PREFIX}FEATURE_LAYER")
    if stated:
        return int(stated)
    card = read_adapter_card(like) if (like / "card.json").is_file() else None
    if card and card.base_digest == backbone.digest:
        return card.feature_layer
    count = len(backbone.layers)
    return default_layers(count)[1]


def _limits(backbone: Backbone) -> BankLimits:
    first = os.environ.get(f"{SETTINGS_PREFIX}FIRST_LAYER")
    rank = os.environ.get(f"{SETTINGS_PREFIX}RANK")
    return BankLimits(
        rank=int(rank) if rank else _DEFAULT_RANK,
        first_layer=int(first) if first else default_layers(len(backbone.layers))[0],
        prefix=SETTINGS_PREFIX,
    )
