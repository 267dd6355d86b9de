"""Entry point of the local fleet: ``python -m bem_fleet.cli.local up|down|status|logs``.

It is ``fleetctl`` under another name, for callers that know an interpreter but no ``PATH``.
"""

import sys

from bem_fleet.cli.fleetctl import main

sys.exit(main())
