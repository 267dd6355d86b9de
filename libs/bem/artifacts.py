"""Artifact folders: safetensors weights bound to a JSON card.

Each trained artifact is a folder with two files. The card states which base model the weights
belong to, how they were trained and the SHA-256 of the tensor file. Reading refuses weights that
do not have that hash, and weights that were trained for another base model.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bem.digests import file_digest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError


@dataclass(frozen=True, kw_only=True)
class ArtifactCard:
    """Fields that the card of every trained low-rank artifact states.

    Attributes:
        base_name: Name of the base model.
        base_digest: SHA-256 of the base model's source, hexadecimal.
        layers: Decoder layers that the artifact adapts.
        kinds: Target modules in each layer, ``o_proj`` and ``down_proj``.
        rank: Rank of the factors.
        scale: Factor s of the low-rank product.
        feature_layer: Decoder layer whose output the artifact's head reads.
        command: Command line that trained it.
        data_digest: SHA-256 of the training data, hexadecimal.
        seed: Random seed of the training.
        metrics: Measured figures by name.
        tensors_sha256: Hash of the tensor file; filled in when the artifact is written.
    """

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


C = TypeVar("C", bound=ArtifactCard)
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
        """Write tensors and card, replacing older files, and return the card with the hash."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{self.tensors_file}.{os.getpid()}"
        # safetensors' own save_file makes files that only their owner can read, but the service
        # that loads the artifact runs as another user.
        partial.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        hashed_card = replace(card, tensors_sha256=file_digest(partial))
        partial.replace(folder / self.tensors_file)
        self.write_card(folder, hashed_card)
        return hashed_card

    def write_card(self, folder: Path, card: C) -> None:
        """Write the card alone."""
        text = json.dumps(asdict(card), indent=2, sort_keys=True)
        (folder / self.card_file).write_text(text + "\n")

    def read_card(self, folder: Path) -> C:
        """Read the card.

        Raises:
            ArtifactFormatError: The card is missing or malformed.
        """
        path = f"{folder.name}/{self.card_file}"
        try:
            values = json.loads((folder / self.card_file).read_text())
        except FileNotFoundError as err:
            raise ArtifactFormatError(f"{folder.name} has no {self.card_file}") from err
        except (json.JSONDecodeError, UnicodeDecodeError) as err:
            raise ArtifactFormatError(f"{path} is not JSON: {err}") from err
        expected = {entry.name for entry in fields(self.card_type)}
        if not isinstance(values, dict) or set(values) != expected:
            present = set(values) if isinstance(values, dict) else set()
            raise ArtifactFormatError(
                f"{path}: fields do not match {self.card_type.__name__}; "
                f"missing {sorted(expected - present)}, unknown {sorted(present - expected)}"
            )
        return self.card_type(**values)

    def stamp(self, folder: Path) -> FileStamp:
        """Return a value that changes with every write to the artifact's files.

        It holds inode, size, modification time and status-change time of both files, and -1 for a
        missing file. Comparing stamps is far cheaper than hashing the tensors again.
        """
        stamp: list[int] = []
        for name in (self.card_file, self.tensors_file):
            path = folder / name
            if not path.exists():  # reading reports the missing file with a proper error
                stamp.append(-1)
                continue
            stat = path.stat()
            # Programs can set the modification time back, but not the status-change time.
            stamp += stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        return tuple(stamp)

    def load_tensors(self, folder: Path) -> dict[str, Tensor]:
        """Read the tensors without checking their hash.

        Raises:
            ArtifactFormatError: The file is malformed.
        """
        try:
            return load_file(folder / self.tensors_file)
        except SafetensorError as err:
            raise ArtifactFormatError(
                f"{folder.name}/{self.tensors_file} is not a safetensors file"
            ) from err

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
            ArtifactFormatError: The tensor file is missing or malformed.
            ArtifactTamperedError: The tensor file does not have the hash on the card.
            BaseMismatchError: The artifact belongs to another base model.
        """
        if card.base_digest != base_digest:
            raise BaseMismatchError(
                f"{label} was trained for base {card.base_digest[:12]} ({card.base_name}); the "
                f"loaded base is {base_digest[:12]}; load the matching base or retrain"
            )
        path = folder / self.tensors_file
        if not path.is_file():
            raise ArtifactFormatError(f"{folder.name} has no {self.tensors_file}")
        if (actual := file_digest(path)) != card.tensors_sha256:
            raise ArtifactTamperedError(
                f"{folder.name}/{self.tensors_file} has SHA-256 {actual[:12]}, its card says "
                f"{card.tensors_sha256[:12]}; restore the file or train the artifact again"
            )
        return self.load_tensors(folder)


def artifact_version(card: ArtifactCard) -> str:
    """Return the SHA-256 of the whole card, which covers the tensors through their hash."""
    return hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
