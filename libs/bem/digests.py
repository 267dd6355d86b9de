"""SHA-256 of files, and of the code that makes an artifact."""

import hashlib
from functools import cache
from pathlib import Path


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 as it is now, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(package: Path) -> str:
    """Return the SHA-256 of a package's modules: what other code made is made again.

    Args:
        package: The folder; modules of sub-packages do not count.
    """
    whole = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
