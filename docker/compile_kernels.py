"""Compilation of the engine's kernels at image build time."""

import sys
from pathlib import Path

from bem.engine.native.build import select_kernels


def compile_kernels(cache: Path) -> str:
    """Compile and verify the kernels in ``cache``; return what an engine here would use."""
    cache.mkdir(parents=True, exist_ok=True)
    return select_kernels("auto", cache).reason


if __name__ == "__main__":
    sys.stdout.write(f"kernels: {compile_kernels(Path(sys.argv[1]))}\n")
