"""Credentials of the local fleet: passwords of Redis's users and secret keys, made at random once.

Each is a file of mode 0600 in the folder ``secrets`` of the run folder. A file that exists is kept,
so that a restart finds the same password; a removed one is made anew at the next start.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from fleet.redis_acl import acl_file

_SECRET_BYTES = 32


class Credentials:
    """Passwords and keys in one folder.

    Args:
        folder: The folder; only its owner can enter it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ensure(self, users: Iterable[str], keys: Iterable[str]) -> None:
        """Make the password of each Redis user and each key that does not exist yet."""
        for name in (*(f"redis-{user}" for user in users), *(f"{key}.key" for key in keys)):
            _create_once(self._folder / name, secrets.token_hex(_SECRET_BYTES))

    def redis_password(self, user: str) -> str:
        """Return a Redis user's password; empty before the first start."""
        try:
            return (self._folder / f"redis-{user}").read_text().strip()
        except FileNotFoundError:
            return ""

    def key_file(self, name: str) -> Path:
        """Return the file of a key; it exists after the first start."""
        return self._folder / f"{name}.key"

    def redis_acl(self, rules: Mapping[str, str]) -> str:
        """Return Redis's ``aclfile`` for users whose passwords exist."""
        return acl_file(rules, {user: self.redis_password(user) for user in rules})


def _create_once(path: Path, content: str) -> None:
    """Write a private file unless it exists; one that a killed start left empty is replaced."""
    if path.exists() and path.stat().st_size:
        return
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{content}\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
