"""Artifacts of the online learner: the bank, trained once, and the numbered codebooks over it.

A codebook's card names the bank's version and the codebook that it was learned from, so that a
version can be restored bit for bit, and its lineage read, from the folders alone.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bem import card_schema
from bem.adapters.artifact import Factors
from bem.adapters.site import TARGET_MODULES
from bem.artifacts import ArtifactCard, ArtifactFormat, SealedCard
from bem.card_schema import SHA256
from bem.errors import ArtifactFormatError, BaseMismatchError, InvalidSettingError
from bem.online.code_bank import CodeBank
from bem.online.codebook import (
    MAX_CONDITIONS,
    Codebook,
    CodebookSettings,
    Condition,
    Whitening,
)

BANK_TENSORS, BANK_CARD = "bank.safetensors", "bank.json"
CODEBOOK_TENSORS, CODEBOOK_CARD = "codebook.safetensors", "codebook.json"
TABLE, START = "codes.table", "codes.start"
MEAN, AXES, UNRELATED = "keys.mean", "keys.axes", "keys.unrelated"
KEYS, SCALES, CODES = "conditions.keys", "conditions.scales", "conditions.codes"
_MAX_NAME, _MAX_COUNT = 256, 2**53


def _names() -> card_schema.Metadata:
    def check(value: Any) -> str:
        named = isinstance(value, list) and all(
            isinstance(one, str) and 1 <= len(one) <= _MAX_NAME for one in value
        )
        if not named or not value or len(set(value)) < len(value):
            return f"is no list of distinct names of 1 to {_MAX_NAME} characters"
        return ""

    return {"check": check}


def _conditions() -> card_schema.Metadata:
    def check(value: Any) -> str:
        if not isinstance(value, list) or len(value) > MAX_CONDITIONS:
            return f"is no list of at most {MAX_CONDITIONS} conditions"
        for one in value:
            if not isinstance(one, dict) or set(one) != {"name", "events", "users"}:
                return "has a condition without exactly name, events and users"
            if not isinstance(one["name"], str) or not 1 <= len(one["name"]) <= _MAX_NAME:
                return f"has a name that is not of 1 to {_MAX_NAME} characters"
            for count in (one["events"], one["users"]):
                if not isinstance(count, int) or not 0 <= count <= _MAX_COUNT:
                    return f"has a count that is no integer from 0 to {_MAX_COUNT}"
        return ""

    return {"check": check}


@dataclass(frozen=True, kw_only=True)
class BankCard(ArtifactCard):
    """Card of a bank.

    Attributes:
        families: Families of instructions of its training, in the order of the table of codes.
        components: Width of a key.
    """

    families: list[str] = field(metadata=_names())
    components: int = field(metadata=card_schema.integer(1, 4096))


@dataclass(frozen=True, kw_only=True)
class CodebookCard(SealedCard):
    """Card of one version of a codebook.

    Attributes:
        version: Number of the version, 1 for the first one.
        parent: Hash of the card of the version that it was learned from; empty for the first one.
        bank: Hash of the card of the bank.
        conditions: Name, number of events and number of users of each condition.
        error: Largest share of unrelated prompts that may meet any condition.
        miss: Share of a condition's own prompts that may lie beyond its scale.
        reach: Largest radius in scales.
    """

    version: int = field(metadata=card_schema.integer(1, 2**31 - 1))
    parent: str = field(default="", metadata=card_schema.text(64))
    bank: str = field(metadata=card_schema.text(64, SHA256))
    conditions: list[dict[str, Any]] = field(default_factory=list, metadata=_conditions())
    error: float = field(default=0.01, metadata=card_schema.number(0, 1))
    miss: float = field(default=0.05, metadata=card_schema.number(0, 1))
    reach: float = field(default=1.5, metadata=card_schema.number(0, 1e3))


BANK_FORMAT = ArtifactFormat(BankCard, BANK_CARD, BANK_TENSORS)
CODEBOOK_FORMAT = ArtifactFormat(CodebookCard, CODEBOOK_CARD, CODEBOOK_TENSORS)


@dataclass(frozen=True, eq=False)
class BankArtifact:
    """A bank whose files were read and verified, or that was trained here.

    Attributes:
        card: Card of the bank.
        bank: Shared factors.
        table: ``[F, P]`` codes of the training's families.
        start: ``[P]`` code with which a new condition begins.
        whitening: Map from pooled states to keys.
        unrelated: ``[N, K]`` keys of unrelated calibration prompts.
    """

    card: BankCard
    bank: CodeBank
    table: Tensor
    start: Tensor
    whitening: Whitening
    unrelated: Tensor

    def empty_codebook(self, settings: CodebookSettings | None = None) -> Codebook:
        """Return a codebook without conditions, with which the model is the base model."""
        return Codebook(self.whitening, self.unrelated, (), settings)


def save_bank(folder: Path, artifact: BankArtifact) -> BankCard:
    """Write a bank and return its card with its hashes.

    Args:
        folder: Created if missing; an older bank in it is replaced.
        artifact: Bank to write; its factors are stored in half precision, so ``read_bank`` gives
            the same ones only if they were rounded before.

    Raises:
        ArtifactFormatError: A field of the card is out of its range.
    """
    tensors = {
        TABLE: artifact.table.float(),
        # The start may be a row of the table, whose memory it must not share in the file.
        START: artifact.start.float().clone(),
        MEAN: artifact.whitening.mean.float(),
        AXES: artifact.whitening.axes.float(),
        UNRELATED: artifact.unrelated.float(),
    }
    for path, (a, b) in artifact.bank.factors.items():
        tensors[f"{path}.A"], tensors[f"{path}.B"] = a.half(), b.half()
    return BANK_FORMAT.write(folder, artifact.card, tensors)


def read_bank(folder: Path, *, base_digest: str) -> BankArtifact:
    """Read a bank and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed, or a tensor does not fit the card.
        ArtifactTamperedError: Card or tensors do not have the hash that the card states.
        BaseMismatchError: The bank was trained for another base model.
    """
    card = BANK_FORMAT.read_card(folder)
    tensors = BANK_FORMAT.read_tensors(folder, card, label="the bank", base_digest=base_digest)
    label = f"{folder.name}/{BANK_TENSORS}"
    factors = _bank_factors(label, card, tensors)
    width = len(factors) * card.rank
    for name, shape in (
        (TABLE, (len(card.families), width)),
        (START, (width,)),
        (MEAN, (None,)),
        (AXES, (tensors[MEAN].numel(), card.components)),
        (UNRELATED, (None, card.components)),
    ):
        _check_shape(label, name, tensors[name], shape)
    return BankArtifact(
        card=card,
        bank=CodeBank(factors, scale=card.scale),
        table=tensors[TABLE].float(),
        start=tensors[START].float(),
        whitening=Whitening(tensors[MEAN].float(), tensors[AXES].float()),
        unrelated=tensors[UNRELATED].float(),
    )


def save_codebook(folder: Path, card: CodebookCard, codebook: Codebook) -> CodebookCard:
    """Write one version of a codebook and return its card with its hashes.

    Args:
        folder: Created if missing; versions are immutable, so each has a folder of its own.
        card: Card; conditions and settings are filled in from the codebook.
        codebook: Codebook to write.

    Raises:
        ArtifactFormatError: The folder holds a version already, or a field is out of its range.
    """
    if (folder / CODEBOOK_CARD).exists():
        raise ArtifactFormatError(
            f"{folder.name}: holds a codebook already; versions are immutable; use another folder"
        )
    members, settings = codebook.conditions, codebook.settings
    keys, codes = (
        torch.stack([getattr(one, name).float() for one in members])
        if members
        else torch.zeros(0, 0)
        for name in ("key", "code")
    )
    scales = torch.tensor([one.scale for one in members], dtype=torch.float32)
    rows = [{"name": one.name, "events": one.events, "users": one.users} for one in members]
    filled = replace(
        card,
        conditions=rows,
        error=settings.error,
        miss=settings.miss,
        reach=settings.reach,
    )
    return CODEBOOK_FORMAT.write(folder, filled, {KEYS: keys, SCALES: scales, CODES: codes})


def read_codebook(folder: Path, artifact: BankArtifact) -> tuple[Codebook, CodebookCard]:
    """Read one version of a codebook and verify all that its card states.

    Args:
        folder: Folder of the version.
        artifact: Bank that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed, or a tensor does not fit the card.
        ArtifactTamperedError: Card or tensors do not have the hash that the card states.
        BaseMismatchError: The codebook was learned with another bank or base model.
    """
    card = CODEBOOK_FORMAT.read_card(folder)
    if card.bank != artifact.card.sha256:
        raise BaseMismatchError(
            f"the codebook was learned with bank {card.bank[:12]}; {artifact.card.sha256[:12]} is "
            "loaded; load the bank that it belongs to"
        )
    base = artifact.card.base_digest
    tensors = CODEBOOK_FORMAT.read_tensors(folder, card, label="the codebook", base_digest=base)
    label, count = f"{folder.name}/{CODEBOOK_TENSORS}", len(card.conditions)
    _check_names(label, tensors, {KEYS, SCALES, CODES})
    components, width = artifact.card.components, artifact.bank.width
    _check_shape(label, KEYS, tensors[KEYS], (count, components if count else 0))
    _check_shape(label, SCALES, tensors[SCALES], (count,))
    _check_shape(label, CODES, tensors[CODES], (count, width if count else 0))
    if count and not float(tensors[SCALES].min()) > 0:
        raise ArtifactFormatError(f"{label}: {SCALES} has a number that is not above 0")
    conditions = [
        Condition(
            row["name"],
            tensors[KEYS][at].float(),
            float(tensors[SCALES][at]),
            tensors[CODES][at].float(),
            row["events"],
            row["users"],
        )
        for at, row in enumerate(card.conditions)
    ]
    try:
        settings = CodebookSettings(card.error, card.miss, card.reach)
        return Codebook(artifact.whitening, artifact.unrelated, conditions, settings), card
    except InvalidSettingError as err:
        raise ArtifactFormatError(f"{folder.name}/{CODEBOOK_CARD}: {err}") from err


_BANK_TENSORS = {TABLE, START, MEAN, AXES, UNRELATED}


def _bank_factors(label: str, card: BankCard, tensors: dict[str, Tensor]) -> dict[str, Factors]:
    """Return the factors of the card's sites; no tensor of the file is missing or unknown."""
    sites = [
        f"model.layers.{layer}.{TARGET_MODULES[kind]}"
        for layer in card.layers
        for kind in card.kinds
    ]
    _check_names(
        label, tensors, {f"{site}.{factor}" for site in sites for factor in "AB"} | _BANK_TENSORS
    )
    factors: dict[str, Factors] = {}
    for site in sites:
        a, b = tensors[f"{site}.A"], tensors[f"{site}.B"]
        _check_shape(label, f"{site}.A", a, (card.rank, None))
        _check_shape(label, f"{site}.B", b, (None, card.rank))
        factors[site] = (a, b)
    return factors


def _check_names(label: str, tensors: dict[str, Tensor], expected: set[str]) -> None:
    if set(tensors) != expected:
        raise ArtifactFormatError(
            f"{label}: tensors do not match the card; missing {sorted(expected - set(tensors))[:4]}"
            f", unknown {sorted(set(tensors) - expected)[:4]}; restore the file"
        )


def _check_shape(label: str, name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Check a tensor's shape; None stands for any size of at least 1."""
    fits = tensor.dim() == len(shape) and all(
        actual == wanted if wanted is not None else actual > 0
        for actual, wanted in zip(tensor.shape, shape, strict=False)
    )
    if not fits:
        wanted = ["any" if one is None else one for one in shape]
        raise ArtifactFormatError(
            f"{label}: {name} has the shape {list(tensor.shape)}; the card needs {wanted}; restore "
            "the file"
        )
