"""Keys of users: the fleet divides its work by key, so each client of a benchmark needs its own."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fleet.access.keys import KeyEntry, key_digest, new_key
from fleet.access.keys_editing import read_or_empty, with_key, without_key, write_keys

# Servers apply a change of the file within a second.
_APPLIED_S = 2.0


@contextmanager
def user_keys(path: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Add a key for each name, yield the keys in order, and remove them at the end.

    While they exist, users' calls without a key are refused.

    Args:
        path: Keys file of the fleet.
        names: Names of the keys.
    """
    keys = {name: new_key() for name in names}
    file = read_or_empty(path)
    for name, key in keys.items():
        entry = {"name": name, "role": "user", "sha256": key_digest(key)}
        file = with_key(file, KeyEntry.model_validate(entry))
    write_keys(path, file)
    try:
        time.sleep(_APPLIED_S)
        yield list(keys.values())
    finally:
        file = read_or_empty(path)
        for name in keys:
            file = without_key(file, name)
        write_keys(path, file)
