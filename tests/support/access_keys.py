"""Keys file with a key of every role, for servers of a test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.access.keys import KeyEntry, KeysFile, key_digest, new_key
from fleet.access.keys_editing import write_keys, write_private
from fleet.access.own_key import Metadata, bearer
from fleet.wire import AUTHORIZATION


@dataclass(frozen=True)
class AccessKeys:
    """Keys of a test.

    Attributes:
        file: Keys file.
        keys: Keys by name.
    """

    file: Path
    keys: dict[str, str]

    def metadata(self, name: str) -> Metadata:
        """Return the gRPC metadata of a call with a key."""
        return ((AUTHORIZATION, bearer(self.keys[name])),)

    def headers(self, name: str) -> dict[str, str]:
        """Return the HTTP headers of a request with a key."""
        return dict(self.metadata(name))

    def path(self, name: str) -> Path:
        """Return the file with a key alone."""
        return self.file.with_name(f"{name}.key")


def write_access_keys(folder: Path, *entries: dict[str, Any]) -> AccessKeys:
    """Write a keys file with the keys ``service`` and ``operator`` and those of the entries.

    Args:
        folder: Folder of the files; it is made.
        entries: Further entries, without hashes; their role is user unless stated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    standard = [{"name": role, "role": role} for role in ("service", "operator")]
    rows, keys = [], {}
    for entry in (*standard, *entries):
        key = keys[entry["name"]] = new_key()
        write_private(folder / f"{entry['name']}.key", f"{key}\n")
        row = {"role": "user", **entry, "sha256": key_digest(key)}
        rows.append(KeyEntry.model_validate(row))
    write_keys(folder / "keys.yaml", KeysFile(keys=tuple(rows)))
    return AccessKeys(folder / "keys.yaml", keys)
