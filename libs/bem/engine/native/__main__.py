"""Compile the kernels ahead of their first use: ``python -m bem.engine.native [--cache DIR]``."""

import argparse
import sys
from pathlib import Path

from bem.engine.native.build import CACHE, choose


def main() -> None:
    """Compile, check and say what an engine on this machine will use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    sys.stdout.write(f"kernels: {choose('auto', parser.parse_args().cache).reason}\n")


if __name__ == "__main__":
    main()
