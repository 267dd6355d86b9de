"""Atomic file writes and private folders.

A reader of an atomically written file, also after a crash, finds the old content or the new one.
A private folder can be entered by its owner only, which protects whatever lies in it.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def private_umask() -> Iterator[None]:
    """Make files and sockets that this process creates meanwhile accessible to its user only."""
    previous = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(previous)


def make_private_folder(folder: Path) -> None:
    """Create a folder that only its owner can enter, or close an existing one to all others.

    Args:
        folder: The folder; missing parents are created.

    Raises:
        PermissionError: The folder is a link, another user's, or shared by all as ``/tmp`` is:
            whoever made it could read or replace what is put into it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with private_umask():
        folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(
            f"{folder}: is a link or belongs to another user; remove it or choose another folder"
        )
    if found.st_mode & stat.S_ISVTX or folder == folder.parent:
        raise PermissionError(
            f"{folder}: is shared by all users; choose a folder that holds nothing else"
        )
    folder.chmod(0o700)


def make_private_tree(folder: Path) -> None:
    """Close a folder and everything in it to all other users; links are left as they are.

    Raises:
        PermissionError: The folder cannot be made private.
    """
    make_private_folder(folder)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
