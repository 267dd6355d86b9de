"""Console entry point of the local fleet: ``python -m bem_fleet.cli.local up|down|status|logs``."""

import sys

from bem_fleet.cli.local.commands import main

sys.exit(main())
