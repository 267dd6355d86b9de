"""Atomic file writes: a reader, also after a crash, finds the old content or the new one."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace the content of a file atomically and durably.

    The content goes to a draft beside the file, is flushed to disk, and is renamed over the file;
    then the folder is flushed, because a rename is only durable once the folder is.

    Args:
        path: File to write; its folder exists.
        content: New content; text is encoded as UTF-8.
    """
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as ``write_atomic`` does."""
    write_atomic(path, json.dumps(value, indent=1))
