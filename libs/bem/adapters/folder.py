"""An artifact on disk: safetensors and a JSON card that binds them to their base and origin."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bem.digests import file_digest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError


class Card(Protocol):
    """What every card states, a dataclass.

    Attributes:
        base_name: Name of the base model.
        base_digest: SHA-256 of the base model's source.
        tensors_sha256: Hash of the tensor file; filled in when it is written.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def base_name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def base_digest(self) -> str: ...  # noqa: D102 - see the class

    @property
    def tensors_sha256(self) -> str: ...  # noqa: D102 - see the class


C = TypeVar("C", bound=Card)
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class ArtifactFolder(Generic[C]):
    """How one kind of artifact lies in its folder.

    Attributes:
        card: The card's class.
        card_file: The card's name.
        tensors_file: The tensors' name.
    """

    card: type[C]
    card_file: str
    tensors_file: str

    def write(self, folder: Path, card: C, tensors: dict[str, Tensor]) -> C:
        """Write tensors and card, replacing older ones; returns the card with the hash."""
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{self.tensors_file}.{os.getpid()}"
        # Not save: it makes files that their owner alone can read, and a service is another.
        scratch.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        stated = replace(card, tensors_sha256=file_digest(scratch))
        scratch.replace(folder / self.tensors_file)
        self.write_card(folder, stated)
        return stated

    def write_card(self, folder: Path, card: C) -> None:
        """Write the card alone."""
        text = json.dumps(asdict(card), indent=2, sort_keys=True)
        (folder / self.card_file).write_text(text + "\n")

    def read_card(self, folder: Path) -> C:
        """Read the card.

        Raises:
            ArtifactFormatError: It is missing or malformed.
        """
        try:
            stated = json.loads((folder / self.card_file).read_text())
        except FileNotFoundError as err:
            raise ArtifactFormatError(f"{folder.name} has no {self.card_file}") from err
        except (json.JSONDecodeError, UnicodeDecodeError) as err:
            raise ArtifactFormatError(f"{folder.name}/{self.card_file} is not JSON: {err}") from err
        known = {entry.name for entry in fields(self.card)}
        if not isinstance(stated, dict) or set(stated) != known:
            given = set(stated) if isinstance(stated, dict) else set()
            raise ArtifactFormatError(
                f"{folder.name}/{self.card_file}: missing {sorted(known - given)}, "
                f"unknown {sorted(given - known)}"
            )
        return self.card(**stated)

    def stamp(self, folder: Path) -> Stamp:
        """Return what changes with any write to the artifact: places, sizes and times of change."""
        found: list[int] = []
        for name in (self.card_file, self.tensors_file):
            path = folder / name
            if not path.exists():  # whoever reads it says so
                found.append(-1)
                continue
            stat = path.stat()
            # The time of status change cannot be set back, as that of modification can.
            found += stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        return tuple(found)

    def load_tensors(self, folder: Path) -> dict[str, Tensor]:
        """Read the tensors alone.

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
        self, folder: Path, card: C, *, what: str, base_digest: str
    ) -> dict[str, Tensor]:
        """Read the tensors and check what the card promises of them.

        Args:
            folder: Where they lie.
            card: Its card.
            what: What errors call the artifact.
            base_digest: Of the base model that is loaded.

        Raises:
            ArtifactFormatError: The file is missing or malformed.
            ArtifactTamperedError: The tensors are not those of the card.
            BaseMismatchError: It belongs to another base model.
        """
        if card.base_digest != base_digest:
            raise BaseMismatchError(
                f"{what} was trained for base {card.base_digest[:12]} ({card.base_name}); "
                f"loaded is {base_digest[:12]}"
            )
        path = folder / self.tensors_file
        if not path.is_file():
            raise ArtifactFormatError(f"{folder.name} has no {self.tensors_file}")
        if (actual := file_digest(path)) != card.tensors_sha256:
            raise ArtifactTamperedError(
                f"{folder.name}/{self.tensors_file} has hash {actual[:12]}, its card says "
                f"{card.tensors_sha256[:12]}"
            )
        return self.load_tensors(folder)


def version_of(card: Card) -> str:
    """Hash the whole card, which holds the tensors' hash."""
    return hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()
