"""``python -m tools.fleetctl``."""

import sys

from tools.fleetctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
