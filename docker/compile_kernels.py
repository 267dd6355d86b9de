"""Compilation of the engine's kernels at image build time."""

import shutil
import sys
from pathlib import Path

from bem.engine.native.build import COMPILER, VARIANTS, find_or_compile, select_kernels


def compile_kernels(cache: Path) -> str:
    """Compile all variants of the kernels in ``cache``: the image may run on another machine.

    Returns:
        What an engine on this machine would use; that variant is verified too.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        find_or_compile(cache, shutil.which(COMPILER), variant)
    return select_kernels("auto", cache).reason


if __name__ == "__main__":
    sys.stdout.write(f"kernels: {compile_kernels(Path(sys.argv[1]))}\n")
