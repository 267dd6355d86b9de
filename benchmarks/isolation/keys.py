"""Keys of the two clients: the fleet divides its work by key, so each client needs its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.access.keys import KeyEntry, key_digest, new_key
from fleet.access.keys_editing import read_or_empty, with_key, without_key, write_keys

CLIENT, ATTACKER = "isolation-client", "isolation-attacker"
# Servers apply a change of the file within a second.
_APPLIED_S = 2.0


@contextmanager
def user_keys(path: Path) -> Iterator[tuple[str, str]]:
    """Add a key for the measured client and one for the attacker, and remove them at the end.

    While they exist, users' calls without a key are refused.

    Args:
        path: Keys file of the fleet.
    """
    keys = {name: new_key() for name in (CLIENT, ATTACKER)}
    file = read_or_empty(path)
    for name, key in keys.items():
        entry = {"name": name, "role": "user", "sha256": key_digest(key)}
        file = with_key(file, KeyEntry.model_validate(entry))
    write_keys(path, file)
    try:
        time.sleep(_APPLIED_S)
        yield keys[CLIENT], keys[ATTACKER]
    finally:
        file = read_or_empty(path)
        for name in keys:
            file = without_key(file, name)
        write_keys(path, file)
