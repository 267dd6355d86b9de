"""Skills on disk: safetensors and a JSON card that binds them to their base and their origin."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

TENSORS = "skill.safetensors"
CARD = "card.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONTROLLER_PREFIX = "controller."


@dataclass(frozen=True)
class SkillCard:
    """What a skill is and where it comes from.

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
        tensors_sha256: Hash of the tensor file; filled in by ``save_skill``.
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


@dataclass(frozen=True)
class Skill:
    """A skill that was read and checked.

    Attributes:
        card: Its card.
        factors: ``{site path: (A [r, d_in], B [d_out, r])}``.
        controller: State of its controller.
        version: SHA-256 over card and tensors, hexadecimal.
    """

    card: SkillCard
    factors: dict[str, tuple[Tensor, Tensor]]
    controller: dict[str, Tensor]
    version: str


def save_skill(folder: Path, card: SkillCard, tensors: dict[str, Tensor]) -> SkillCard:
    """Write a skill; returns its card with the tensors' hash.

    Args:
        folder: Made if missing; an older skill in it is replaced.
        card: What to state.
        tensors: ``<site>.A``, ``<site>.B`` and ``controller.*``.

    Raises:
        ArtifactFormatError: The name is not allowed.
    """
    if not NAME.fullmatch(card.name):
        raise ArtifactFormatError(f"skill name {card.name!r} does not match {NAME.pattern}")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{TENSORS}.{os.getpid()}"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch)
    stated = SkillCard(**{**asdict(card), "tensors_sha256": _sha256(scratch)})
    scratch.replace(folder / TENSORS)
    (folder / CARD).write_text(json.dumps(asdict(stated), indent=2, sort_keys=True) + "\n")
    return stated


def state_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Put what was measured into the card of a saved skill."""
    card = _read_card(folder)
    stated = {**asdict(card), "metrics": metrics}
    (folder / CARD).write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n")


def read_skill(folder: Path, *, base_digest: str) -> Skill:
    """Read a skill and check all that its card promises.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors are not those of the card.
        BaseMismatchError: It belongs to another base model.
    """
    card = _read_card(folder)
    if card.base_digest != base_digest:
        raise BaseMismatchError(
            f"skill {card.name!r} was trained for base {card.base_digest[:12]} ({card.base_name}); "
            f"loaded is {base_digest[:12]}"
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
    return Skill(
        card=card,
        factors=_factors(folder, card, tensors),
        controller={
            name.removeprefix(CONTROLLER_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(CONTROLLER_PREFIX)
        },
        version=_version(card),
    )


def _read_card(folder: Path) -> SkillCard:
    try:
        stated = json.loads((folder / CARD).read_text())
    except FileNotFoundError as err:
        raise ArtifactFormatError(f"{folder.name} has no {CARD}") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ArtifactFormatError(f"{folder.name}/{CARD} is not JSON: {err}") from err
    known = {entry.name for entry in fields(SkillCard)}
    if not isinstance(stated, dict) or set(stated) != known:
        given = set(stated) if isinstance(stated, dict) else set()
        raise ArtifactFormatError(
            f"{folder.name}/{CARD}: missing {sorted(known - given)}, "
            f"unknown {sorted(given - known)}"
        )
    return SkillCard(**stated)


def _factors(
    folder: Path, card: SkillCard, tensors: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
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


def _version(card: SkillCard) -> str:
    """Hash the whole card, which holds the tensors' hash."""
    return hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
