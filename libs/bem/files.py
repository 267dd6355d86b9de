"""Atomic file writes."""

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomic(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file so that readers see the old or the new content, never a part of it.

    The content goes to a temporary file in the same folder, reaches the disk (fsync) and is then
    renamed, which POSIX makes atomic. An error while the content is produced or written leaves the
    old file as it was.

    Args:
        path: File to write; missing folders are created.
        content: Content, or parts of it in order.

    Raises:
        OSError: The folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers of one file apart; opened plainly, it follows the umask.
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
