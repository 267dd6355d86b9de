"""Writing and checking of generated files, for all generators of this folder."""

import sys
from collections.abc import Mapping
from pathlib import Path

from bem_fleet.checkout import ROOT


def write_or_check(files: Mapping[Path, str], command: str) -> int:
    """Write files, or with ``--check`` among the arguments compare them.

    Args:
        files: Content by file.
        command: Command that writes them, for the message.

    Returns:
        0; with ``--check`` 1 if a file is not up to date.
    """
    if "--check" not in sys.argv:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return 0
    stale = [file for file, text in files.items() if not file.exists() or file.read_text() != text]
    for file in stale:
        name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        print(f"{name}: not up to date; run `{command}`", file=sys.stderr)
    return 1 if stale else 0
