"""Puts the engine's compiled kernels into an image."""

import sys
from pathlib import Path

from bem.engine.native.build import select_kernels


def compiled(cache: Path) -> str:
    """Compile into ``cache``, prove what was made, and return what an engine here would use."""
    cache.mkdir(parents=True, exist_ok=True)
    return select_kernels("auto", cache).reason


if __name__ == "__main__":
    sys.stdout.write(f"kernels: {compiled(Path(sys.argv[1]))}\n")
