"""Command that compiles the kernels before their first use: ``python -m bem.engine.native``."""

import argparse
import sys
from pathlib import Path

from bem.engine.native.build import DEFAULT_CACHE, select_kernels


def main() -> None:
    """Compile and test the kernels, and print which ones an engine on this machine uses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder of compiled libraries"
    )
    choice = select_kernels("auto", parser.parse_args().cache)
    sys.stdout.write(f"kernels: {choice.reason}\n")


if __name__ == "__main__":
    main()
