"""SHA-256 digests of files and of Python packages."""

import hashlib
from functools import cache
from pathlib import Path


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's current content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(package: Path) -> str:
    """Return the SHA-256 of a package's modules, hexadecimal.

    Caches that depend on code use it as a key, so that a change of the code invalidates them.

    Args:
        package: Folder of the package; modules of sub-packages are left out.
    """
    digest = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
