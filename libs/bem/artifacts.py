"""Artifact folders: safetensors weights bound to a JSON card.

Each trained artifact is a folder with two files. The card states which base model the weights
belong to, how they were trained, the SHA-256 of the tensor file, and the SHA-256 of itself. Reading
refuses a card that does not follow its schema or was edited, weights that do not have the hash,
weights that are not finite, and weights that were trained for another base model. Links are never
followed: the folder may have been filled by someone else.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bem import card_schema
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

TARGET_KINDS = ("o_proj", "down_proj")
"""Target modules that an artifact may adapt in each layer."""
MAX_SCALE = 16.0
"""Largest factor of a low-rank product."""
MAX_MAGNITUDE = 1e3
"""Largest magnitude of a weight. Together with ``MAX_SCALE`` it keeps every state of a model of
finite weights finite: no artifact that passes can produce an overflow."""
MAX_STATE = 1e6
"""Largest magnitude of a statistic of states, which may be in the thousands (Gemma 3: 2,400)."""
STATISTICS = frozenset({"center", "mean", "spread"})
"""Tensors that are statistics of states: states are only standardised by them."""
_MAX_LAYERS, _MAX_RANK = 4096, 4096
_MAX_CARD_BYTES, _MAX_TENSOR_BYTES = 2**20, 2**31
_WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class SealedCard:
    """Fields that the card of every trained artifact states, each with its schema.

    Attributes:
        base_name: Name of the base model.
        base_digest: SHA-256 of the base model's source, hexadecimal.
        feature_layer: Decoder layer whose output the artifact's head reads.
        command: Command line that trained it.
        data_digest: SHA-256 of the training data, hexadecimal.
        seed: Random seed of the training.
        metrics: Measured figures by name.
        tensors_sha256: Hash of the tensor file; filled in when the artifact is written.
        sha256: Hash of all other fields, and through ``tensors_sha256`` of the tensors; filled in
            when the card is written. It is the version of the artifact.
    """

    base_name: str = field(metadata=card_schema.text(256))
    base_digest: str = field(metadata=card_schema.text(64, card_schema.SHA256))
    feature_layer: int = field(metadata=card_schema.integer(0, _MAX_LAYERS - 1))
    command: str = field(metadata=card_schema.text(4096))
    data_digest: str = field(metadata=card_schema.text(64))
    seed: int = field(metadata=card_schema.integer(0, 2**63 - 1))
    metrics: dict[str, Any] = field(default_factory=dict, metadata=card_schema.json_object())
    tensors_sha256: str = field(default="", metadata=card_schema.text(64, card_schema.SHA256))
    sha256: str = field(default="", metadata=card_schema.text(64, card_schema.SHA256))


@dataclass(frozen=True, kw_only=True)
class ArtifactCard(SealedCard):
    """Card of a low-rank artifact.

    Attributes:
        layers: Decoder layers that the artifact adapts.
        kinds: Target modules in each layer, ``o_proj`` and ``down_proj``.
        rank: Rank of the factors.
        scale: Factor s of the low-rank product.
    """

    layers: list[int] = field(metadata=card_schema.ascending_integers(0, _MAX_LAYERS - 1))
    kinds: list[str] = field(metadata=card_schema.distinct_names(TARGET_KINDS))
    rank: int = field(metadata=card_schema.integer(1, _MAX_RANK))
    scale: float = field(metadata=card_schema.number(0, MAX_SCALE))


C = TypeVar("C", bound=SealedCard)
FileStamp = tuple[int, ...]


@dataclass(frozen=True)
class ArtifactFormat(Generic[C]):
    """File names and card type of one kind of artifact.

    Attributes:
        card_type: Dataclass of the card.
        card_file: File name of the card.
        tensors_file: File name of the tensors.
    """

    card_type: type[C]
    card_file: str
    tensors_file: str

    def write(self, folder: Path, card: C, tensors: dict[str, Tensor]) -> C:
        """Write tensors and card, replacing older files, and return the card with its hashes.

        Raises:
            ArtifactFormatError: A field of the card is out of its range.
        """
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        sealed = self._seal(folder, replace(card, tensors_sha256=hashlib.sha256(data).hexdigest()))
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{self.tensors_file}.{os.getpid()}"
        # safetensors' own save_file makes files that only their owner can read, but the service
        # that loads the artifact runs as another user.
        partial.write_bytes(data)
        partial.replace(folder / self.tensors_file)
        return self.write_card(folder, sealed)

    def write_card(self, folder: Path, card: C) -> C:
        """Write the card alone and return it with its hash.

        Raises:
            ArtifactFormatError: A field of the card is out of its range.
        """
        sealed = self._seal(folder, card)
        text = json.dumps(_json_values(sealed), indent=2, sort_keys=True)
        (folder / self.card_file).write_text(text + "\n")
        return sealed

    def read_card(self, folder: Path) -> C:
        """Read the card.

        Raises:
            ArtifactFormatError: The card is missing, malformed, or out of its schema.
            ArtifactTamperedError: The card does not have the hash that it states.
        """
        path = f"{folder.name}/{self.card_file}"
        content = read_regular_file(folder, self.card_file, _MAX_CARD_BYTES)
        values = card_schema.parse_object(content, path)
        card_schema.check_fields(self.card_type, values, path)
        card = self.card_type(**values)
        if card.sha256 != (actual := artifact_version(card)):
            raise ArtifactTamperedError(
                f"{path}: sha256: the card has {actual[:12]} and states {card.sha256[:12]}, so it "
                "was edited; restore the file or train the artifact again"
            )
        return card

    def stamp(self, folder: Path) -> FileStamp:
        """Return a value that changes with every write to the artifact's files.

        It holds inode, size, modification time and status-change time of both files, and -1 for a
        missing file. Comparing stamps is far cheaper than hashing the tensors again.
        """
        stamp: list[int] = []
        for name in (self.card_file, self.tensors_file):
            try:
                found = (folder / name).lstat()
            except OSError:  # reading reports the missing file with a proper error
                stamp.append(-1)
                continue
            # Programs can set the modification time back, but not the status-change time.
            stamp += found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        return tuple(stamp)

    def load_tensors(self, folder: Path) -> dict[str, Tensor]:
        """Read the tensors without checking their hash.

        Raises:
            ArtifactFormatError: The file is missing or malformed.
        """
        return self._parse_tensors(folder, self._read_tensor_file(folder))

    def read_tensors(
        self, folder: Path, card: C, *, label: str, base_digest: str
    ) -> dict[str, Tensor]:
        """Read the tensors and verify the hash and the base model that the card states.

        Args:
            folder: Folder of the artifact.
            card: Card that was read from the folder.
            label: Name of the artifact in error messages.
            base_digest: SHA-256 of the base model that is loaded.

        Raises:
            ArtifactFormatError: The tensor file is missing or malformed, or a weight is not finite
                or too large.
            ArtifactTamperedError: The tensor file does not have the hash on the card.
            BaseMismatchError: The artifact belongs to another base model.
        """
        if card.base_digest != base_digest:
            raise BaseMismatchError(
                f"{label} was trained for base {card.base_digest[:12]} ({card.base_name}); the "
                f"loaded base is {base_digest[:12]}; load the matching base or retrain"
            )
        data = self._read_tensor_file(folder)
        if (actual := hashlib.sha256(data).hexdigest()) != card.tensors_sha256:
            raise ArtifactTamperedError(
                f"{folder.name}/{self.tensors_file} has SHA-256 {actual[:12]}, its card says "
                f"{card.tensors_sha256[:12]}; restore the file or train the artifact again"
            )
        tensors = self._parse_tensors(folder, data)
        for name, tensor in tensors.items():
            limit = MAX_STATE if name.rpartition(".")[2] in STATISTICS else MAX_MAGNITUDE
            check_weights(f"{folder.name}/{self.tensors_file}: {name}", tensor, limit)
        return tensors

    def _seal(self, folder: Path, card: C) -> C:
        sealed = replace(card, sha256=artifact_version(card))
        card_schema.check_fields(
            self.card_type, _json_values(sealed), f"{folder.name}/{self.card_file}"
        )
        return sealed

    def _read_tensor_file(self, folder: Path) -> bytes:
        return read_regular_file(folder, self.tensors_file, _MAX_TENSOR_BYTES)

    def _parse_tensors(self, folder: Path, data: bytes) -> dict[str, Tensor]:
        try:
            return load(data)
        # A header may name any data type, also one that torch or this version does not know.
        except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as err:
            raise ArtifactFormatError(
                f"{folder.name}/{self.tensors_file} is not a safetensors file; restore it"
            ) from err


def read_regular_file(folder: Path, name: str, limit_bytes: int) -> bytes:
    """Read a file of an artifact folder; links, devices and pipes are refused.

    Args:
        folder: Folder of the artifact, itself no link.
        name: File name.
        limit_bytes: Largest allowed size, in bytes.

    Raises:
        ArtifactFormatError: The file is missing, too large, or no regular file.
    """
    label = f"{folder.name}/{name}"
    if folder.is_symlink():
        raise ArtifactFormatError(f"{folder.name} is a link; links are refused; copy the folder")
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer forever.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as err:
        raise ArtifactFormatError(f"{folder.name} has no {name}") from err
    except OSError as err:
        if (folder / name).is_symlink():
            raise ArtifactFormatError(
                f"{label} is a link; links are refused; copy the file"
            ) from err
        raise ArtifactFormatError(f"{label} cannot be read: {err.strerror}") from err
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ArtifactFormatError(f"{label} is no regular file; copy the file")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > limit_bytes:
            raise ArtifactFormatError(
                f"{label} has {found.st_size} bytes; at most {limit_bytes} are allowed"
            )
        return file.read(limit_bytes + 1)


def check_weights(label: str, tensor: Tensor, limit: float = MAX_MAGNITUDE) -> None:
    """Check that a tensor holds finite floating-point numbers of moderate size.

    Args:
        label: Name of the tensor in error messages.
        tensor: Weights of any shape.
        limit: Largest magnitude of a number.

    Raises:
        ArtifactFormatError: The data type is unsupported, or a number is not finite or too large.
    """
    if tensor.dtype not in _WEIGHT_TYPES:
        allowed = ", ".join(str(kind).removeprefix("torch.") for kind in _WEIGHT_TYPES)
        raise ArtifactFormatError(
            f"{label}: the data type is {str(tensor.dtype).removeprefix('torch.')}; use {allowed}"
        )
    if not tensor.numel():
        return
    largest = float(tensor.float().abs().max())  # NaN if any number is
    if not largest <= limit:
        raise ArtifactFormatError(
            f"{label}: its largest magnitude is {largest:g}; weights are finite and at most "
            f"{limit:g}; train the artifact again"
        )


def artifact_version(card: SealedCard) -> str:
    """Return the SHA-256 of the card but its own hash; it covers the tensors through theirs."""
    values = _json_values(card)
    del values["sha256"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _json_values(card: SealedCard) -> dict[str, Any]:
    """Return the fields as they are read back from JSON, where a tuple is a list.

    Optional fields that have their default are left out.
    """
    kept = {
        entry.name: getattr(card, entry.name)
        for entry in fields(card)
        if not card_schema.is_left_out(entry, getattr(card, entry.name))
    }
    try:
        values: dict[str, Any] = json.loads(json.dumps(kept))
    except (TypeError, ValueError, RecursionError) as err:
        raise ArtifactFormatError(f"card: a field cannot be written as JSON: {err}") from err
    return values


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], misfit: str) -> None:
    """Give a module the tensors of an artifact, in float32, and freeze it in evaluation mode.

    Args:
        module: Module of the sizes on the artifact's card.
        tensors: Tensors of the artifact by name.
        misfit: Message of the error if they are not those of the module.

    Raises:
        ArtifactFormatError: A tensor is missing, unknown or of another shape.
    """
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as err:
        raise ArtifactFormatError(misfit) from err
    module.requires_grad_(requires_grad=False)
    module.eval()
