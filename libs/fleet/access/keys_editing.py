"""Editing of keys files: add, rotate and remove keys; each write is atomic and private."""

import os
from pathlib import Path

import yaml

from fleet.access.keys import KeyEntry, KeysFile, key_digest, new_key, read_keys
from fleet.errors import InvalidArgumentError, NotFoundError

_PRIVATE = 0o600


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner may read it.

    Args:
        path: File to write; its folder exists.
        text: New content.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def write_keys(path: Path, file: KeysFile) -> None:
    """Write a keys file."""
    content = file.model_dump(mode="json", exclude_defaults=True)
    content["version"] = file.version
    write_private(path, yaml.safe_dump(content, sort_keys=False))


def read_or_empty(path: Path) -> KeysFile:
    """Return the content of a keys file; an empty one if it does not exist.

    Raises:
        KeysFileError: The file is not a keys file.
    """
    return read_keys(path) if path.exists() else KeysFile()


def with_key(file: KeysFile, entry: KeyEntry) -> KeysFile:
    """Return the file with one more key, in the place of a key of the same name."""
    others = [key for key in file.keys if key.name != entry.name]
    return _with_entries(file, (*others, entry))


def without_key(file: KeysFile, name: str) -> KeysFile:
    """Return the file without a key.

    Raises:
        NotFoundError: There is no such key.
    """
    _find(file, name)
    return _with_entries(file, tuple(key for key in file.keys if key.name != name))


def rotated(file: KeysFile, name: str) -> tuple[KeysFile, str]:
    """Return the file in which a key has a second hash, and the new key.

    The newest old hash stays valid until ``retired``.

    Raises:
        NotFoundError: There is no such key.
    """
    entry, key = _find(file, name), new_key()
    digests = (key_digest(key), entry.sha256[0])
    return with_key(file, entry.model_copy(update={"sha256": digests})), key


def retired(file: KeysFile, name: str) -> KeysFile:
    """Return the file in which only the newest hash of a key is valid.

    Raises:
        NotFoundError: There is no such key.
    """
    entry = _find(file, name)
    return with_key(file, entry.model_copy(update={"sha256": entry.sha256[:1]}))


def _find(file: KeysFile, name: str) -> KeyEntry:
    for key in file.keys:
        if key.name == name:
            return key
    known = ", ".join(sorted(key.name for key in file.keys)) or "none"
    raise NotFoundError(f"name: there is no key {name!r}; keys: {known}; name one of them")


def _with_entries(file: KeysFile, keys: tuple[KeyEntry, ...]) -> KeysFile:
    try:
        return KeysFile.model_validate(
            {**file.model_dump(), "keys": [k.model_dump() for k in keys]}
        )
    except ValueError as err:
        raise InvalidArgumentError("keys", str(err)) from err
